"""What operators ask of a run that waits, and what comes while an attempt is under way."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import CancelledError

from tests.conftest import LONG_HISTORY
from tests.parts import NO_CITY, put_airports
from tests.workflows.conftest import Exporting, ask
from tests.workflows.test_export import airports
from workflows.export import ExportWorkflow


@pytest.mark.parametrize("job_settings", [{"retry": {"initial": "1h", "maximum": "1h"}}])
async def test_retry_now_does_not_wait_for_the_back_off(exporting: Exporting, source_file: Path) -> None:
    airports(source_file, 8, {3})
    await exporting.org.rule("city", NO_CITY)
    handle = await exporting.start()
    await exporting.until_held(handle, "A003")
    while exporting.errors()["A003"].attempts < 2:
        await asyncio.sleep(0.05)
    await exporting.org.drop("city")
    await ask(handle, ExportWorkflow.update_retry_now)
    assert (await handle.result()).exported == 8


async def test_a_skip_stands_though_another_word_comes_before_the_attempt_has_ended(
    exporting: Exporting, source_file: Path
) -> None:
    airports(source_file, 8, {3})
    await exporting.org.rule("city", NO_CITY)
    handle = await exporting.start()
    await exporting.until_held(handle, "A003")
    await exporting.org.rule("slow", {"kind": "slow", "seconds": 2})
    async with exporting.org.next_call():
        await handle.signal(ExportWorkflow.retry_now)
    await handle.signal(ExportWorkflow.skip_record)
    # As when the daily limit is changed meanwhile, and somebody else tries.
    await handle.signal(ExportWorkflow.connection_setting_changed, None)
    await ask(handle, ExportWorkflow.update_retry_now)
    await exporting.org.drop("slow")
    assert (await handle.result()).refused == 1


@pytest.fixture
def may_report(exporting: Exporting, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Until this is set, no report reaches ExportErrors."""
    may_report, start_workflow = asyncio.Event(), exporting.client.start_workflow

    async def start_later(workflow: Any, *args: Any, **more: Any) -> Any:
        if workflow == "ExportErrors":
            await may_report.wait()
        return await start_workflow(workflow, *args, **more)

    monkeypatch.setattr(exporting.client, "start_workflow", start_later)
    return may_report


async def about_to_continue_as_new(exporting: Exporting, source_file: Path) -> "WorkflowHandle[Any, Any]":
    """A paused run that waits for nothing but its report, to continue as new."""
    airports(source_file, 8, {3})
    await exporting.org.rule("city", NO_CITY)
    handle = await exporting.start()
    await exporting.until_held(handle, "A003")
    while (described := await handle.describe()).history_length <= LONG_HISTORY + 5 or len(
        described.raw_description.pending_activities
    ) > 1:
        await ask(handle, ExportWorkflow.update_retry_now)
    return handle


@pytest.mark.parametrize("job_settings", [{"retry": {"initial": "1h", "maximum": "1h"}}])
async def test_a_skip_that_comes_just_before_a_run_continues_as_new_stands(
    exporting: Exporting, source_file: Path, may_report: asyncio.Event
) -> None:
    handle = await about_to_continue_as_new(exporting, source_file)
    await handle.signal(ExportWorkflow.skip_record)
    may_report.set()
    assert (await handle.result()).refused == 1


@pytest.mark.parametrize("job_settings", [{"retry": {"initial": "1h", "maximum": "1h"}}])
async def test_a_run_that_is_cancelled_while_it_reports_leaves_its_record_open(
    exporting: Exporting, source_file: Path, may_report: asyncio.Event
) -> None:
    handle = await about_to_continue_as_new(exporting, source_file)
    await handle.cancel()
    may_report.set()
    with pytest.raises(WorkflowFailureError) as ended:
        await handle.result()
    assert isinstance(ended.value.cause, CancelledError)
    assert exporting.errors()["A003"].state == "open"


async def test_updates_are_refused_where_there_is_nothing_to_do(exporting: Exporting, source_file: Path) -> None:
    airports(source_file, 30, set())
    await exporting.org.rule("slow", {"kind": "slow", "seconds": 0.5})
    handle = await exporting.start()
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await ask(handle, ExportWorkflow.update_retry_now)
    assert "neither paused nor blocked" in str(refused.value.cause)
    # Signals that come too early must not hit a record that is held later.
    await handle.signal(ExportWorkflow.skip_record)
    assert (await handle.result()).exported == 30


async def test_a_held_record_that_changes_while_it_is_written_is_exported_again(
    exporting: Exporting, source_file: Path
) -> None:
    airports(source_file, 8, {3})
    await exporting.org.rule("city", NO_CITY)
    handle = await exporting.start()
    await exporting.until_held(handle, "A003")
    while exporting.errors()["A003"].attempts < 2:
        await asyncio.sleep(0.05)
    await exporting.org.rule("slow", {"kind": "slow", "seconds": 1})
    put_airports(source_file, [("A003", "Old", "City")])
    async with exporting.org.next_call():
        pass
    put_airports(source_file, [("A003", "New", "City")])
    await handle.result()
    assert (await exporting.org.accounts())["A003"]["Name"] == "New"
    assert (await exporting.org.written()).count("A003") == 2
