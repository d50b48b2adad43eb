"""How soon a pause is seen, and how soon an operator's word takes effect: p50 and p99 of many samples."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from temporalio.client import Client, WorkflowHandle

from activities.temporal import connect
from bench.parts import CONNECTION, Stage, percentile
from control.exports import exports

_CODES = ("FIELD_CUSTOM_VALIDATION_EXCEPTION", "FIELD_INTEGRITY_EXCEPTION")


async def measure(stage: Stage, samples: int) -> dict[str, Any]:
    """Every record is refused, with one code and another in turn: each release ends at the next record."""
    url = stage.simulator("simulator-latency", fast=False)
    config = stage.config("latency", url, stage.source(10_000))
    loaded = await stage.set_up(config)
    async with httpx.AsyncClient(base_url=url) as org:
        for name, code, digits in (("even", _CODES[0], "[02468]$"), ("odd", _CODES[1], "[13579]$")):
            rule = {"kind": "validation", "field": "Name", "matches": digits, "code": code, "message": "no"}
            (await org.put(f"/simulator/rules/{name}", json=rule)).raise_for_status()
        with stage.worker(config):
            client = await connect()
            async with exports(loaded) as facade:
                running = await facade.run(loaded.jobs["items"])
            run: WorkflowHandle[Any, Any] = client.get_workflow_handle(running.handle.id)
            codes = itertools.cycle(_CODES)
            await _paused(client, next(codes))
            paused, released, retried = [], [], []
            for _ in range(samples):
                await _waiting(run)
                began, call = await _next_call(org, lambda: run.signal("skip_record"))
                released.append(call - began)
                paused.append(await _paused(client, next(codes)) - call)
            for _ in range(samples):
                await _waiting(run)
                began, call = await _next_call(org, lambda: run.signal("retry_now"))
                retried.append(call - began)
            await run.terminate()
    return {
        "samples": samples,
        "milliseconds": {
            name: {f"p{p}": round(percentile(found, p) * 1000, 1) for p in (50, 99)}
            for name, found in (
                ("refusal to ExportState=Paused in the list", paused),
                ("release signal to the next call", released),
                ("retry_now signal to the next call", retried),
            )
        },
    }


async def _waiting(run: WorkflowHandle[Any, Any]) -> None:
    """Until the held record's first attempt is over, so that the next call is the one that is asked for."""
    while True:
        pending = (await run.describe()).raw_description.pending_activities
        if any(activity.HasField("next_attempt_schedule_time") for activity in pending):
            return
        await asyncio.sleep(0.005)


async def _next_call(org: httpx.AsyncClient, act: Callable[[], Awaitable[None]]) -> tuple[float, float]:
    """When ``act`` was begun, and when the simulator got the next call."""
    known = len((await org.get("/simulator/calls")).json())
    began = time.time()
    await act()
    # The simulator notes when the call came; to ask it all the time would only delay that.
    while len(calls := (await org.get("/simulator/calls")).json()) == known:
        await asyncio.sleep(0.1)
    return began, float(calls[known]["at"])


async def _paused(client: Client, code: str) -> float:
    """When the list of workflows first showed the run as paused by this code."""
    query = f'ExportConnection="{CONNECTION}" AND ExportState="Paused" AND CrmErrorCode="{code}"'
    while (await client.count_workflows(query)).count == 0:
        await asyncio.sleep(0.002)
    return time.time()
