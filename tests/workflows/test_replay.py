"""Histories of every path, recorded by ``make histories``, are replayed: a running export survives a new version.

A paused export may be weeks old when a worker of a new version takes it over, and that worker replays its history.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

import worker
from activities.codec import data_converter
from tests.workflows.conftest import Exporting
from tests.workflows.test_export import airports

HISTORIES = Path(__file__).parent.parent / "histories"
PATHS = {
    *("plain", "paused_and_healed", "paused_and_released", "skipped", "retried", "gone", "blocked", "cancelled"),
    *("continued_as_new", "continued", "not_started", "reexport", "settings", "inbox"),
}
_BROKEN = """
A workflow does something else than it did when {name}.json was recorded ({why}).
An export that runs, or is paused, while this version is deployed would get stuck at its next step. Keep what old runs
do behind a patch, and let new runs take the new way:

    if workflow.patched("what-is-different"):
        ...  # new
    else:
        ...  # as it was

Then record a history of the new way beside the old one (make histories), and remove the patch when no run of before it
is left (workflow.deprecate_patch). Only where no run of the old version can exist any more may the old history go.
"""


def test_every_path_is_recorded() -> None:
    recorded = {file.stem for file in HISTORIES.glob("*.json")}
    assert recorded >= PATHS, f"tests/histories/ lacks {sorted(PATHS - recorded)}: make histories"


@pytest.mark.parametrize("name", sorted({*PATHS, *(file.stem for file in HISTORIES.glob("*.json"))}))
async def test_replay(name: str) -> None:
    replayer = Replayer(
        workflows=worker.WORKFLOWS,
        workflow_runner=worker.SANDBOX,
        interceptors=worker.INTERCEPTORS,
        data_converter=data_converter({}),
    )
    history = WorkflowHistory.from_json(name, (HISTORIES / f"{name}.json").read_text())
    result = await replayer.replay_workflow(history, raise_on_replay_failure=False)
    assert result.replay_failure is None, _BROKEN.format(name=name, why=result.replay_failure)


@pytest.mark.parametrize("name", sorted(PATHS))
def test_no_killed_worker_keeps_an_activity_for_long(name: str) -> None:
    """Found by chaos seed 2: beginning a run had a time limit of half an hour, and no heartbeat."""
    for event in _events(name):
        scheduled = event.get("activityTaskScheduledEventAttributes")
        if scheduled:
            assert scheduled.get("heartbeatTimeout", "0s") != "0s", scheduled["activityType"]


@pytest.mark.parametrize("name", sorted(PATHS))
def test_fingerprints_are_those_of_the_histories(name: str) -> None:
    assert (HISTORIES / f"{name}.txt").read_text().splitlines() == fingerprint({"events": _events(name)})


async def test_a_run_of_today_has_the_recorded_fingerprint(exporting: Exporting, source_file: Path) -> None:
    """What replay does not compare: time limits, retries, what is shown."""
    airports(source_file, 35, set())
    handle = await exporting.start()
    await handle.result()
    today = json.loads((await handle.fetch_history()).to_json())
    recorded = (HISTORIES / "plain.txt").read_text().splitlines()
    assert fingerprint(today) == recorded, "ExportWorkflow does not do any more what was recorded: make histories"


def fingerprint(history: dict[str, Any]) -> list[str]:
    """The commands of one execution, a line each, with the limits that they set."""
    lines = []
    for event in history["events"]:
        kind = event["eventType"].removeprefix("EVENT_TYPE_")
        if kind == "ACTIVITY_TASK_SCHEDULED":
            scheduled = event["activityTaskScheduledEventAttributes"]
            retry = scheduled["retryPolicy"]
            limits = [
                f"within {scheduled['startToCloseTimeout']}",
                f"heartbeat {scheduled.get('heartbeatTimeout', 'none')}",
                f"retried after {retry['initialInterval']} up to {retry['maximumInterval']}",
                f"{retry.get('maximumAttempts', 'endless')} attempts",
            ]
            lines.append(f"{kind} {scheduled['activityType']['name']}: {', '.join(limits)}")
        elif kind in _COMMANDS:
            lines.append(kind)
    return lines


_COMMANDS = {
    "UPSERT_WORKFLOW_SEARCH_ATTRIBUTES",
    "WORKFLOW_PROPERTIES_MODIFIED",
    "ACTIVITY_TASK_CANCEL_REQUESTED",
    "TIMER_STARTED",
    "TIMER_CANCELED",
    "MARKER_RECORDED",
    "WORKFLOW_EXECUTION_UPDATE_ACCEPTED",
    "WORKFLOW_EXECUTION_UPDATE_COMPLETED",
    "WORKFLOW_EXECUTION_COMPLETED",
    "WORKFLOW_EXECUTION_CONTINUED_AS_NEW",
    "WORKFLOW_EXECUTION_CANCELED",
}


def _events(name: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads((HISTORIES / f"{name}.json").read_text())["events"]
    return events
