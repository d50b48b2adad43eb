"""The façade finds the run that it started, and the run that an operator means."""

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from temporalio.client import Client, WorkflowHandle

from activities.temporal import TASK_QUEUE
from control.exports import Exports, OperationFailedError, Running
from crm_export import exports_yaml
from crm_export.model import RunRef
from crm_export.store import Store
from tests.control.conftest import CommandLine
from tests.parts import NO_CITY, Org
from tests.workflows.test_export import airports
from workflows.export import ExportRequest, ExportResult, ExportWorkflow


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
        handle = await started_by_hand(temporal, crm_export.connection)
    else:
        workflow_id = (await crm_export("run", "accounts", "--json")).json["workflow_id"]
        handle = temporal.get_workflow_handle_for(ExportWorkflow.run, workflow_id)
    while (await handle.query(ExportWorkflow.progress)).blocked is None:
        pass
    again = await crm_export("retry", "accounts")
    assert (again.out, again.err) == ("accounts: trying again now\n", "")
    await handle.terminate()


@pytest.mark.usefixtures("worker")
async def test_a_run_that_finds_another_under_way_has_failed(
    crm_export: CommandLine, temporal: Client, org: Org, source_file: Path
) -> None:
    airports(source_file, 5, {2})
    await org.rule("city", NO_CITY)
    handle = await started_by_hand(temporal, crm_export.connection)
    while (await handle.query(ExportWorkflow.progress)).held is None:
        pass
    second = await crm_export("run", "accounts", "--wait")
    assert (second.status, "not started: " in second.out) == (1, True)
    await handle.terminate()


@pytest.mark.parametrize("trouble", [None, OperationFailedError("not started yet")], ids=["lost race", "time-out"])
async def test_a_full_run_that_did_not_start_leaves_the_next_run_as_it_was(
    crm_export: CommandLine, temporal: Client, monkeypatch: pytest.MonkeyPatch, trouble: Exception | None
) -> None:
    assert (await crm_export("setup")).status == 0
    config = exports_yaml.load(crm_export.file, os.environ)
    job = config.jobs["accounts"]
    handle = temporal.get_workflow_handle("another")

    async def not_started(_: object) -> Running:
        assert full_requested(crm_export) is True
        if trouble:
            raise trouble
        return Running(handle, started=False)

    with closing(Store(config.store)) as store:
        run = RunRef(connection=job.connection, job=job.name, run_id="1", workflow_id="1")
        store.runs.begin(run, first_position=lambda *_: None)
        facade = Exports(config, temporal, store)
        monkeypatch.setattr(facade, "_trigger", not_started)
        with pytest.raises(OperationFailedError):
            await facade.run(job, full=True)
        assert full_requested(crm_export) is False
        # And a plain run does not take back what somebody else has asked for.
        store.runs.request_full(job.connection, job.name, True)
        with pytest.raises(OperationFailedError):
            await facade.run(job)
        assert full_requested(crm_export) is True


def full_requested(crm_export: CommandLine) -> bool:
    with closing(sqlite3.connect(crm_export.file.with_name("store.db"))) as store:
        return bool(store.execute("SELECT full_requested FROM positions").fetchone()[0])


async def started_by_hand(temporal: Client, connection: str) -> "WorkflowHandle[ExportWorkflow, ExportResult]":
    request = ExportRequest(connection=connection, job="accounts")
    workflow_id = f"export/{connection}/accounts"
    return await temporal.start_workflow(ExportWorkflow.run, request, id=workflow_id, task_queue=TASK_QUEUE)
