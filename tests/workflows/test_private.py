"""A full run, and a search of everything that it left behind: no field value, no secret, anywhere.

Temporal's database file as it lies on the disk, each log, each table; plain, and with payloads encrypted.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from temporalio.client import Client, WorkflowHandle

from activities.codec import KEYS_VARIABLE, data_converter
from activities.temporal import connect
from control.exports import exports
from control.setup import setup
from crm_export import exports_yaml
from crm_export.model import Settings
from crm_export.store import Store
from tests.chaos.world import CLIENT_SECRET, CONNECTION, JOBS, STORE_PASSWORD, WORKERS, World
from tests.parts import NO_CITY, Org
from tests.workflows.conftest import Exporting, config_of
from tests.workflows.test_export import airports
from workflows.export import ExportWorkflow

PAYLOAD_KEY = base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
VALUES = ("Zanzibar", "Quuxville", "Plughstate")
"""Each source row has one of these in each of its fields."""
SECRETS = (CLIENT_SECRET, STORE_PASSWORD, PAYLOAD_KEY)


@pytest.fixture(params=["plain", "encrypted"])
def encrypted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "encrypted":
        monkeypatch.setenv(KEYS_VARIABLE, f"today:{PAYLOAD_KEY}")
    return bool(request.param == "encrypted")


@pytest.fixture
async def world(tmp_path: Path, encrypted: bool) -> AsyncIterator[World]:
    world = World(tmp_path / "w", long_history=60)
    with world.environment():
        await world.start("postgresql", "temporal", "simulator")
        world.prepare()
        _rows(world)
        await world.crm("PUT", "/rules/city", NO_CITY)
        async for _ in setup(exports_yaml.load(world.config_file, {})):
            pass
        await world.start(*WORKERS)
        yield world
        await world.stop()


async def test_nothing_private_is_left_behind(world: World, encrypted: bool) -> None:
    client = await connect()
    await _full_run(world, client)
    tables = "\n".join(_tables(world))
    await world.stop()
    files = [world.folder / "temporal.db", world.folder / "temporal.db-wal", *world.folder.glob("*.log")]
    places = {file.name: file.read_bytes() for file in files if file.exists()} | {"tables": tables.encode()}
    found = [f"{text} in {name}" for name, place in places.items() for text in (*VALUES, *SECRETS) if _in(text, place)]
    assert found == []
    # The search is one that finds: keys, codes and messages are there, or only where they are not encrypted.
    assert b"KEY-001" in tables.encode()
    assert b"STRING_TOO_LONG" in places["worker-1.log"] + places["worker-2.log"]
    database = places["temporal.db"] + places.get("temporal.db-wal", b"")
    for text in ("KEY-001", "An airport needs a city"):
        assert _in(text, database) is not encrypted, text


async def test_a_worker_without_the_key_breaks_nothing(
    temporal: Client, org: Org, source_file: Path, tmp_path: Path
) -> None:
    """It can read neither the run nor what it is told; with the key, all goes on."""
    encrypting = await Client.connect(
        temporal.service_client.config.target_host, data_converter=data_converter({KEYS_VARIABLE: f"k:{PAYLOAD_KEY}"})
    )
    config = config_of(org, source_file, tmp_path / "store.db", "keys")
    store = Store(config.store)
    store.migrate()
    store.settings.create("keys", Settings())
    exporting = Exporting(encrypting, config, store, org, "crm-export-keys")
    keys = airports(source_file, 25, {13})
    await org.rule("city", NO_CITY)
    async with exporting.worker():
        handle = await exporting.start()
        await exporting.until_held(handle, "A013")
    async with Exporting(temporal, config, store, org, "crm-export-keys").worker():
        await handle.signal(ExportWorkflow.set_pause_on_error, False)
        while not await _fails(temporal, handle.id):
            await asyncio.sleep(0.1)
    async with exporting.worker():
        assert (await handle.result()).refused == 1
    assert sorted(await org.written()) == [key for key in keys if key != "A013"]
    async for run in temporal.list_workflows('TaskQueue="crm-export-keys" AND ExecutionStatus="Running"'):
        await temporal.get_workflow_handle(run.id).terminate()
    store.close()


async def _fails(client: Client, workflow_id: str) -> bool:
    events = client.get_workflow_handle(workflow_id).fetch_history_events()
    return any([event.HasField("workflow_task_failed_event_attributes") async for event in events])


def _rows(world: World) -> None:
    """The second account has no city, and the second of the others a name that is too long, which the CRM quotes."""
    with psycopg.connect(world.postgresql.url("source"), autocommit=True) as connection:
        for table in JOBS:
            connection.execute(
                f"CREATE TABLE {table} (key text PRIMARY KEY, name text, city text, status text, parent text, "
                "version bigint UNIQUE)".encode()
            )
            for number in range(12):
                name = f"{VALUES[0]} {number} {'x' * 90 if number == 1 and table != 'accounts' else ''}"
                city = None if number == 1 else VALUES[1]
                row = [f"KEY-{number:03d}", name, city, "Open", VALUES[2], number + 1]
                connection.execute(f"INSERT INTO {table} VALUES (%s, %s, %s, %s, %s, %s)".encode(), row)


async def _full_run(world: World, client: Client) -> None:
    """Paused, tried again, an outage, released by the owner, exported again; and the façade reads it all."""
    config = exports_yaml.load(world.config_file, {})
    async with exports(config) as facade:
        for job in config.jobs.values():
            await facade.run(job)
        while {one.state for one in await facade.status(list(config.jobs.values()))} != {"paused"}:
            await asyncio.sleep(0.1)
        await world.crm("PUT", "/rules/down", {"kind": "outage", "calls": 20})
        await facade.retry(config.jobs["accounts"])
        while not any(one.blocked for one in await facade.status([config.jobs["accounts"]])):
            await asyncio.sleep(0.1)
        [status] = await facade.status([config.jobs["accounts"]])
        assert status.held is not None
        assert status.held.key == "KEY-001"
        assert status.blocked is not None
        assert status.blocked.code == "SERVER_UNAVAILABLE"
        assert "SERVER_UNAVAILABLE · " in status.blocked.message
        await world.crm("DELETE", "/rules/down")
        told = await facade.set_pause_on_error(CONNECTION, False, "Ada")
        assert len(told.told) == 3
        running = await facade.reexport(CONNECTION)
        await facade.reexport_result(running.handle)
    for run in [run async for run in client.list_workflows('WorkflowType="ExportWorkflow"')]:
        handle: WorkflowHandle[Any, Any] = client.get_workflow_handle(run.id)
        assert (await handle.result())["refused"] == 1


def _tables(world: World) -> Iterator[str]:
    names = world.rows("store", "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
    assert len(names) >= 5
    for name in names:
        yield from map(repr, world.rows("store", f"SELECT * FROM {name['table_name']}"))


def _in(text: str, place: bytes) -> bool:
    """As it is, in base64 at each of its three offsets, and in UTF-16."""
    raw = text.encode()
    coded = [base64.b64encode(b"\0" * offset + raw)[4 if offset else 0 : -4] for offset in range(3)]
    return any(form in place for form in (raw, raw.hex().encode(), text.encode("utf-16-le"), *coded))
