"""``kill -9`` of the worker, several times in a run: nothing is lost, nothing is out of order."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from control.exports import Exports
from control.setup import setup
from crm_export import exports_yaml
from crm_export.store import Store
from tests.parts import NO_CITY, Org, put_airports
from tests.workflows.conftest import Exporting
from tests.workflows.test_export import airports

CONFIG = """
store: {store}
connections:
  {connection}:
    crm: salesforce
    login_url: {url}
    auth: {{flow: client_credentials, client_id: demo, client_secret: demo}}
sources:
  warehouse: {{url: "sqlite:///{folder}/source.db"}}
jobs:
  accounts:
    connection: {connection}
    source: warehouse
    table: airports
    key: icao
    object: Account
    external_id: Icao__c
    fields: {{Name: name, BillingCity: city}}
    batch_size: 5
    heartbeat: 2s
    retry: {{initial: 1s, maximum: 1s}}
"""


@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_killed_workers_lose_nothing(
    temporal_server: WorkflowEnvironment,
    temporal: Client,
    org: Org,
    source_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    kind: str,
) -> None:
    file = tmp_path / "exports.yaml"
    stores = {"sqlite": f"sqlite:///{tmp_path}/store.db", "postgresql": "${STORE}"}
    if kind == "postgresql":
        monkeypatch.setenv("STORE", request.getfixturevalue("postgresql_url"))
    file.write_text(CONFIG.format(folder=tmp_path, url=org.url, store=stores[kind], connection=f"crash-{kind}"))
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal.service_client.config.target_host)
    config = exports_yaml.load(file, os.environ)
    connection = f"crash-{kind}"
    async for _ in setup(config):
        pass
    keys = airports(source_file, 300, {40, 200})
    await org.rule("city", NO_CITY)
    await org.rule("slow", {"kind": "slow", "seconds": 0.2})
    store = Store(config.store)
    facade = Exports(config, temporal, store)
    command = [sys.executable, "-m", "worker", "--config", str(file)]
    worker = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        running = await facade.run(config.jobs["accounts"])
        for kill_at in (15, 35, 41, 90, 150):
            while len(await org.written()) < kill_at and not _held(store, connection):
                await asyncio.sleep(0.02)
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            if _held(store, connection) == "A040":
                assert await _distinct(org) == keys[:40]
                put_airports(source_file, [("A040", "Airport 40", "Mended")])
            worker = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while _held(store, connection) != "A200":
            await asyncio.sleep(0.05)
        assert await _distinct(org) == keys[:200]
        put_airports(source_file, [("A200", "Airport 200", "Mended")])
        result = await facade.result(running.handle)
        assert result.refused == 0
        assert await _distinct(org) == keys
        accounts = await org.accounts()
        assert accounts["A040"]["BillingCity"] == accounts["A200"]["BillingCity"] == "Mended"
        assert store.errors.count_open(connection) == 0
        assert json.loads((await running.handle.fetch_history()).to_json())["events"]
    finally:
        worker.terminate()
        worker.wait()
        store.close()


def _held(store: Store, connection: str) -> str | None:
    state = store.runs.state(connection, "accounts")
    return state.held.record_key if state and state.held else None


async def _distinct(org: Org) -> list[str]:
    """The keys in the order of their first write: what was in flight when a worker died is sent again."""
    return list(dict.fromkeys(await org.written()))


async def test_a_call_that_outlasts_the_heartbeat_is_not_made_twice(exporting: Exporting, source_file: Path) -> None:
    """Its worker beats: only one that is gone is given up."""
    airports(source_file, 3, set())
    await exporting.org.rule("slow", {"kind": "slow", "seconds": 4})
    result = await (await exporting.start()).result()
    assert result.exported == 3
    assert [call["method"] for call in await exporting.org.calls()].count("PATCH") == 1
