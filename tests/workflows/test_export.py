"""ExportWorkflow on a real server: order, pause, release, skip, gone, toggles."""

import asyncio
import base64
from pathlib import Path

import pytest
from temporalio.client import WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError

from crm_export.model import Settings
from tests.parts import NO_CITY, delete_airport, put_airports
from tests.workflows.conftest import Exporting, ask
from workflows.export import ExportWorkflow
from workflows.settings import CrmSettings


def airports(path: Path, count: int, without_city: set[int]) -> list[str]:
    """Airports A000, A001, …, where those of these numbers have no city; gives the keys."""
    keys = [f"A{i:03d}" for i in range(count)]
    put_airports(path, [(k, f"Airport {i}", None if i in without_city else f"City {i}") for i, k in enumerate(keys)])
    return keys


async def test_exports_everything_in_order(exporting: Exporting, source_file: Path) -> None:
    keys = airports(source_file, 35, set())
    result = await (await exporting.start()).result()
    assert (result.exported, result.refused, result.gone) == (35, 0, 0)
    assert await exporting.org.written() == keys
    assert result.outcome == "every record was exported"


async def test_pauses_exactly_at_the_refused_record_and_carries_on_when_mended(
    exporting: Exporting, source_file: Path
) -> None:
    keys = airports(source_file, 35, {17})
    await exporting.org.rule("city", NO_CITY)
    handle = await exporting.start()
    progress = await exporting.until_held(handle, "A017")
    assert progress.state == "Paused"
    assert progress.exported == 17
    assert await exporting.org.written() == keys[:17]
    assert exporting.errors()["A017"].state == "held"
    while exporting.errors()["A017"].attempts < 2:
        await asyncio.sleep(0.05)
    put_airports(source_file, [("A017", "Airport 17", "Mended")])
    result = await handle.result()
    assert (result.exported, result.refused) == (35, 0)
    assert await exporting.org.written() == keys
    assert (await exporting.org.accounts())["A017"]["BillingCity"] == "Mended"
    error = exporting.errors()["A017"]
    assert (error.state, error.closed_by) == ("closed", "export")
    assert error.attempts >= 2


async def test_signal_off_releases_the_held_record(exporting: Exporting, source_file: Path) -> None:
    keys = airports(source_file, 35, {17, 20})
    await exporting.org.rule("city", NO_CITY)
    handle = await exporting.start()
    await exporting.until_held(handle, "A017")
    await handle.signal(ExportWorkflow.set_pause_on_error, False)
    result = await handle.result()
    assert (result.exported, result.refused) == (33, 2)
    assert sorted(await exporting.org.written()) == [k for k in keys if k not in ("A017", "A020")]
    assert {k: e.state for k, e in exporting.errors().items()} == {"A017": "open", "A020": "open"}
    assert "2 records were left out" in result.outcome


async def test_bare_signal_to_the_settings_workflow_releases_and_counts_for_later_runs(
    exporting: Exporting, source_file: Path
) -> None:
    airports(source_file, 25, {3, 12})
    await exporting.org.rule("city", NO_CITY)
    settings = await exporting.start_entities()
    handle = await exporting.start()
    await exporting.until_held(handle, "A003")
    # As a bare `temporal workflow signal --input false` sends it.
    await exporting.client.get_workflow_handle(settings.id).signal("set_pause_on_error", False)
    result = await handle.result()
    assert (result.exported, result.refused) == (23, 2)
    assert exporting.store.settings.get(exporting.connection).pause_on_error is False
    [change] = exporting.store.settings.changes(exporting.connection)
    assert (change.setting, change.old, change.new, change.by) == ("pause_on_error", "on", "off", "signal")


async def test_settings_update_answers_who_is_told_and_what_is_released(
    exporting: Exporting, source_file: Path
) -> None:
    airports(source_file, 15, {3})
    await exporting.org.rule("city", NO_CITY)
    settings = await exporting.start_entities()
    handle = await exporting.start()
    await exporting.until_held(handle, "A003")
    told = await ask(settings, CrmSettings.update_pause_on_error, False, "Ada")
    assert told.told == (handle.id,)
    assert told.released == ("accounts A003",)
    assert (await handle.result()).refused == 1
    assert await settings.query(CrmSettings.settings) == Settings(pause_on_error=False)


async def test_on_again_pauses_at_the_next_refusal_in_the_middle_of_a_page(
    exporting: Exporting, source_file: Path
) -> None:
    keys = airports(source_file, 60, {5, 55})
    await exporting.org.rule("city", NO_CITY)
    await exporting.org.rule("slow", {"kind": "slow", "seconds": 0.3})
    settings = await exporting.start_entities()
    await ask(settings, CrmSettings.update_pause_on_error, False, "Ada")
    handle = await exporting.start()
    while "A005" not in exporting.errors():
        await asyncio.sleep(0.05)
    await ask(settings, CrmSettings.update_pause_on_error, True, "Ada")
    progress = await exporting.until_held(handle, "A055")
    assert progress.refused == 1
    assert await exporting.org.written() == [k for k in keys[:55] if k != "A005"]


async def test_signal_to_one_run_changes_that_run_alone(exporting: Exporting, source_file: Path) -> None:
    airports(source_file, 25, {3, 12})
    await exporting.org.rule("city", NO_CITY)
    handle = await exporting.start()
    await exporting.until_held(handle, "A003")
    released = await ask(handle, ExportWorkflow.update_pause_on_error, False)
    assert released.record_key == "A003"
    assert (await handle.result()).refused == 2
    assert exporting.store.settings.get(exporting.connection).pause_on_error is True


async def test_skip_leaves_one_record_out_and_the_next_refused_one_is_held(
    exporting: Exporting, source_file: Path
) -> None:
    airports(source_file, 25, {3, 12})
    await exporting.org.rule("city", NO_CITY)
    handle = await exporting.start()
    await exporting.until_held(handle, "A003")
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await ask(handle, ExportWorkflow.update_skip_record, "A012")
    assert "holds record A003, not A012" in str(refused.value.cause)
    assert (await ask(handle, ExportWorkflow.update_skip_record, "A003")).record_key == "A003"
    await exporting.until_held(handle, "A012")
    await handle.signal(ExportWorkflow.skip_record)
    result = await handle.result()
    assert (result.exported, result.refused) == (23, 2)
    assert {e.state for e in exporting.errors().values()} == {"open"}


async def test_a_held_record_that_leaves_the_source_is_gone(exporting: Exporting, source_file: Path) -> None:
    airports(source_file, 8, {3})
    await exporting.org.rule("city", NO_CITY)
    handle = await exporting.start()
    await exporting.until_held(handle, "A003")
    delete_airport(source_file, "A003")
    result = await handle.result()
    assert (result.exported, result.refused, result.gone) == (7, 0, 1)
    assert exporting.errors()["A003"].closed_by == "gone"


async def test_a_stuck_export_is_found_by_list_and_understood_by_describe(
    exporting: Exporting, source_file: Path
) -> None:
    airports(source_file, 8, {3})
    await exporting.org.rule("city", NO_CITY)
    handle = await exporting.start()
    await exporting.until_held(handle, "A003")
    query = f'ExportState="Paused" AND ExportConnection="{exporting.connection}"'
    while not (found := [run.id async for run in exporting.client.list_workflows(query)]):
        await asyncio.sleep(0.05)
    assert found == [handle.id]
    while not (pending := (await handle.describe()).raw_description.pending_activities)[0].HasField("last_failure"):
        await asyncio.sleep(0.05)
    assert pending[0].last_failure.message == (
        "FIELD_CUSTOM_VALIDATION_EXCEPTION · Account A003: An airport needs a city. · mend the row, or let an admin "
        "exempt the integration user from the validation rule · fields: BillingCity"
    )
    metadata = await handle.query("__temporal_workflow_metadata")
    assert "## Paused at Account `A003`" in metadata.current_details
    assert "What to do" in metadata.current_details


async def test_cancelling_a_paused_run_leaves_its_record_open_and_the_next_run_begins_there(
    exporting: Exporting, source_file: Path
) -> None:
    keys = airports(source_file, 25, {3})
    await exporting.org.rule("city", NO_CITY)
    handle = await exporting.start()
    await exporting.until_held(handle, "A003")
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as ended:
        await handle.result()
    assert isinstance(ended.value.cause, CancelledError)
    assert exporting.errors()["A003"].state == "open"
    await exporting.org.drop("city")
    assert (await (await exporting.start()).result()).exported == 22
    assert await exporting.org.written() == keys
    assert exporting.errors()["A003"].closed_by == "export"


@pytest.mark.parametrize("job_settings", [{"retry": {"initial": "1h", "maximum": "1h"}}])
async def test_a_run_that_fails_leaves_its_record_open_and_is_not_shown_as_paused(
    exporting: Exporting, source_file: Path
) -> None:
    """As ``temporal activity fail`` does it: nothing of ours ends a run but another run of the job."""
    airports(source_file, 25, {3})
    await exporting.org.rule("city", NO_CITY)
    handle = await exporting.start()
    await exporting.until_held(handle, "A003")
    while exporting.errors()["A003"].attempts < 2:
        await asyncio.sleep(0.05)
    await exporting.org.rule("slow", {"kind": "slow", "seconds": 2})
    async with exporting.org.next_call():
        await handle.signal(ExportWorkflow.retry_now)
    [pending] = (await handle.describe()).raw_description.pending_activities
    attempt = exporting.client.get_async_activity_handle(
        workflow_id=handle.id, run_id=None, activity_id=pending.activity_id
    )
    await attempt.fail(ApplicationError("somebody has had enough", non_retryable=True))
    with pytest.raises(WorkflowFailureError) as ended:
        await handle.result()
    assert isinstance(ended.value.cause, ActivityError)
    assert exporting.errors()["A003"].state == "open"
    query = f'ExportState="Completed" AND ExportConnection="{exporting.connection}"'
    while not [run async for run in exporting.client.list_workflows(query)]:
        await asyncio.sleep(0.05)


async def test_a_run_that_was_terminated_is_carried_on_by_the_next(exporting: Exporting, source_file: Path) -> None:
    keys = airports(source_file, 25, {13})
    await exporting.org.rule("city", NO_CITY)
    handle = await exporting.start()
    await exporting.until_held(handle, "A013")
    await handle.terminate()
    again = await exporting.start()
    await exporting.until_held(again, "A013")
    assert await exporting.org.written() == keys[:13]
    await exporting.org.drop("city")
    assert (await again.result()).exported == 12
    assert await exporting.org.written() == keys


async def test_of_two_runs_of_a_job_the_later_one_does_not_start(exporting: Exporting, source_file: Path) -> None:
    """A Schedule forgets a run that it started when the server is killed in that moment (chaos, seed 2001)."""
    keys = airports(source_file, 15, {3})
    await exporting.org.rule("city", NO_CITY)
    handle = await exporting.start()
    await exporting.until_held(handle, "A003")
    second = await exporting.start("-second")
    assert (await second.result()).outcome == f"not started: {handle.id} is under way"
    await exporting.org.drop("city")
    assert (await handle.result()).exported == 15
    assert await exporting.org.written() == keys


async def test_an_older_attempt_that_takes_over_does_not_end_the_run(exporting: Exporting, source_file: Path) -> None:
    """A worker that is stopped with an attempt in its hands begins it when it is resumed, while a newer attempt is
    under way elsewhere (chaos, seed 1017)."""
    keys = airports(source_file, 60, set())
    await exporting.org.rule("slow", {"kind": "slow", "seconds": 0.2})
    handle = await exporting.start()
    while not await exporting.org.written():
        await asyncio.sleep(0.05)
    state = exporting.store.runs.state(exporting.connection, "accounts")
    assert state is not None
    assert state.run is not None
    exporting.store.runs.claim(state.run, "Account")
    assert (await handle.result()).refused == 0
    assert list(dict.fromkeys(await exporting.org.written())) == keys


async def test_long_runs_continue_as_new_and_lose_neither_setting_nor_count(
    exporting: Exporting, source_file: Path
) -> None:
    refused = {3, 9, 12, 15, 18, 22, 30}
    keys = airports(source_file, 40, refused)
    await exporting.org.rule("city", NO_CITY)
    handle = await exporting.start()
    for number in sorted(refused)[:-1]:
        await exporting.until_held(handle, keys[number])
        await exporting.client.get_workflow_handle(handle.id).signal("skip_record")
    await exporting.until_held(handle, keys[30])
    await exporting.client.get_workflow_handle(handle.id).signal("set_pause_on_error", False)
    result = await handle.result()
    assert (result.exported, result.refused) == (33, 7)
    assert await exporting.org.written() == [k for i, k in enumerate(keys) if i not in refused]
    runs = [r async for r in exporting.client.list_workflows(f'WorkflowId="{handle.id}"')]
    assert len(runs) >= 2
    while await exporting.replay() < 2:
        await asyncio.sleep(0.1)


async def test_job_level_trouble_shows_as_blocked_writes_no_row_and_heals_by_itself(
    exporting: Exporting, source_file: Path
) -> None:
    keys = airports(source_file, 25, set())
    await exporting.org.rule("down", {"kind": "outage"})
    handle = await exporting.start()
    progress = await exporting.until(handle, lambda progress: progress.blocked is not None)
    assert progress.state == "Blocked"
    assert progress.blocked is not None
    assert progress.blocked.trouble.code == "SERVER_UNAVAILABLE"
    assert exporting.errors() == {}
    await exporting.org.drop("down")
    assert (await handle.result()).exported == 25
    assert await exporting.org.written() == keys


async def test_a_permission_that_is_missing_for_all_blocks_and_names_itself(
    exporting: Exporting, source_file: Path
) -> None:
    airports(source_file, 25, set())
    await exporting.org.rule("right", {"kind": "permission", "object": "Account"})
    handle = await exporting.start()
    progress = await exporting.until(handle, lambda progress: progress.blocked is not None)
    assert progress.blocked is not None
    assert progress.blocked.trouble.code == "INSUFFICIENT_ACCESS_OR_READONLY"
    assert exporting.errors() == {}
    await exporting.org.drop("right")
    await ask(handle, ExportWorkflow.update_retry_now)
    assert (await handle.result()).exported == 25


@pytest.mark.parametrize("pause", [True, False])
async def test_a_trigger_that_throws_is_blamed_on_the_record_that_makes_it_throw(
    exporting: Exporting, source_file: Path, pause: bool
) -> None:
    keys = airports(source_file, 25, set())
    exporting.store.settings.change(exporting.connection, "pause_on_error", pause, "test")
    await exporting.org.rule("trigger", {"kind": "trigger", "keys": ["A006"]})
    handle = await exporting.start()
    if pause:
        await exporting.until_held(handle, "A006")
        assert sorted(await exporting.org.written()) == keys[:6]
        await handle.signal(ExportWorkflow.skip_record)
    result = await handle.result()
    assert (result.exported, result.refused) == (24, 1)
    assert set(exporting.errors()) == {"A006"}


async def test_a_governor_limit_refuses_no_record(exporting: Exporting, source_file: Path) -> None:
    keys = airports(source_file, 25, set())
    await exporting.org.rule("cpu", {"kind": "governor_limit", "records": 3})
    assert (await (await exporting.start()).result()).exported == 25
    assert await exporting.org.written() == keys
    assert exporting.errors() == {}


@pytest.mark.parametrize("job_settings", [{"concurrency": 3, "batch_size": 5}])
async def test_with_concurrency_at_most_the_batches_in_flight_land_behind_the_held_record(
    exporting: Exporting, source_file: Path
) -> None:
    keys = airports(source_file, 60, {12})
    await exporting.org.rule("city", NO_CITY)
    await exporting.org.rule("slow", {"kind": "slow", "seconds": 0.1})
    handle = await exporting.start()
    await exporting.until_held(handle, "A012")
    written = set(await exporting.org.written())
    assert written >= set(keys[:12])
    assert written <= {*keys[:12], *keys[15:25]}
    await exporting.org.drop("city")
    assert (await handle.result()).exported == 60
    assert set(await exporting.org.written()) == set(keys)


async def test_export_to_crm_switched_off_starts_nothing(exporting: Exporting, source_file: Path) -> None:
    airports(source_file, 5, set())
    exporting.store.settings.change(exporting.connection, "export_enabled", False, "test")
    result = await (await exporting.start()).result()
    assert "switched off" in result.outcome
    assert await exporting.org.written() == []


async def test_export_to_crm_switched_off_lets_a_run_that_has_begun_go_on_as_new(
    exporting: Exporting, source_file: Path
) -> None:
    refused = [3, 9, 12, 15, 18, 22, 30]
    keys = airports(source_file, 40, set(refused))
    await exporting.org.rule("city", NO_CITY)
    handle = await exporting.start()
    await exporting.until_held(handle, keys[3])
    exporting.store.settings.change(exporting.connection, "export_enabled", False, "test")
    for number in refused:
        await exporting.until_held(handle, keys[number])
        await exporting.client.get_workflow_handle(handle.id).signal("skip_record")
    result = await handle.result()
    assert (result.exported, result.refused) == (33, 7)
    runs = [run async for run in exporting.client.list_workflows(f'WorkflowId="{handle.id}"')]
    assert len(runs) >= 2


@pytest.mark.parametrize("job_settings", [{"cursor": "updated_at"}])
async def test_a_job_with_a_cursor_exports_what_changed_since(exporting: Exporting, source_file: Path) -> None:
    airports(source_file, 12, set())
    assert (await (await exporting.start()).result()).exported == 12
    assert (await (await exporting.start()).result()).exported == 0
    put_airports(source_file, [("A005", "Renamed", "City")], at="2999-01-01 00:00:00")
    assert (await (await exporting.start()).result()).exported == 1
    assert (await exporting.org.accounts())["A005"]["Name"] == "Renamed"


async def test_a_job_without_a_cursor_exports_everything_each_time(exporting: Exporting, source_file: Path) -> None:
    airports(source_file, 12, set())
    assert (await (await exporting.start()).result()).exported == 12
    assert (await (await exporting.start()).result()).exported == 12


async def test_the_daily_limit_blocks_and_a_higher_one_releases(exporting: Exporting, source_file: Path) -> None:
    airports(source_file, 40, set())
    settings = await exporting.start_entities()
    await ask(settings, CrmSettings.update_daily_api_limit, 2, "Ada")
    handle = await exporting.start()
    progress = await exporting.until(handle, lambda progress: progress.blocked is not None)
    assert progress.blocked is not None
    assert progress.blocked.trouble.code == "DAILY_API_LIMIT"
    assert len(await exporting.org.written()) == 20
    await ask(settings, CrmSettings.update_daily_api_limit, 1000, "Ada")
    assert (await handle.result()).exported == 40


async def test_an_ended_session_is_renewed_without_a_word(exporting: Exporting, source_file: Path) -> None:
    airports(source_file, 30, set())
    await exporting.org.rule("slow", {"kind": "slow", "seconds": 0.2})
    handle = await exporting.start()
    while not await exporting.org.written():
        await asyncio.sleep(0.05)
    await exporting.org.expire_sessions()
    assert (await handle.result()).exported == 30


async def test_history_log_and_store_hold_no_field_value(
    exporting: Exporting, source_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "Zanzibar-Secret-Name"
    put_airports(source_file, [("A001", f"{secret} {'x' * 300}", "Quux-City"), ("A002", secret, None)])
    await exporting.org.rule("city", NO_CITY)
    settings = await exporting.start_entities()
    handle = await exporting.start()
    await exporting.until_held(handle, "A001")
    await ask(settings, CrmSettings.update_pause_on_error, False, "Ada")
    await handle.result()
    await exporting.reexport()
    histories = [
        (await exporting.client.get_workflow_handle(run.id, run_id=run.run_id).fetch_history()).to_json()
        async for run in exporting.client.list_workflows(f'ExportConnection="{exporting.connection}"')
    ]
    assert len(histories) >= 3
    rows = repr(exporting.errors())
    assert "STRING_TOO_LONG" in rows
    for place in (*histories, rows, caplog.text):
        assert "Zanzibar" not in place
        assert "Quux" not in place
        # Payloads are base64 in JSON histories.
        assert base64.b64encode(secret.encode()).decode()[4:16] not in place
