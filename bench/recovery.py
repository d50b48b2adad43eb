"""``kill -9`` of the worker in the midst of an export: how long until the next write, and what is sent twice."""

import asyncio
import os
import signal
import time
from typing import Any

from bench.parts import Stage, calls
from control.exports import exports

_ANSWER = 0.1
_RECORDS_A_CALL = 200


async def measure(stage: Stage, heartbeats: tuple[str, ...], rounds: int, records: int) -> list[dict[str, Any]]:
    """A new worker is there at once; what takes its time is to believe the old one dead."""
    lines = []
    for heartbeat in heartbeats:
        seconds, twice = [], []
        for number in range(rounds):
            took, again = await _killed_once(stage, f"recovery-{heartbeat}-{number}", heartbeat, records)
            seconds.append(took)
            twice.append(again)
        lines.append(
            {
                "heartbeat": heartbeat,
                "kills": rounds,
                "seconds_to_next_write": [round(took, 1) for took in sorted(seconds)],
                "records_sent_twice": sorted(twice),
                "seconds_of_answers_sent_twice": round(max(twice) * _ANSWER / _RECORDS_A_CALL, 1),
            }
        )
    return lines


async def _killed_once(stage: Stage, name: str, heartbeat: str, records: int) -> tuple[float, int]:
    url = stage.simulator(f"simulator-{name}", latency=_ANSWER)
    file = stage.config(name, url, stage.source(records), heartbeat=heartbeat)
    config = await stage.set_up(file)
    async with exports(config) as facade:
        with stage.worker(file) as worker:
            running = await facade.run(config.jobs["items"])
            while await calls(url) * _RECORDS_A_CALL < records / 2:
                await asyncio.sleep(0.01)
            os.kill(worker.pid, signal.SIGKILL)
            killed = time.perf_counter()
        with stage.worker(file):
            known = await calls(url)
            while await calls(url) == known:
                await asyncio.sleep(0.01)
            took = time.perf_counter() - killed
            await facade.result(running.handle)
    return took, await calls(url) * _RECORDS_A_CALL - records
