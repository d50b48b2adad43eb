"""The façade finds the run that it started, and the run that an operator means."""

import asyncio
import os
from pathlib import Path

import pytest
from temporalio.client import Client

from activities.temporal import TASK_QUEUE
from control.exports import Exports
from crm_export import exports_yaml
from crm_export.store import Store
from tests.control.conftest import CommandLine
from workflows.export import ExportRequest, ExportWorkflow


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


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("by_hand", [False, True], ids=["by its Schedule", "by hand"])
async def test_a_run_that_is_blocked_before_it_began_is_tried_again(
    crm_export: CommandLine, temporal: Client, source_file: Path, by_hand: bool
) -> None:
    # The store does not know it yet.
    await asyncio.to_thread(source_file.unlink)
    if by_hand:
        request = ExportRequest(connection=crm_export.connection, job="accounts")
        workflow_id = f"export/{crm_export.connection}/accounts"
        await temporal.start_workflow(ExportWorkflow.run, request, id=workflow_id, task_queue=TASK_QUEUE)
    else:
        workflow_id = (await crm_export("run", "accounts", "--json")).json["workflow_id"]
    handle = temporal.get_workflow_handle_for(ExportWorkflow.run, workflow_id)
    while (await handle.query(ExportWorkflow.progress)).blocked is None:
        pass
    again = await crm_export("retry", "accounts")
    assert (again.out, again.err) == ("accounts: trying again now\n", "")
    await handle.terminate()
