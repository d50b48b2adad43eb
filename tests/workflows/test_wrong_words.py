"""Signals, updates and starts with wrong payloads, for unknown jobs, from a stale console: an error or nothing, and
what runs runs on."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowHandle, WorkflowUpdateFailedError
from temporalio.service import RPCError

from crm_export.model import MOST_CALLS
from tests.parts import NO_CITY, put_airports
from tests.workflows.conftest import Exporting, ask
from tests.workflows.test_export import airports
from workflows.export import ExportWorkflow
from workflows.export_errors import ExportErrors
from workflows.settings import CrmSettings

NONSENSE: tuple[Any, ...] = (None, {"on": "perhaps"}, [True], "perhaps", 10**30, "x" * 100_000, "\0", "🦄")
Handle = WorkflowHandle[Any, Any]


async def test_nonsense_stops_nothing(exporting: Exporting, source_file: Path) -> None:
    airports(source_file, 15, {3})
    await exporting.org.rule("city", NO_CITY)
    settings = await exporting.start_entities()
    run = await exporting.start()
    await exporting.until_held(run, "A003")
    handles: list[Handle] = [run, settings, exporting.inbox]
    names = ("set_pause_on_error", "set_daily_api_limit", "connection_setting_changed", "report", "no_such_word")
    for handle in handles:
        for name in names:
            for payload in NONSENSE:
                await handle.signal(name, payload)
            await handle.signal(name, args=[1, 2, 3, 4])
    updates: list[tuple[Handle, str]] = [
        (run, "skip_record"),
        (run, "set_pause_on_error"),
        (settings, "set_pause_on_error"),
        (settings, "set_export_enabled"),
        (settings, "set_daily_api_limit"),
    ]
    for handle, update in updates:
        for payload in NONSENSE:
            with pytest.raises((WorkflowUpdateFailedError, RPCError)):
                await handle.execute_update(update, args=[payload, payload, payload])
    with pytest.raises((WorkflowUpdateFailedError, RPCError)):
        await run.execute_update("no_such_update")
    # None of it did anything.
    progress = await exporting.until_held(run, "A003")
    assert progress.state == "Paused"
    told = await ask(settings, CrmSettings.update_pause_on_error, False, "Ada")
    assert told.settings.daily_api_limit == 100_000
    assert (await run.result()).refused == 1
    while (await exporting.inbox.query(ExportErrors.summary)).open_errors != 1:
        await asyncio.sleep(0.05)
    async for one in exporting.client.list_workflows(f'ExportConnection="{exporting.connection}"'):
        assert "TemporalReportedProblems" not in one.search_attributes


async def test_settings_that_no_store_keeps_hold_up_no_others(exporting: Exporting) -> None:
    """A limit beyond its column, and a name of any length: the change after it must get its turn."""
    settings = await exporting.start_entities()
    await settings.signal(CrmSettings.set_daily_api_limit, MOST_CALLS + 1)
    for wrong in (0, -1, MOST_CALLS + 1):
        with pytest.raises(WorkflowUpdateFailedError) as refused:
            await ask(settings, CrmSettings.update_daily_api_limit, wrong, "Ada")
        assert "from 1 to 2,000,000,000" in str(refused.value.cause)
    told = await ask(settings, CrmSettings.update_daily_api_limit, MOST_CALLS, "Ada\0" * 1_000)
    assert told.settings.daily_api_limit == MOST_CALLS
    [change] = exporting.store.settings.changes(exporting.connection)
    assert change.by == ("Ada" * 1_000)[:255]


async def test_a_run_of_a_job_that_no_worker_knows_waits_and_says_so(exporting: Exporting, source_file: Path) -> None:
    """A deployment's old workers lack the new job, and a file that is mended brings one back."""
    keys = airports(source_file, 15, set())
    job = exporting.config.jobs.pop("accounts")
    handle = await exporting.start()
    progress = await exporting.until(handle, lambda progress: progress.blocked is not None)
    assert progress.blocked is not None
    assert progress.blocked.trouble.code == "NOT_CONFIGURED"
    assert f"job accounts of connection {exporting.connection} is not in" in progress.blocked.trouble.message
    exporting.config.jobs["accounts"] = job
    await ask(handle, ExportWorkflow.update_retry_now)
    assert (await handle.result()).exported == 15
    assert await exporting.org.written() == keys


async def test_a_run_whose_job_is_taken_away_for_a_while_lives_on(exporting: Exporting, source_file: Path) -> None:
    keys = airports(source_file, 15, {3})
    await exporting.org.rule("city", NO_CITY)
    handle = await exporting.start()
    await exporting.until_held(handle, "A003")
    job = exporting.config.jobs.pop("accounts")
    await ask(handle, ExportWorkflow.update_retry_now)
    while "NOT_CONFIGURED" not in str((await handle.describe()).raw_description.pending_activities):
        await asyncio.sleep(0.05)
    # Left out, it goes on with a page that no worker can begin.
    await ask(handle, ExportWorkflow.update_skip_record, "A003")
    await exporting.until(handle, lambda progress: progress.blocked is not None)
    exporting.config.jobs["accounts"] = job
    await ask(handle, ExportWorkflow.update_retry_now)
    assert (await handle.result()).exported == 14
    assert await exporting.org.written() == [key for key in keys if key != "A003"]


async def test_a_stale_console_skips_nothing(exporting: Exporting, source_file: Path) -> None:
    """It shows the record that was held a while ago; and then a run that has ended."""
    airports(source_file, 15, {3, 7})
    await exporting.org.rule("city", NO_CITY)
    run = await exporting.start()
    await exporting.until_held(run, "A003")
    await ask(run, ExportWorkflow.update_skip_record, "A003")
    await exporting.until_held(run, "A007")
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await ask(run, ExportWorkflow.update_skip_record, "A003")
    assert "holds record A007, not A003" in str(refused.value.cause)
    await run.signal(ExportWorkflow.skip_record)
    await run.result()
    with pytest.raises(RPCError):
        await ask(run, ExportWorkflow.update_skip_record, "A007")


async def test_keys_and_values_of_every_kind_arrive(exporting: Exporting, source_file: Path) -> None:
    """Over HTTP, into the CRM and the table, and by the re-export out of it again."""
    keys = ["a/b", "a b", "a'b", 'a"b', "a%2Fb", "a;b--", "ä🦄", "\u202egnp", "x" * 255, "y" * 256, "..", "#?&=", "<b>"]
    put_airports(source_file, [(key, f"Name of {index}", None) for index, key in enumerate(keys)])
    await exporting.org.rule("city", NO_CITY)
    exporting.store.settings.change(exporting.connection, "pause_on_error", False, "test")
    assert (await (await exporting.start()).result()).refused == len(keys)
    assert exporting.errors().keys() == set(keys)
    put_airports(source_file, [(key, f"Name of {index}", "City") for index, key in enumerate(keys)])
    result = await exporting.reexport()
    assert (result.exported, result.refused, result.gone) == (len(keys) - 1, 1, 0)
    assert exporting.errors()["y" * 256].code == "STRING_TOO_LONG"
    assert (await exporting.org.accounts()).keys() == set(keys) - {"y" * 256}


@pytest.mark.parametrize("how", ["html", "empty", "short", "half"])
async def test_an_answer_that_is_none_blocks_and_heals(exporting: Exporting, source_file: Path, how: str) -> None:
    keys = airports(source_file, 25, set())
    await exporting.org.rule("broken", {"kind": "outage", "how": how})
    run = await exporting.start()
    progress = await exporting.until(run, lambda progress: progress.blocked is not None)
    assert progress.blocked is not None
    assert progress.blocked.trouble.code == "UNEXPECTED_ANSWER"
    await exporting.org.drop("broken")
    assert (await run.result()).refused == 0
    assert list(dict.fromkeys(await exporting.org.written())) == keys


async def test_a_code_that_nobody_knows_and_a_message_of_5_mb_are_shown(
    exporting: Exporting, source_file: Path
) -> None:
    airports(source_file, 5, {3})
    rule = {**NO_CITY, "code": "NO_SUCH_CODE", "message": "Rule. " * 900_000}
    await exporting.org.rule("city", rule)
    run = await exporting.start()
    progress = await exporting.until_held(run, "A003")
    assert progress.held is not None
    assert progress.held.refusal.code == "NO_SUCH_CODE"
    assert len(progress.held.refusal.message) <= 500
    await run.signal(ExportWorkflow.skip_record)
    assert (await run.result()).refused == 1


@pytest.mark.parametrize("job_settings", [{"fields": {"Name": "name", "AnnualRevenue": "city"}}])
async def test_a_number_that_is_none_is_one_records_problem(exporting: Exporting, source_file: Path) -> None:
    """Salesforce fails the whole call for it, names no record, and quotes the value."""
    put_airports(source_file, [(f"A{i:03d}", "Airport", "lots-4711" if i == 17 else str(i)) for i in range(35)])
    run = await exporting.start()
    await exporting.until_held(run, "A017")
    assert await exporting.org.written() == [f"A{i:03d}" for i in range(17)]
    error = exporting.errors()["A017"]
    assert (error.code, error.message) == (
        "JSON_PARSER_ERROR",
        "Cannot deserialize instance of currency from VALUE_STRING value ‹AnnualRevenue›",
    )
    await run.signal(ExportWorkflow.set_pause_on_error, False)
    result = await run.result()
    assert (result.exported, result.refused) == (34, 1)
