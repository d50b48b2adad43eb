"""``make histories``: plays every path that a workflow can take, for real, and keeps its histories for replay.

Not collected by ``make test``; :mod:`tests.workflows.test_replay` replays what this leaves in ``tests/histories/``.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle

from tests.parts import NO_CITY, delete_airport, put_airports
from tests.workflows.conftest import Exporting, ask
from tests.workflows.test_export import airports
from tests.workflows.test_replay import HISTORIES, fingerprint
from workflows.export import ExportWorkflow
from workflows.export_errors import ExportErrors
from workflows.settings import CrmSettings

Handle = WorkflowHandle[Any, Any]


async def test_plain(exporting: Exporting, source_file: Path) -> None:
    airports(source_file, 35, set())
    handle = await exporting.start()
    await handle.result()
    await _keep(exporting, "plain", handle)


async def test_paused_and_healed(exporting: Exporting, source_file: Path) -> None:
    handle = await _paused(exporting, source_file)
    put_airports(source_file, [("A003", "Airport 3", "Mended")])
    await handle.result()
    await _keep(exporting, "paused_and_healed", handle)


async def test_paused_and_released(exporting: Exporting, source_file: Path) -> None:
    handle = await _paused(exporting, source_file)
    await handle.signal(ExportWorkflow.set_pause_on_error, False)
    await handle.result()
    await _keep(exporting, "paused_and_released", handle)


async def test_skipped(exporting: Exporting, source_file: Path) -> None:
    handle = await _paused(exporting, source_file)
    await ask(handle, ExportWorkflow.update_skip_record, "A003")
    await handle.result()
    await _keep(exporting, "skipped", handle)


@pytest.mark.parametrize("job_settings", [{"retry": {"initial": "1h", "maximum": "1h"}}])
async def test_retried(exporting: Exporting, source_file: Path) -> None:
    handle = await _paused(exporting, source_file)
    while exporting.errors()["A003"].attempts < 2:
        await asyncio.sleep(0.05)
    await exporting.org.drop("city")
    await ask(handle, ExportWorkflow.update_retry_now)
    await handle.result()
    await _keep(exporting, "retried", handle)


async def test_gone(exporting: Exporting, source_file: Path) -> None:
    handle = await _paused(exporting, source_file)
    delete_airport(source_file, "A003")
    await handle.result()
    await _keep(exporting, "gone", handle)


async def test_blocked(exporting: Exporting, source_file: Path) -> None:
    airports(source_file, 25, set())
    await exporting.org.rule("down", {"kind": "outage"})
    handle = await exporting.start()
    await exporting.until(handle, lambda progress: progress.blocked is not None)
    await exporting.org.drop("down")
    await handle.result()
    await _keep(exporting, "blocked", handle)


async def test_continued_as_new(exporting: Exporting, source_file: Path) -> None:
    refused = {3, 9, 12, 15, 18, 22, 30}
    keys = airports(source_file, 40, refused)
    await exporting.org.rule("city", NO_CITY)
    handle = await exporting.start()
    for number in sorted(refused):
        await exporting.until_held(handle, keys[number])
        await exporting.client.get_workflow_handle(handle.id).signal("skip_record")
    await handle.result()
    runs = [run async for run in exporting.client.list_workflows(f'WorkflowId="{handle.id}"')]
    for run in runs:
        of_chain: Handle = exporting.client.get_workflow_handle(run.id, run_id=run.run_id)
        continued = run.status is WorkflowExecutionStatus.CONTINUED_AS_NEW
        await _keep(exporting, "continued_as_new" if continued else "continued", of_chain)
    assert len(runs) >= 2


async def test_cancelled(exporting: Exporting, source_file: Path) -> None:
    handle = await _paused(exporting, source_file)
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    await _keep(exporting, "cancelled", handle)


async def test_not_started(exporting: Exporting, source_file: Path) -> None:
    airports(source_file, 5, set())
    exporting.store.settings.change(exporting.connection, "export_enabled", False, "test")
    handle = await exporting.start()
    await handle.result()
    await _keep(exporting, "not_started", handle)


async def test_reexport(exporting: Exporting, source_file: Path) -> None:
    exporting.store.settings.change(exporting.connection, "pause_on_error", False, "test")
    airports(source_file, 15, {3, 7})
    await exporting.org.rule("city", NO_CITY)
    await (await exporting.start()).result()
    put_airports(source_file, [("A003", "Airport 3", "Mended")])
    await exporting.reexport()
    await _keep(
        exporting,
        "reexport",
        exporting.client.get_workflow_handle(f"CRMExport_ExportError/{exporting.connection}"),
    )


async def test_settings_and_inbox(exporting: Exporting, source_file: Path) -> None:
    settings = await exporting.start_entities()
    handle = await _paused(exporting, source_file)
    await ask(settings, CrmSettings.update_daily_api_limit, 5_000, "Ada")
    await settings.signal(CrmSettings.set_pause_on_error, False)
    await handle.result()
    while (await exporting.inbox.query(ExportErrors.summary)).open_errors != 1:
        await asyncio.sleep(0.05)
    await _keep(exporting, "settings", settings)
    await _keep(exporting, "inbox", exporting.inbox)


async def _paused(exporting: Exporting, source_file: Path) -> "WorkflowHandle[ExportWorkflow, Any]":
    airports(source_file, 15, {3})
    await exporting.org.rule("city", NO_CITY)
    handle = await exporting.start()
    await exporting.until_held(handle, "A003")
    return handle


async def _keep(exporting: Exporting, name: str, handle: Handle) -> None:
    """Keep a history that has ended, or rests: one that is cut in the midst of a workflow task cannot be replayed."""
    while True:
        history = json.loads((await handle.fetch_history()).to_json())
        tasks = [event["eventType"] for event in history["events"] if "WORKFLOW_TASK" in event["eventType"]]
        if tasks[-1] == "EVENT_TYPE_WORKFLOW_TASK_COMPLETED":
            break
        await asyncio.sleep(0.2)
    text = json.dumps(_without_names(history), indent=1, sort_keys=True)
    (HISTORIES / f"{name}.json").write_text(f"{text}\n")
    (HISTORIES / f"{name}.txt").write_text("\n".join([*fingerprint(history), ""]))


def _without_names(part: Any) -> Any:
    """Without the names of the machine that recorded it: its processes, and the folders in stack traces."""
    if isinstance(part, dict):
        return {
            name: "recorded" if name in ("identity", "stackTrace") else _without_names(value)
            for name, value in part.items()
        }
    return [_without_names(item) for item in part] if isinstance(part, list) else part
