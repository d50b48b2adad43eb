"""All jobs at once: as the single questions answer, without a question a job."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from temporalio.client import Client

from control.exports import Exports
from control.overview import Snapshot
from control.status import JobStatus
from crm_export import exports_yaml
from crm_export.store import Store
from tests.control.conftest import CommandLine
from tests.parts import NO_CITY, Org
from tests.workflows.test_export import airports


async def job(facade: Exports, true: Callable[[JobStatus], bool]) -> JobStatus:
    """The job's status in the first snapshot in which it is as wanted."""
    while True:
        await facade.overview.look_again()
        snapshot: Snapshot = await facade.overview.now()
        assert snapshot.problem is None
        if snapshot.jobs and true(snapshot.jobs[0]):
            return snapshot.jobs[0]


@pytest.mark.usefixtures("worker")
async def test_it_says_what_status_says(crm_export: CommandLine, temporal: Client, org: Org, source_file: Path) -> None:
    config = exports_yaml.load(crm_export.file, os.environ)
    store = Store(config.store)
    facade = Exports(config, temporal, store)
    async with facade.overview.kept_fresh():
        never = await job(facade, lambda status: True)
        assert (never.state, never.started_at, never.workflow_id) == ("idle", None, None)

        airports(source_file, 15, {7})
        await org.rule("city", NO_CITY)
        await facade.run(config.jobs["accounts"], by="Ada")
        paused = await job(facade, lambda status: bool(status.held and status.held.next_attempt_at))
        [status] = await facade.status([config.jobs["accounts"]])
        assert paused.model_copy(update={"rate": None}) == status.model_copy(update={"rate": None})
        assert paused.held is not None
        assert (paused.held.key, paused.held.usual_cause != "") == ("A007", True)

        # A run that somebody terminates says so, until the next one.
        assert paused.workflow_id is not None
        await temporal.get_workflow_handle(paused.workflow_id).terminate()
        failed = await job(facade, lambda status: status.state == "failed")
        assert (failed.reason, failed.held) == ("the last run was terminated", None)
        await org.drop("city")
        await facade.run(config.jobs["accounts"], by="Ada")
        done = await job(facade, lambda status: status.state == "idle")
        assert (done.reason, done.exported, done.open_errors) == (None, 8, 0)
    store.close()


async def test_a_run_that_has_not_begun_does_not_show_the_figures_of_the_last_one(
    crm_export: CommandLine, worker: asyncio.subprocess.Process, temporal: Client, org: Org, source_file: Path
) -> None:
    airports(source_file, 5, set())
    last = await crm_export("run", "accounts", "--wait")
    assert last.status == 0
    worker.terminate()
    await worker.wait()
    config = exports_yaml.load(crm_export.file, os.environ)
    store = Store(config.store)
    facade = Exports(config, temporal, store)
    async with facade.overview.kept_fresh():
        running = await facade.run(config.jobs["accounts"], by="Ada")
        # The list may be a moment behind, and have the last run still.
        seen = await job(facade, lambda status: status.run_id == running.handle.first_execution_run_id)
        [status] = await facade.status([config.jobs["accounts"]])
        for one in (seen, status):
            assert (one.exported, one.total, one.rate, one.state) == (0, None, None, "running")
            assert one.started_at == (await running.handle.describe()).start_time
    await running.handle.terminate()
    store.close()


async def test_a_temporal_that_is_gone_is_said_and_the_store_still_speaks(
    crm_export: CommandLine, temporal: Client
) -> None:
    assert (await crm_export("setup")).status == 0
    config = exports_yaml.load(crm_export.file, os.environ)
    store = Store(config.store)
    unreachable = await Client.connect("127.0.0.1:9", lazy=True)
    facade = Exports(config, unreachable, store)
    async with facade.overview.kept_fresh():
        while (snapshot := await facade.overview.now()).problem is None:
            await facade.overview.look_again()
        assert "Temporal" in snapshot.problem
        assert [status.state for status in snapshot.jobs] == ["unknown"]
    store.close()
