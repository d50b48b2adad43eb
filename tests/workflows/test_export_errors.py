"""ExportErrors: what is open, by job and cause; one word to people for each change; small, whatever fails."""

import asyncio
from pathlib import Path

import pytest

from activities.export_errors import MOST_CAUSES
from activities.requests import ErrorReport, ErrorsSummary
from crm_export.model import OpenCause
from tests.parts import NO_CITY, put_airports
from tests.workflows.conftest import Exporting
from tests.workflows.test_export import airports
from workflows.export_errors import ExportErrors, _changes


async def summary(exporting: Exporting, open_errors: int) -> ErrorsSummary:
    while (found := await exporting.inbox.query(ExportErrors.summary)).open_errors != open_errors:
        await asyncio.sleep(0.05)
    return found


async def test_the_first_refusal_starts_it_and_summary_tells_what_is_open(
    exporting: Exporting, source_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    airports(source_file, 30, {2, 3, 14})
    put_airports(source_file, [("A020", "x" * 300, "City")])
    await exporting.org.rule("city", NO_CITY)
    exporting.store.settings.change(exporting.connection, "pause_on_error", False, "test")
    await (await exporting.start()).result()
    found = await summary(exporting, 4)
    assert [(c.job, c.code, c.count, c.first_keys) for c in found.causes] == [
        ("accounts", "FIELD_CUSTOM_VALIDATION_EXCEPTION", 3, ("A002", "A003", "A014")),
        ("accounts", "STRING_TOO_LONG", 1, ("A020",)),
    ]
    while "records of accounts were left out" not in caplog.text:
        await asyncio.sleep(0.05)
    await exporting.org.drop("city")
    await exporting.reexport()
    found = await summary(exporting, 1)
    assert [cause.code for cause in found.causes] == ["STRING_TOO_LONG"]
    while "no record of accounts fails with it any more" not in caplog.text:
        await asyncio.sleep(0.05)


async def test_a_pause_is_told_once_and_so_is_its_end(
    exporting: Exporting, source_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    airports(source_file, 10, {2})
    await exporting.org.rule("city", NO_CITY)
    handle = await exporting.start()
    await exporting.until_held(handle, "A002")
    while exporting.errors()["A002"].attempts < 3:
        await asyncio.sleep(0.05)
    assert list((await summary(exporting, 1)).held) == ["accounts"]
    await exporting.org.drop("city")
    await handle.result()
    assert (await summary(exporting, 0)).held == {}
    while f"accounts of {exporting.connection} is no longer paused" not in caplog.text:
        await asyncio.sleep(0.05)
    assert caplog.text.count("is paused there") == 1


async def test_what_it_carries_stays_small_whatever_fails(exporting: Exporting) -> None:
    await exporting.start_entities()
    inbox = exporting.client.get_workflow_handle(exporting.inbox.id)
    for number in range(300):
        report = ErrorReport(connection=exporting.connection, job="accounts", refused_by_code={"X": number})
        await inbox.signal("report", report)
    assert len((await exporting.inbox.query(ExportErrors.summary)).model_dump_json()) < 1_000


def test_a_cause_that_falls_out_of_a_cut_list_is_not_told_as_ended() -> None:
    causes = [
        OpenCause(job="accounts", code=f"CODE_{number}", count=100 - number, since="2026-01-01T00:00:00Z")
        for number in range(MOST_CAUSES + 1)
    ]
    full = ErrorsSummary(connection="acme", causes=tuple(causes[:MOST_CAUSES]))
    shifted = ErrorsSummary(connection="acme", causes=tuple(causes[1:]))
    assert not [line for line in _changes(full, shifted) if "any more" in line]
    shorter = ErrorsSummary(connection="acme", causes=tuple(causes[1:MOST_CAUSES]))
    assert _changes(full, shorter) == ["CODE_0 · no record of accounts fails with it any more"]


def test_the_model_that_is_carried_is_bounded() -> None:
    cause = OpenCause(job="j" * 60, code="C" * 60, count=1, since="2026-01-01T00:00:00Z", first_keys=("k" * 255,) * 5)
    assert len(ErrorsSummary(connection="c", causes=(cause,) * 50).model_dump_json()) < 100_000
