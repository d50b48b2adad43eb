"""What grows with the number of records, and what does not; and what a long export costs in Temporal actions."""

import statistics
from collections.abc import Iterable
from typing import Any

from bench.parts import Stage
from bench.run import Measured, run_job

SIZES = (10_000, 100_000, 1_000_000)
_LONG_ANSWER = 0.5


async def measure(stage: Stage, sizes: tuple[int, ...], rounds: int) -> list[dict[str, Any]]:
    """Answers at once, concurrency 8, a fresh worker each time: medians."""
    url = stage.simulator("simulator-growth")
    lines = []
    for records in sizes:
        file = stage.config(f"growth-{records}", url, stage.source(records), concurrency=8)
        config = await stage.set_up(file)
        runs: list[Measured] = []
        for _ in range(rounds):
            with stage.worker(file) as worker:
                runs.append(await run_job(config, worker, "items"))
        lines.append(
            {
                "records": records,
                "records_per_second": _median(records / run.history.seconds for run in runs),
                "executions": max(run.history.executions for run in runs),
                "events": _median(run.history.events for run in runs),
                "largest_history_events": max(run.history.largest for run in runs),
                "history_bytes": _median(run.history.bytes for run in runs),
                "actions": _median(run.actions for run in runs),
                "peak_mb": _median(run.peak_mb for run in runs),
            }
        )
    return lines


async def actions(stage: Stage, sizes: tuple[int, int], latency: float = _LONG_ANSWER) -> dict[str, Any]:
    """Temporal actions where answers take their time, concurrency 1: two sizes, and the line through them at a million
    records. Each heartbeat that reached the server is one."""
    url = stage.simulator("simulator-actions", latency=latency)
    found = []
    for records in sizes:
        file = stage.config(f"actions-{records}", url, stage.source(records), concurrency=1)
        config = await stage.set_up(file)
        with stage.worker(file) as worker:
            found.append(await run_job(config, worker, "items"))
    few, many = found
    a_record = (many.actions - few.actions) / (sizes[1] - sizes[0])
    return {
        "answer_seconds": latency,
        "runs": [
            {
                "records": records,
                "seconds": round(run.history.seconds),
                "actions": run.actions,
                "heartbeats": run.heartbeats,
            }
            for records, run in zip(sizes, found, strict=True)
        ],
        "actions_per_million": round(many.actions + a_record * (1_000_000 - sizes[1])),
    }


def _median(values: Iterable[float]) -> int:
    return round(statistics.median(values))
