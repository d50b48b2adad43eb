"""One export by the engine, as people run it: started through the façade, exported by the worker, and read back."""

import asyncio
from dataclasses import dataclass
from typing import Any

from activities.temporal import connect
from bench.parts import Histories, Worker, histories
from control.exports import Running, exports
from crm_export.config import Config

_HEARTBEAT = "RecordActivityTaskHeartbeat"


@dataclass
class Measured:
    """What one run took: ``seconds`` from its start to its end in Temporal's own clock."""

    result: Any
    history: Histories
    heartbeats: int
    peak_mb: float
    cpu_seconds: float

    @property
    def actions(self) -> int:
        """Temporal Cloud's count: what the histories show, and each heartbeat that reached the server."""
        return self.history.actions + self.heartbeats


async def run_job(config: Config, worker: Worker, name: str) -> Measured:
    """Run a job to its end."""
    heartbeats, cpu = worker.requests(_HEARTBEAT), worker.cpu_seconds
    async with exports(config) as facade:
        running = await facade.run(config.jobs[name], full=True)
        result = await facade.result(running.handle)
    return await _measured(running, result, worker, heartbeats, cpu)


async def run_reexport(config: Config, worker: Worker, connection: str) -> Measured:
    """Run the daily re-export to its end."""
    heartbeats, cpu = worker.requests(_HEARTBEAT), worker.cpu_seconds
    async with exports(config) as facade:
        running = await facade.reexport(connection)
        result = await facade.reexport_result(running.handle)
    return await _measured(running, result, worker, heartbeats, cpu)


async def _measured(running: Running, result: Any, worker: Worker, heartbeats: int, cpu: float) -> Measured:
    first_run_id = running.handle.first_execution_run_id
    assert first_run_id is not None
    history = await histories(await connect(), running.handle.id, first_run_id)
    # A Schedule's next trigger in the same second would give the same workflow ID.
    await asyncio.sleep(1)
    return Measured(result, history, worker.requests(_HEARTBEAT) - heartbeats, worker.peak_mb, worker.cpu_seconds - cpu)
