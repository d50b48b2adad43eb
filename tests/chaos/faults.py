"""What happens to an export, drawn by a seed: each fault is an event, and heals by itself a moment later.

What is drawn, and in which order, is the seed's alone; when it meets the export is up to the machine.
"""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any

from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError

from tests.chaos.source import ROWS, Source
from tests.chaos.world import CONNECTION, JOBS, WORKERS, World

_RPC = timedelta(seconds=2)
_KEPT = 10
"""So many of the first rows of each table are never deleted: the checker follows them."""
OUTAGES = ("503", "429", "html", "empty", "short", "half", "drop_before_write", "drop_after_write")
Fault = Callable[["Faults", random.Random], Coroutine[Any, Any, None]]


class Faults:
    """A driver: draws faults, lets them overlap, and knows how many there were of each kind."""

    def __init__(self, world: World, source: Source, client: Client, rng: random.Random) -> None:
        self.world = world
        self.source = source
        self.client = client
        self.counts: Counter[str] = Counter()
        self.rule_dropped = False
        self._rng = rng
        self._new_key = ROWS
        self._under_way: set[asyncio.Task[None]] = set()
        self._busy: set[str] = set()

    async def play(self, seconds: float) -> None:
        """Faults for so long; ends when each has healed."""
        faults, weights = zip(*FAULTS, strict=True)
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        while clock() < end:
            [fault] = self._rng.choices(faults, weights)
            of_this = random.Random(self._rng.random())
            task = asyncio.create_task(fault(self, of_this))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            await asyncio.sleep(self._rng.uniform(0.05, 0.5))
        await asyncio.gather(*self._under_way)

    def note(self, kind: str) -> None:
        self.counts[kind] += 1

    async def down(self, name: str, seconds: float, act: Callable[[], Awaitable[None]]) -> None:
        """Do something to a program that is not being done something to already, and start it again."""
        if name in self._busy:
            return
        self._busy.add(name)
        try:
            self.note(f"{act.__name__} {name.split('-')[0]}")
            await act()
            await asyncio.sleep(seconds)
            if not self.world.programs[name].running:
                await self.world.start(name)
        finally:
            self._busy.discard(name)

    # Temporal, as anybody may use it

    async def tell(self, workflow_id: str, name: str, *args: Any) -> None:
        """A bare signal; one that meets no run, or a server that is down, is lost."""
        try:
            await self.client.get_workflow_handle(workflow_id).signal(name, args=args, rpc_timeout=_RPC)
            self.note(f"signal {name}")
        except RPCError:
            self.note("signal lost")

    async def trigger(self, schedule_id: str) -> None:
        try:
            await self.client.get_schedule_handle(schedule_id).trigger(rpc_timeout=_RPC)
            self.note(f"trigger {schedule_id.split('/')[0]}")
        except RPCError:
            self.note("trigger lost")

    async def runs(self, job: str | None = None) -> list[WorkflowHandle[Any, Any]]:
        """Executions under way, of one job or of the connection's re-export."""
        of = f'ExportJob="{job}"' if job else 'WorkflowType="CRMExport_ExportError"'
        query = f'{of} AND ExecutionStatus="Running"'
        return [
            self.client.get_workflow_handle(run.id, run_id=run.run_id)
            async for run in self.client.list_workflows(query, rpc_timeout=_RPC)
        ]

    def new_key(self) -> str:
        self._new_key += 1
        return f"K{self._new_key:03d}"


async def _kill(faults: Faults, rng: random.Random, name: str) -> None:
    seconds = rng.uniform(0, 1)

    async def kill() -> None:
        await faults.world.kill(name)

    await faults.down(name, seconds, kill)


async def kill_worker(faults: Faults, rng: random.Random) -> None:
    await _kill(faults, rng, rng.choice(WORKERS))


async def kill_temporal(faults: Faults, rng: random.Random) -> None:
    await _kill(faults, rng, "temporal")


async def kill_postgresql(faults: Faults, rng: random.Random) -> None:
    await _kill(faults, rng, "postgresql")


async def kill_simulator(faults: Faults, rng: random.Random) -> None:
    await _kill(faults, rng, "simulator")


async def freeze_worker(faults: Faults, rng: random.Random) -> None:
    """For shorter than its heartbeat, or for so long that another takes over while it believes to be alive."""
    name, seconds = rng.choice(WORKERS), rng.choice([rng.uniform(0.1, 1), rng.uniform(2.5, 5)])

    async def freeze() -> None:
        faults.world.signal(name, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        faults.world.signal(name, signal.SIGCONT)

    await faults.down(name, 0, freeze)


async def outage(faults: Faults, rng: random.Random) -> None:
    how, calls = rng.choice(OUTAGES), rng.randint(1, 6)
    rule = {"kind": "outage", "how": how, "calls": calls}
    if how == "429":
        rule["retry_after"] = 1
    faults.note(f"outage {how}")
    await faults.world.crm("PUT", f"/rules/outage-{rng.randrange(1_000)}", rule)


async def slow(faults: Faults, rng: random.Random) -> None:
    name, seconds = f"slow-{rng.randrange(1_000)}", rng.uniform(0.2, 0.6)
    faults.note("slow")
    await faults.world.crm("PUT", f"/rules/{name}", {"kind": "slow", "seconds": seconds})
    await asyncio.sleep(rng.uniform(0.5, 1.5))
    await faults.world.crm("DELETE", f"/rules/{name}")


async def lock_rows(faults: Faults, rng: random.Random) -> None:
    keys = rng.sample([f"K{i:03d}" for i in range(ROWS)], 5)
    faults.note("row locks")
    rule = {"kind": "row_lock", "keys": keys, "tries": rng.randint(1, 8)}
    await faults.world.crm("PUT", f"/rules/locks-{rng.randrange(1_000)}", rule)


async def expire_sessions(faults: Faults, rng: random.Random) -> None:
    faults.note("sessions expired")
    await faults.world.crm("POST", "/expire-sessions")


async def relax_rule(faults: Faults, rng: random.Random) -> None:
    """An administrator gives in: rarely, or there would be nothing left to refuse."""
    if rng.random() < 0.2 and not faults.rule_dropped:
        faults.rule_dropped = True
        faults.note("validation rule dropped")
        await faults.world.crm("DELETE", "/rules/city")


async def set_pause(faults: Faults, rng: random.Random) -> None:
    await faults.tell(f"crm-settings/{CONNECTION}", "set_pause_on_error", rng.random() < 0.6)


async def operate(faults: Faults, rng: random.Random) -> None:
    """An operator's word to one run: skip, retry, a setting of its own; seldom the end."""
    job, word, on = rng.choice(list(JOBS)), rng.random(), rng.random() < 0.6
    try:
        for run in await faults.runs(job):
            if word < 0.35:
                await faults.tell(run.id, "skip_record")
            elif word < 0.65:
                await faults.tell(run.id, "retry_now")
            elif word < 0.9:
                await faults.tell(run.id, "set_pause_on_error", on)
            elif word < 0.95:
                await run.cancel(rpc_timeout=_RPC)
                faults.note("run cancelled")
            else:
                await run.terminate("chaos", rpc_timeout=_RPC)
                faults.note("run terminated")
    except RPCError:
        faults.note("signal lost")


async def start_run(faults: Faults, rng: random.Random) -> None:
    await faults.trigger(f"export/{CONNECTION}/{rng.choice(list(JOBS))}")


async def reexport(faults: Faults, rng: random.Random) -> None:
    await faults.trigger(f"CRMExport_ExportError/{CONNECTION}")


async def change_rows(faults: Faults, rng: random.Random) -> None:
    """Rows are mended, spoilt, touched, added."""
    job = rng.choice(list(JOBS))
    keys = rng.sample([f"K{i:03d}" for i in range(ROWS)], rng.randint(1, 6))
    if rng.random() < 0.3:
        keys.append(faults.new_key())
    rows = [(key, rng.random() < 0.7) for key in keys]
    faults.note("rows changed")
    await asyncio.to_thread(faults.source.put, job, rows)


async def mend_held(faults: Faults, rng: random.Random) -> None:
    """The row that a run waits on is mended, or goes."""
    gone = rng.random() < 0.2
    rows = await asyncio.to_thread(
        faults.world.rows, "store", "SELECT job, held_key FROM positions WHERE held_key IS NOT NULL"
    )
    for row in rows:
        if gone and int(row["held_key"][1:]) >= _KEPT:
            faults.note("held row deleted")
            await asyncio.to_thread(faults.source.delete, row["job"], row["held_key"])
        else:
            faults.note("held row mended")
            await asyncio.to_thread(faults.source.put, row["job"], [(row["held_key"], True)])


async def delete_row(faults: Faults, rng: random.Random) -> None:
    job, key = rng.choice(list(JOBS)), f"K{rng.randrange(_KEPT, ROWS):03d}"
    faults.note("row deleted")
    await asyncio.to_thread(faults.source.delete, job, key)


FAULTS: list[tuple[Fault, float]] = [
    (kill_worker, 2),
    (freeze_worker, 1.5),
    (kill_temporal, 0.7),
    (kill_postgresql, 0.7),
    (kill_simulator, 0.7),
    (outage, 3),
    (slow, 1),
    (lock_rows, 1),
    (expire_sessions, 1),
    (relax_rule, 0.5),
    (set_pause, 2),
    (operate, 3),
    (start_run, 4),
    (reexport, 2),
    (change_rows, 3),
    (mend_held, 2),
    (delete_row, 0.5),
]
