"""One seed: set the world up, play faults, let it heal by itself, and judge."""

import asyncio
import contextlib
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from temporalio.client import Client, WorkflowHandle

from activities.temporal import connect
from control.setup import setup
from crm_export import exports_yaml
from tests.chaos import checker
from tests.chaos.faults import Faults
from tests.chaos.source import Source
from tests.chaos.world import CONNECTION, JOBS, WORKERS, World
from tests.parts import NO_CITY

SECONDS = 6.0
"""How long faults are played in the short form."""
HEAL_SECONDS = 90
"""So soon everything goes on by itself once the faults are over: retries back off to half a minute."""


@dataclass
class Report:
    """What one seed came to; ``found`` is what was wrong, a line each."""

    seed: int
    found: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    looks: int = 0
    writes: int = 0
    seconds: float = 0


async def play(seed: int, *, seconds: float = SECONDS, keep: Path | None = None) -> Report:
    """Play a seed in a folder of its own, which is kept under ``keep`` when something was wrong."""
    report = Report(seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as name:
        setting = random.Random(seed)
        world = World(Path(name) / "world", long_history=setting.choice([60, 200, 4096]))
        try:
            with world.environment(encrypted=setting.random() < 0.25):
                await _play(world, report, seconds)
        finally:
            await world.stop()
            if keep is not None and report.found:
                world.folder.rename(keep / f"seed-{seed}")
    report.seconds = time.monotonic() - began
    return report


async def _play(world: World, report: Report, seconds: float) -> None:
    rng = random.Random(report.seed)
    await world.start("postgresql", "temporal", "simulator")
    world.prepare()
    source = Source(world)
    source.create(rng, refused=rng.choice([0.05, 0.15, 0.3]))
    await world.crm("PUT", "/rules/city", NO_CITY)
    async for _ in setup(exports_yaml.load(world.config_file, {})):
        pass
    await world.start(*WORKERS)
    client = await connect()
    faults = Faults(world, source, client, rng)
    for job in JOBS:
        await faults.trigger(f"export/{CONNECTION}/{job}")
    watch = checker.Watch(world)
    watching = asyncio.create_task(_look_on(watch))
    await faults.play(seconds)
    await _quiet(world)
    report.found += await _heal(world, client)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    report.found += watch.found
    report.found += checker.end_state(world, source, rule_dropped=faults.rule_dropped)
    report.found += await checker.temporal_is_well(client)
    report.found += checker.tracebacks(world)
    report.faults, report.looks = faults.counts, watch.looks
    crm = checker.CrmFile(world.crm_file)
    report.writes = crm.read_on()


async def _look_on(watch: checker.Watch) -> None:
    while True:
        await asyncio.to_thread(watch.look)
        await asyncio.sleep(0.1)


async def _quiet(world: World) -> None:
    """The faults are over: every program runs, and the CRM answers."""
    await world.start(*(name for name, program in world.programs.items() if not program.running))
    async with httpx.AsyncClient(base_url=f"{world.crm_url}/simulator") as crm:
        for name in (await crm.get("/rules")).json():
            if name != "city":
                await world.crm("DELETE", f"/rules/{name}")


async def _heal(world: World, client: Client) -> list[str]:
    """No hand is lent but the owner's: pause on, and look; pause off; run and re-export once more."""
    settings = client.get_workflow_handle(f"crm-settings/{CONNECTION}")
    found: list[str] = []
    await settings.signal("set_pause_on_error", True)
    for job in JOBS:
        await _triggered(client, f"export/{CONNECTION}/{job}")
    found += await _settled(client, may_pause=True) or await _paused_well(world, client)
    await settings.signal("set_pause_on_error", False)
    found += await _settled(client, may_pause=False)
    for job in JOBS:
        await _triggered(client, f"export/{CONNECTION}/{job}")
    found += await _settled(client, may_pause=False)
    await _triggered(client, f"CRMExport_ExportError/{CONNECTION}")
    return found + await _settled(client, may_pause=False)


async def _triggered(client: Client, schedule_id: str) -> None:
    """Trigger, and wait until that has led to a run, or has been skipped because one is under way."""
    schedule = client.get_schedule_handle(schedule_id)

    async def count() -> int:
        info = (await schedule.describe()).info
        return info.num_actions + info.num_actions_skipped_overlap

    before = await count()
    await schedule.trigger()
    while await count() == before:
        await asyncio.sleep(0.05)


async def _settled(client: Client, *, may_pause: bool) -> list[str]:
    """Wait until no run is under way, but for those that show that they are paused; name those that are stuck."""
    deadline = time.monotonic() + HEAL_SECONDS
    query = 'WorkflowType IN ("ExportWorkflow", "CRMExport_ExportError") AND ExecutionStatus="Running"'
    stuck: list[str] = []
    quiet_looks = 0
    while time.monotonic() < deadline:
        stuck = [
            f"{run.id} is {_state(run)}"
            async for run in client.list_workflows(query)
            if not (may_pause and _state(run) == "Paused")
        ]
        # Twice in a row: one run may be between two executions.
        quiet_looks = 0 if stuck else quiet_looks + 1
        if quiet_looks == 3:
            return []
        await asyncio.sleep(0.1)
    return [f"after {HEAL_SECONDS} s without faults, {line}" for line in stuck]


def _state(run: Any) -> str:
    [state] = run.search_attributes.get("ExportState", ["unknown"])
    return str(state)


async def _paused_well(world: World, client: Client) -> list[str]:
    """What shows as paused holds that record in the store, and the other way round; a run may just be carrying on."""
    found: list[str] = []
    for _ in range(100):
        found = [line async for line in _not_shown_as_held(world, client)]
        if not found:
            break
        await asyncio.sleep(0.1)
    return found


async def _not_shown_as_held(world: World, client: Client) -> AsyncIterator[str]:
    rows = world.rows("store", "SELECT job, held_key FROM positions WHERE held_key IS NOT NULL")
    held = {row["job"]: row["held_key"] for row in rows}
    shown = set()
    async for run in client.list_workflows('ExportState="Paused" AND ExecutionStatus="Running"'):
        [job] = map(str, run.search_attributes["ExportJob"])
        shown.add(job)
        handle: WorkflowHandle[Any, Any] = client.get_workflow_handle(run.id)
        progress = await handle.query("progress")
        if progress["held"] is None or progress["held"]["record_key"] != held.get(job):
            yield f"{job} shows {progress['held']}, and the store holds {held.get(job)}"
    for job in held.keys() - shown:
        yield f"{job} holds {held[job]}, and does not show as paused"
    if "accounts" in held:
        for line in checker.paused_in_order(world, "accounts", held["accounts"]):
            yield line
