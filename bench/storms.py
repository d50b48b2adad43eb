"""Every record refused: what it costs to keep each one's row, and to export them all again."""

import asyncio
import statistics
import time
from typing import Any

import httpx
from sqlalchemy.engine import make_url

from bench.parts import CONNECTION, Stage
from bench.run import run_job, run_reexport
from crm_export.config import Config
from crm_export.model import OrderValue, Position, Refusal, RunRef
from crm_export.store import Store

CODES = (
    "FIELD_CUSTOM_VALIDATION_EXCEPTION",
    "STRING_TOO_LONG",
    "REQUIRED_FIELD_MISSING",
    "DUPLICATE_VALUE",
    "INVALID_EMAIL_ADDRESS",
)
_CALMS: dict[str, tuple[str, ...]] = {
    "none refused": (),
    "all refused, one code": CODES[:1],
    "all refused, five codes": CODES,
}
_ROWS_A_WRITE = 2_000
_LATENCIES = (0.0, 0.1)


async def measure(stage: Stage, records: int, rounds: int) -> list[dict[str, Any]]:
    """Pause off, concurrency 8, answers at once and after 100 ms, on both kinds of store."""
    with stage.postgresql() as server:
        return [
            await _on(stage, kind, url, records, rounds, latency)
            for kind, url in (("sqlite", None), ("postgresql", server))
            for latency in _LATENCIES
        ]


async def _on(
    stage: Stage, kind: str, store_url: str | None, records: int, rounds: int, latency: float
) -> dict[str, Any]:
    url = stage.simulator(f"simulator-storm-{kind}-{latency}", latency=latency)
    rates: dict[str, list[float]] = {name: [] for name in _CALMS}
    reexports: dict[str, dict[str, Any]] = {}
    for number in range(rounds):
        for name, codes in _CALMS.items():
            run = f"storm-{kind}-{number}-{len(codes)}-{latency:.0e}"
            file = stage.config(
                run,
                url,
                stage.source(records),
                store=await _database(store_url, run) if store_url else None,
                concurrency=8,
                connection={"pause_on_error": False},
            )
            config = await stage.set_up(file)
            _refuse(url, codes)
            with stage.worker(file) as worker:
                measured = await run_job(config, worker, "items")
                rates[name].append(records / measured.history.seconds)
                open_errors = _open(config)
                assert open_errors == (records if codes else 0), open_errors
                if not latency and number == 0 and len(codes) == 1:
                    for outcome, still in (("refused again", codes), ("exported", ())):
                        _refuse(url, still)
                        again = await run_reexport(config, worker, CONNECTION)
                        assert _open(config) == (records if still else 0)
                        reexports[outcome] = {
                            "records_per_second": round(records / again.history.seconds),
                            "executions": again.history.executions,
                            "largest_history_events": again.history.largest,
                            "history_bytes": again.history.bytes,
                            "peak_mb": round(again.peak_mb),
                        }
    calm = statistics.median(rates["none refused"])
    return {
        "store": kind,
        "answer_seconds": latency,
        "records": records,
        "runs": [
            {
                "case": name,
                "records_per_second": round(statistics.median(found)),
                "of_none_refused": round(statistics.median(found) / calm, 2),
            }
            for name, found in rates.items()
        ],
        "store_rows_per_second": None if latency else round(await _rows_alone(stage, kind, store_url, records)),
        "reexport": reexports,
    }


async def _rows_alone(stage: Stage, kind: str, store_url: str | None, records: int) -> float:
    """The store by itself: refused rows in the transactions that move the position."""
    url = await _database(store_url, "rows_alone") if store_url else f"sqlite:///{stage.folder}/rows-alone.db"
    store = Store(url)
    store.migrate()
    run = RunRef(connection=CONNECTION, job="items", run_id="bench", workflow_id="bench")
    store.runs.begin(run, first_position=lambda position, completed: None)
    ledger = store.runs.claim(run, "Account")
    refusal = Refusal(code=CODES[0], message="refused by the fast path", fields=("Name",))
    began = time.perf_counter()
    for start in range(0, records, _ROWS_A_WRITE):
        refused = {f"K{i:08d}": refusal for i in range(start, start + _ROWS_A_WRITE)}
        position = Position(key=OrderValue.of(f"K{start + _ROWS_A_WRITE - 1:08d}"))
        await asyncio.to_thread(ledger.advance, position, exported=(), refused=refused)
    seconds = time.perf_counter() - began
    store.close()
    return records / seconds


def _refuse(url: str, codes: tuple[str, ...]) -> None:
    httpx.put(f"{url}/simulator/refuse", json=list(codes)).raise_for_status()


def _open(config: Config) -> int:
    store = Store(config.store)
    try:
        return store.errors.count_open(CONNECTION)
    finally:
        store.close()


async def _database(server: str, name: str) -> str:
    """An empty database of that name."""
    import psycopg

    name = name.replace("-", "_")
    async with await psycopg.AsyncConnection.connect(server, autocommit=True) as connection:
        await connection.execute(f'CREATE DATABASE "{name}"'.encode())
    return make_url(server).set(database=name).render_as_string(hide_password=False)
