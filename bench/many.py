"""Many exports on one worker: what paused ones cost, how running ones share it, and whether a busy customer starves
the others."""

import asyncio
import contextlib
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
from temporalio.client import Client
from temporalio.service import RPCError

from activities.temporal import connect
from bench.parts import Stage, Worker, calls
from control.exports import Exports, exports
from crm_export.config import Config

_ANSWER = 0.5
_CALL = 200
_STARTS_AT_ONCE = 10
_REFUSE_ALL = {"kind": "validation", "field": "Name", "matches": ".", "message": "no"}


async def measure(stage: Stage, paused: int, running: int, seconds: float, records: int) -> dict[str, Any]:
    """``paused`` exports on 25 connections; then ``running`` ones beside them on 10 others, ``records`` each. Both are
    watched for ``seconds``, the latter while all of them are under way."""
    refusing = stage.simulator("simulator-refusing", fast=False)
    async with httpx.AsyncClient(base_url=refusing) as org:
        (await org.put("/simulator/rules/all", json=_REFUSE_ALL)).raise_for_status()
    accepting = stage.simulator("simulator-accepting", latency=_ANSWER)
    stuck = {f"p{i}": (refusing, [f"p{i}-{j}" for j in range(paused // 25)]) for i in range(25)}
    moving = {f"r{i}": (accepting, [f"r{i}-{j}" for j in range(running // 10)]) for i in range(10)}
    file = stage.config(
        "many", accepting, stage.source(records), jobs={**stuck, **moving}, retry={"initial": "1h", "maximum": "1h"}
    )
    config = await stage.set_up(file)
    client = await connect()
    with stage.worker(file) as worker:
        async with exports(config) as facade:
            alone_mb = worker.resident_mb
            await _start(facade, config, _names(stuck))
            await _until_paused(client, len(_names(stuck)))
            await asyncio.sleep(5)
            paused_mb = worker.resident_mb
            idle = await _share_of_a_core(worker, seconds)
            runs = await _start(facade, config, _names(moving))
            await asyncio.sleep(_ANSWER)
            before = await calls(accepting)
            busy = await _share_of_a_core(worker, seconds)
            rate = (await calls(accepting) - before) * _CALL / seconds
            await asyncio.gather(*(facade.result(handle) for handle in runs))
            peak_mb = worker.peak_mb
    return {
        "paused": len(_names(stuck)),
        "idle_percent_of_a_core": round(100 * idle, 2),
        "worker_mb": {"alone": round(alone_mb), "with all paused": round(paused_mb), "peak": round(peak_mb)},
        "running": len(_names(moving)),
        "records_per_second": round(rate),
        "of_ideal": round(rate / (len(_names(moving)) * _CALL / _ANSWER), 3),
        "percent_of_a_core": round(100 * busy),
    }


async def fairness(stage: Stage, busy: int, others: int, records: int) -> dict[str, Any]:
    """A customer with more exports than the worker has places, and others with one each, started after it: how long
    theirs take, beside how long they take alone."""
    url = stage.simulator("simulator-fair", latency=_ANSWER)
    crowd = {"busy": (url, [f"busy-{i}" for i in range(busy)])}
    few = {f"other{i}": (url, [f"other{i}-0"]) for i in range(others)}
    file = stage.config("fair", url, stage.source(records), jobs={**crowd, **few})
    alone = await _times(stage, file, _names(few), ())
    beside = await _times(stage, file, _names(few), _names(crowd))
    return {
        "busy_exports": busy,
        "others": others,
        "records_each": records,
        "seconds_alone": round(statistics.median(alone), 1),
        "seconds_beside_busy": round(statistics.median(beside), 1),
        "slowest_beside_busy": round(max(beside), 1),
    }


async def _times(stage: Stage, file: Path, names: list[str], crowd: Iterable[str]) -> list[float]:
    config = await stage.set_up(file)
    with stage.worker(file):
        async with exports(config) as facade:
            others = await _start(facade, config, crowd)
            running = await _start(facade, config, names)
            await asyncio.gather(*(facade.result(handle) for handle in running))
            described = [await handle.describe() for handle in running]
            for handle in others:
                with contextlib.suppress(RPCError):  # It may have ended.
                    await handle.terminate()
    return [(run.close_time - run.start_time).total_seconds() for run in described if run.close_time]


async def _start(facade: Exports, config: Config, names: Iterable[str]) -> list[Any]:
    some = asyncio.Semaphore(_STARTS_AT_ONCE)

    async def start(name: str) -> Any:
        async with some:
            return (await facade.run(config.jobs[name], full=True)).handle

    return list(await asyncio.gather(*(start(name) for name in names)))


async def _until_paused(client: Client, count: int) -> None:
    query = 'WorkflowType="ExportWorkflow" AND ExportState="Paused" AND ExecutionStatus="Running"'
    while (await client.count_workflows(query)).count < count:
        await asyncio.sleep(0.2)


async def _share_of_a_core(worker: Worker, seconds: float) -> float:
    began, cpu = time.perf_counter(), worker.cpu_seconds
    await asyncio.sleep(seconds)
    return (worker.cpu_seconds - cpu) / (time.perf_counter() - began)


def _names(jobs: dict[str, tuple[str, list[str]]]) -> list[str]:
    return [name for _, names in jobs.values() for name in names]
