"""Records a second: the engine beside the raw loop, and beside what else one could do, on the same records."""

import asyncio
import statistics
import subprocess
import sys
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from activities.temporal import connect
from bench import toys
from bench.parts import Histories, Stage, Worker, histories
from bench.run import run_job

SECONDS = {0.1: 20.0, 0.5: 10.0}
"""How long the raw loop's answers take in all: its beginning and end should weigh little."""
AT_ONCE = 500_000
"""Records where answers come at once: some five seconds."""
CONCURRENCIES = (1, 4, 8)


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rounds: int = 5
    at_once: int = AT_ONCE
    seconds: Mapping[float, float] = field(default_factory=lambda: SECONDS)
    by_record: int = 1_000
    by_batch: int = 10_000
    scripted: int = 100_000
    scripted_records: int = 1_000


QUICK = Sizes(1, 4_000, {0.1: 0.5}, 100, 400, 1_000, 50)


async def at_once(stage: Stage, sizes: Sizes) -> list[dict[str, Any]]:
    """Answers at once: a line for each way and concurrency, medians of all rounds, and the ratio to the raw loop."""
    return await _measure(stage, sizes, (0.0,))


async def answers(stage: Stage, sizes: Sizes) -> list[dict[str, Any]]:
    """The same where answers take their time."""
    return await _measure(stage, sizes, sizes.seconds)


async def _measure(stage: Stage, sizes: Sizes, latencies: Iterable[float]) -> list[dict[str, Any]]:
    lines = []
    for latency in latencies:
        url = stage.simulator(f"simulator-{latency}", latency=latency)
        for concurrency in CONCURRENCIES:
            records = int(sizes.seconds[latency] * 200 * concurrency / latency) if latency else sizes.at_once
            lines += await _side_by_side(stage, url, latency, concurrency, records, sizes.rounds)
    return lines


async def _side_by_side(
    stage: Stage, url: str, latency: float, concurrency: int, records: int, rounds: int
) -> list[dict[str, Any]]:
    file = stage.config(f"speed-{latency}-{concurrency}", url, stage.source(records), concurrency=concurrency)
    config = await stage.set_up(file)
    rates: dict[str, list[float]] = defaultdict(list)
    ratios = []
    # Answers that take their time vary little; at once, the machine's noise is in every figure.
    for _ in range(rounds if not latency else min(rounds, 3)):
        with stage.worker(file) as worker:
            raw = raw_loop(file)
            measured = await run_job(config, worker, "items")
        rates["raw loop"].append(records / raw)
        rates["engine"].append(records / measured.history.seconds)
        ratios.append(raw / measured.history.seconds)
    ideal = 200 * concurrency / latency if latency else None
    return [
        {
            "way": way,
            "answer_seconds": latency,
            "concurrency": concurrency,
            "records": records,
            "records_per_second": round(statistics.median(found)),
            "of_raw": round(statistics.median(ratios), 3) if way == "engine" else 1.0,
            "of_ideal": round(statistics.median(found) / ideal, 3) if ideal else None,
            "rounds": [round(rate) for rate in found],
            **(
                _of_temporal(measured.history, measured.heartbeats, measured.peak_mb, records)
                if way == "engine"
                else {}
            ),
        }
        for way, found in rates.items()
    ]


async def others(stage: Stage, sizes: Sizes) -> list[dict[str, Any]]:
    """The toys and the scripts, answers at once; smaller numbers of records, since they take their time."""
    url = stage.simulator("simulator-others")
    lines = [await _limit(stage, url, sizes)]
    for name, workflow, records in (
        ("one activity a record, 50 in flight", toys.RecordByRecord, sizes.by_record),
        ("a batch as an activity's input", toys.BatchByBatch, sizes.by_batch),
    ):
        file = stage.config(f"toy-{records}", url, stage.source(records))
        found = []
        for _ in range(min(sizes.rounds, 3)):
            history, peak = await _toy(stage, file, workflow)
            found.append(records / history.seconds)
        lines.append(_line(name, records, found) | _of_temporal(history, 0, peak, records))
    for name, way, records in (
        ("simple-salesforce, 200 a call", "batches", sizes.scripted),
        ("simple-salesforce, record by record", "records", sizes.scripted_records),
    ):
        command = [sys.executable, "-m", "bench.simple", stage.source(records), url, way]
        found = [records / float(subprocess.check_output(command)) for _ in range(min(sizes.rounds, 3))]
        lines.append(_line(name, records, found))
    return lines


def raw_loop(file: Path) -> float:
    """Seconds of the raw loop over a configuration's job."""
    return float(subprocess.check_output([sys.executable, "-m", "bench.raw_loop", str(file), "items"]))


async def _limit(stage: Stage, url: str, sizes: Sizes) -> dict[str, Any]:
    """What the simulator itself takes: bodies made beforehand, by bare sockets, eight at a time."""
    records = sizes.at_once
    command = [sys.executable, "-m", "bench.simulator_limit", url, str(records // 200)]
    found = [records / float(subprocess.check_output(command)) for _ in range(min(sizes.rounds, 3))]
    return _line("the simulator's own limit", records, found)


async def _toy(stage: Stage, file: Path, workflow: Any) -> tuple[Histories, float]:
    name = f"worker-{file.stem}"
    pid = stage.processes.start(name, [sys.executable, "-m", "bench.toys", str(file)])
    try:
        client = await connect()
        handle = await client.start_workflow(workflow.run, "", id=f"toy-{uuid.uuid4()}", task_queue=toys.TASK_QUEUE)
        await handle.result()
        assert handle.first_execution_run_id is not None
        return await histories(client, handle.id, handle.first_execution_run_id), Worker(pid, 0).peak_mb
    finally:
        await asyncio.to_thread(stage.processes.stop, name)


def _line(way: str, records: int, found: list[float]) -> dict[str, Any]:
    return {
        "way": way,
        "answer_seconds": 0.0,
        "records": records,
        "records_per_second": round(statistics.median(found)),
        "rounds": [round(rate) for rate in found],
    }


def _of_temporal(history: Histories, heartbeats: int, peak_mb: float, records: int) -> dict[str, Any]:
    return {
        "events": history.events,
        "history_bytes": history.bytes,
        "actions": history.actions + heartbeats,
        "actions_per_million": round((history.actions + heartbeats) * 1_000_000 / records),
        "peak_mb": round(peak_mb),
    }
