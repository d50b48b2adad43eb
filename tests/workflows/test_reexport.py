"""CRMExport_ExportError: today's rows, the held record, nothing stale over something new."""

import asyncio
from pathlib import Path

import pytest

from tests.parts import NO_CITY, delete_airport, put_airports, rename_table
from tests.workflows.conftest import Exporting
from tests.workflows.test_export import airports


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
    calls = len(await exporting.org.calls())
    running = asyncio.create_task(exporting.reexport())
    while len(await exporting.org.calls()) == calls:
        await asyncio.sleep(0.02)
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
    assert (await running).exported == 1


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


async def test_a_record_that_an_export_sends_closes_its_row(exporting: Exporting, source_file: Path) -> None:
    await left_out(exporting, source_file, 10, {2})
    await exporting.org.drop("city")
    await (await exporting.start()).result()
    assert exporting.errors()["A002"].closed_by == "export"
    assert (await exporting.reexport()).outcome == "0 exported, 0 refused again, 0 gone"
