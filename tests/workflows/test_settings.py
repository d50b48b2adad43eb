"""CrmSettings: one change after the other, none lost, wrong ones answered."""

import asyncio

import pytest
from temporalio.client import WorkflowUpdateFailedError

from tests.workflows.conftest import Exporting, ask
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
    assert exporting.store.settings.changes(exporting.connection) == []
