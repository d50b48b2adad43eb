"""The façade finds the run that it started."""

import os

import pytest
from temporalio.client import Client

from control.exports import Exports
from crm_export import exports_yaml
from crm_export.store import Store
from tests.control.conftest import CommandLine


@pytest.mark.usefixtures("worker")
async def test_runs_of_one_second_are_told_apart(crm_export: CommandLine, temporal: Client) -> None:
    # A Schedule names its runs by the second.
    config = exports_yaml.load(crm_export.file, os.environ)
    store = Store(config.store)
    facade = Exports(config, temporal, store)
    runs = set()
    for _ in range(4):
        running = await facade.reexport(crm_export.connection)
        assert running.started
        assert (await facade.reexport_result(running.handle)).exported == 0
        runs.add(running.handle.first_execution_run_id)
    assert len(runs) == 4
    store.close()
