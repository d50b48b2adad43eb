"""CRMExport_ExportError: today's rows, the held record, nothing stale over something new."""

import asyncio
from pathlib import Path

import pytest
from temporalio.client import WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.exceptions import CancelledError

from activities.requests import ReexportStarted, ReexportWanted
from crm_export.model import ReexportOnly
from tests.parts import NO_CITY, delete_airport, put_airports, rename_table
from tests.workflows.conftest import Exporting, ask
from tests.workflows.test_export import airports
from workflows.export_errors import ExportErrors
from workflows.reexport import CRMExportExportError, ReexportResult


async def left_out(exporting: Exporting, source_file: Path, count: int, refused: set[int]) -> list[str]:
    keys = airports(source_file, count, refused)
    await exporting.org.rule("city", NO_CITY)
    exporting.store.settings.change(exporting.connection, "pause_on_error", False, "test")
    assert (await (await exporting.start()).result()).refused == len(refused)
    return keys


async def test_every_row_is_closed_once_the_rule_is_relaxed(exporting: Exporting, source_file: Path) -> None:
    keys = await left_out(exporting, source_file, 30, {2, 3, 14, 29})
    await exporting.org.drop("city")
    result = await exporting.reexport()
    assert (result.exported, result.refused, result.gone) == (4, 0, 0)
    assert {(e.state, e.closed_by) for e in exporting.errors().values()} == {("closed", "reexport")}
    assert sorted(await exporting.org.accounts()) == keys


async def test_it_sends_the_row_as_it_is_now_counts_the_refused_and_closes_the_gone(
    exporting: Exporting, source_file: Path
) -> None:
    await left_out(exporting, source_file, 10, {2, 3, 4})
    put_airports(source_file, [("A002", "Renamed", "Found")])
    delete_airport(source_file, "A003")
    result = await exporting.reexport()
    assert (result.exported, result.refused, result.gone) == (1, 1, 1)
    account = (await exporting.org.accounts())["A002"]
    assert (account["Name"], account["BillingCity"]) == ("Renamed", "Found")
    errors = exporting.errors()
    assert (errors["A003"].closed_by, errors["A004"].state, errors["A004"].attempts) == ("gone", "open", 2)


async def test_a_row_that_changes_while_it_is_written_is_exported_again(
    exporting: Exporting, source_file: Path
) -> None:
    await left_out(exporting, source_file, 10, {2})
    put_airports(source_file, [("A002", "Old", "City")])
    await exporting.org.rule("slow", {"kind": "slow", "seconds": 1})
    async with exporting.org.next_call():
        running = asyncio.create_task(exporting.reexport())
    put_airports(source_file, [("A002", "New", "City")])
    assert (await running).exported == 1
    assert (await exporting.org.accounts())["A002"]["Name"] == "New"
    assert (await exporting.org.written()).count("A002") == 2


@pytest.mark.parametrize("job_settings", [{"retry": {"initial": "1h", "maximum": "1h"}}])
async def test_the_held_record_of_a_paused_run_goes_through_and_the_run_carries_on_at_once(
    exporting: Exporting, source_file: Path
) -> None:
    airports(source_file, 10, {4})
    await exporting.org.rule("city", NO_CITY)
    handle = await exporting.start()
    await exporting.until_held(handle, "A004")
    while exporting.errors()["A004"].attempts < 2:
        await asyncio.sleep(0.05)
    await exporting.org.drop("city")
    assert (await exporting.reexport()).exported == 1
    assert (await handle.result()).exported == 10


async def test_job_level_trouble_is_waited_out_and_counts_no_attempt(exporting: Exporting, source_file: Path) -> None:
    await left_out(exporting, source_file, 10, {2})
    await exporting.org.drop("city")
    await exporting.org.rule("down", {"kind": "outage"})
    running = asyncio.create_task(exporting.reexport())
    query = (
        f'WorkflowType="CRMExport_ExportError" AND ExportState="Blocked" AND ExportConnection="{exporting.connection}"'
    )
    while not [run async for run in exporting.client.list_workflows(query)]:
        await asyncio.sleep(0.05)
    assert exporting.errors()["A002"].attempts == 1
    await exporting.org.drop("down")
    handle = exporting.client.get_workflow_handle(f"CRMExport_ExportError/{exporting.connection}")
    assert (await ask(handle, CRMExportExportError.update_retry_now)).code == "SERVER_UNAVAILABLE"
    assert (await running).exported == 1


async def test_one_that_is_not_blocked_says_so_to_who_asks(exporting: Exporting, source_file: Path) -> None:
    await left_out(exporting, source_file, 10, {2})
    await exporting.org.rule("slow", {"kind": "slow", "seconds": 1})
    running = asyncio.create_task(exporting.reexport())
    handle = exporting.client.get_workflow_handle(f"CRMExport_ExportError/{exporting.connection}")
    while not [run async for run in exporting.client.list_workflows(f'WorkflowId="{handle.id}"')]:
        await asyncio.sleep(0.05)
    with pytest.raises(WorkflowUpdateFailedError) as told:
        await ask(handle, CRMExportExportError.update_retry_now)
    assert "is not blocked" in str(told.value.cause)
    await running


async def test_one_that_is_cancelled_while_its_page_ends_begins_no_other(
    exporting: Exporting, source_file: Path
) -> None:
    await left_out(exporting, source_file, 10, {2})
    await exporting.org.rule("down", {"kind": "outage"})
    running = asyncio.create_task(exporting.reexport())
    handle = exporting.client.get_workflow_handle_for(
        CRMExportExportError.run, f"CRMExport_ExportError/{exporting.connection}"
    )
    query = (
        f'WorkflowType="CRMExport_ExportError" AND ExportState="Blocked" AND ExportConnection="{exporting.connection}"'
    )
    while not [run async for run in exporting.client.list_workflows(query)]:
        await asyncio.sleep(0.05)
    await exporting.org.rule("slow", {"kind": "slow", "seconds": 2})
    await exporting.org.drop("down")
    async with exporting.org.next_call():
        await handle.signal(CRMExportExportError.retry_now)
    await handle.signal(CRMExportExportError.retry_now)
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as ended:
        await running
    assert isinstance(ended.value.cause, CancelledError)


async def test_a_job_in_trouble_of_its_own_is_left_for_the_next_day(exporting: Exporting, source_file: Path) -> None:
    await left_out(exporting, source_file, 10, {2})
    rename_table(source_file, "airports", "moved")
    result = await exporting.reexport()
    assert list(result.not_tried) == ["accounts"]
    assert "accounts was not tried: SOURCE_QUERY_FAILED" in result.outcome
    assert exporting.errors()["A002"].attempts == 1
    rename_table(source_file, "moved", "airports")
    await exporting.org.rule("field", {"kind": "permission", "field": "BillingCity", "hidden": True})
    assert "INVALID_FIELD" in (await exporting.reexport()).not_tried["accounts"]
    await exporting.org.drop("field")
    await exporting.org.drop("city")
    assert (await exporting.reexport()).exported == 1


async def test_chosen_errors_or_one_cause_are_exported_again(exporting: Exporting, source_file: Path) -> None:
    await left_out(exporting, source_file, 10, {2, 3, 4})
    put_airports(source_file, [("A005", "x" * 300, "City")])
    await (await exporting.start()).result()
    await exporting.org.drop("city")
    chosen = ReexportOnly(ids=(exporting.errors()["A003"].id,))
    assert (await reexport_only(exporting, chosen)).outcome == "1 exported, 0 refused again, 0 gone"
    assert [key for key, error in exporting.errors().items() if error.state == "closed"] == ["A003"]
    cause = ReexportOnly(job="accounts", code="FIELD_CUSTOM_VALIDATION_EXCEPTION")
    assert (await reexport_only(exporting, cause)).exported == 2
    assert exporting.errors()["A005"].attempts == 1
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await reexport_only(exporting, ReexportOnly(ids=tuple(range(1, 1_002))))
    assert "at most 1,000" in str(refused.value.cause)


async def test_one_of_chosen_errors_at_a_time(exporting: Exporting, source_file: Path) -> None:
    await left_out(exporting, source_file, 10, {2})
    await exporting.org.rule("down", {"kind": "outage"})
    wanted = ReexportWanted(connection=exporting.connection, only=ReexportOnly(job="accounts"), by="Ada")
    first, second = [await ask(exporting.inbox, ExportErrors.reexport_only, wanted) for _ in range(2)]
    assert (first.started, second.started) == (True, False)
    assert first.workflow_id == f"CRMExport_ExportError/{exporting.connection}-chosen" == second.workflow_id
    described = await exporting.client.get_workflow_handle(first.workflow_id).describe()
    assert described.raw_description.workflow_execution_info.priority.fairness_key == exporting.connection


async def reexport_only(exporting: Exporting, only: ReexportOnly) -> ReexportResult:
    wanted = ReexportWanted(connection=exporting.connection, only=only, by="Ada")
    started: ReexportStarted = await ask(exporting.inbox, ExportErrors.reexport_only, wanted)
    handle = exporting.client.get_workflow_handle_for(CRMExportExportError.run, started.workflow_id)
    return await handle.result()


async def test_a_record_that_an_export_sends_closes_its_row(exporting: Exporting, source_file: Path) -> None:
    await left_out(exporting, source_file, 10, {2})
    await exporting.org.drop("city")
    await (await exporting.start()).result()
    assert exporting.errors()["A002"].closed_by == "export"
    assert (await exporting.reexport()).outcome == "0 exported, 0 refused again, 0 gone"
