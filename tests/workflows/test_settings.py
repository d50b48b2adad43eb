"""CrmSettings: one change after the other, none lost, wrong ones answered."""

import asyncio
from pathlib import Path

import pytest
from temporalio.client import WorkflowUpdateFailedError

from tests.workflows.conftest import Exporting, ask
from tests.workflows.test_export import airports
from workflows.settings import CrmSettings


async def test_no_signal_is_lost_over_many_continue_as_news(exporting: Exporting) -> None:
    settings = await exporting.start_entities()
    for calls in range(1, 41):
        await exporting.client.get_workflow_handle(settings.id).signal("set_daily_api_limit", calls)
    while exporting.store.settings.get(exporting.connection).daily_api_limit != 40:
        await asyncio.sleep(0.05)
    changes = exporting.store.settings.changes(exporting.connection, most=100)
    assert [change.new for change in reversed(changes)] == [str(calls) for calls in range(1, 41)]
    runs = [run async for run in exporting.client.list_workflows(f'WorkflowId="{settings.id}"')]
    assert len(runs) >= 3


async def test_one_that_is_changed_by_updates_alone_continues_as_new_too(exporting: Exporting) -> None:
    settings = await exporting.start_entities()
    handle = exporting.client.get_workflow_handle_for(CrmSettings.run, settings.id)
    for calls in range(1, 21):
        told = await ask(handle, CrmSettings.update_daily_api_limit, calls, "Ada")
        assert told.settings.daily_api_limit == calls
    await asyncio.gather(*(ask(handle, CrmSettings.update_daily_api_limit, calls, "Bob") for calls in range(1, 9)))
    assert len(exporting.store.settings.changes(exporting.connection, most=100)) == 28
    while len([run async for run in exporting.client.list_workflows(f'WorkflowId="{settings.id}"')]) < 2:
        await asyncio.sleep(0.05)


async def test_two_people_at_once_end_in_one_state_that_both_see(exporting: Exporting) -> None:
    settings = await exporting.start_entities()
    told = await asyncio.gather(
        *(ask(settings, CrmSettings.update_pause_on_error, on, who) for on, who in ((False, "Ada"), (True, "Bob")))
    )
    last = exporting.store.settings.get(exporting.connection)
    assert last in [answer.settings for answer in told]
    handle = exporting.client.get_workflow_handle_for(CrmSettings.run, settings.id)
    assert await handle.query(CrmSettings.settings) == last


async def test_a_wrong_payload_changes_nothing_and_an_update_says_so(exporting: Exporting) -> None:
    settings = await exporting.start_entities()
    await settings.signal("set_daily_api_limit", 0)
    await settings.signal("set_pause_on_error", {"on": "perhaps"})
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await ask(settings, CrmSettings.update_daily_api_limit, 0, "Ada")
    assert "from 1 to 2,000,000,000" in str(refused.value.cause)
    with pytest.raises(WorkflowUpdateFailedError):
        await settings.execute_update("set_pause_on_error", args=["perhaps", "Ada"])
    await settings.signal("set_export_batch_size", 30)
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await ask(settings, CrmSettings.update_export_batch_size, 30, "Ada")
    assert "one of 25, 50, 100, 200" in str(refused.value.cause)
    assert exporting.store.settings.changes(exporting.connection) == []


@pytest.mark.parametrize("job_settings", [{"batch_size": 200}])
async def test_the_export_batch_size_bounds_every_call(exporting: Exporting, source_file: Path) -> None:
    settings = await exporting.start_entities()
    told = await ask(settings, CrmSettings.update_export_batch_size, 25, "Ada")
    assert told.settings.export_batch_size == 25
    airports(source_file, 60, set())
    assert (await (await exporting.start()).result()).exported == 60
    sizes = [call["records"] for call in await exporting.org.calls() if call.get("records")]
    assert sizes == [25, 25, 10]
