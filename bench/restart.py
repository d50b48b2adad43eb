"""``python -m bench.restart ROUNDS``: Temporal, PostgreSQL and a worker are killed in the midst of an export, and
started again at once: how long until the next write. Nobody lends a hand."""

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from activities.temporal import connect
from control.setup import setup
from crm_export import exports_yaml
from tests.chaos.checker import CrmFile
from tests.chaos.source import Source
from tests.chaos.world import CONNECTION, WORKERS, World

_ROWS = 4_000


async def measure(rounds: int) -> dict[str, list[float]]:
    """Seconds from the kill to the next write, sorted; of a job with a heartbeat of 2 s and one call at a time.

    A page under way does not need Temporal, and goes on while it is down; a paused export does."""
    with tempfile.TemporaryDirectory(prefix="restart-") as name:
        world = World(Path(name) / "world", long_history=4096)
        try:
            with world.environment():
                return await _measure(world, rounds)
        finally:
            await world.stop()


async def _measure(world: World, rounds: int) -> dict[str, list[float]]:
    await world.start("postgresql", "temporal", "simulator")
    world.prepare()
    source = Source(world)
    source.create_tables()
    source.put("accounts", [(f"K{i:05d}", True) for i in range(_ROWS)])
    async for _ in setup(exports_yaml.load(world.config_file, {})):
        pass
    # One worker, so that the export is surely at the one that is killed.
    await world.start(WORKERS[0])
    client = await connect()
    await client.get_schedule_handle(f"export/{CONNECTION}/accounts").trigger()
    crm = CrmFile(world.crm_file)
    while not world.crm_file.exists() or crm.read_on() < 50:
        await asyncio.sleep(0.01)
    found: dict[str, list[float]] = {}
    for program in ("temporal", "postgresql", WORKERS[0]):
        found[program] = sorted([await _killed(world, crm, program) for _ in range(rounds)])
    source.put("leads", [(f"K{i:05d}", False) for i in range(rounds + 1)])
    await client.get_schedule_handle(f"export/{CONNECTION}/leads").trigger()
    paused = [await _killed_while_paused(world, crm, source, f"K{i:05d}") for i in range(rounds)]
    return found | {"temporal, while the export is paused": sorted(paused)}


async def _killed_while_paused(world: World, crm: CrmFile, source: Source, key: str) -> float:
    """The row is mended while the server is down; retries are 2 s apart at most."""
    held = "SELECT held_key FROM positions WHERE job = 'leads'"
    while not any(row["held_key"] == key for row in await asyncio.to_thread(world.rows, "store", held)):
        await asyncio.sleep(0.05)
    await asyncio.sleep(3)
    killed = time.time()
    await world.kill("temporal")
    source.put("leads", [(key, True)])
    await world.start("temporal")
    while not (writes := [write.at for write in crm.writes if write.job == "leads" and write.key == key]):
        await asyncio.sleep(0.01)
        crm.read_on()
    return round(writes[0] - killed, 1)


async def _killed(world: World, crm: CrmFile, program: str) -> float:
    await asyncio.sleep(2)
    killed = time.time()
    await world.kill(program)
    await world.start(program)
    # A call that was in flight may still land: the next one is what counts.
    while not any(write.at > killed + 0.5 for write in crm.writes[-20:]):
        await asyncio.sleep(0.01)
        crm.read_on()
    return round(next(write.at for write in crm.writes if write.at > killed + 0.5) - killed, 1)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 3)), indent=1))
