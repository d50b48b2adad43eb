"""What the ExportErrors workflow asks of the world, and how a run reaches it."""

import asyncio
import logging

import httpx
from temporalio import activity
from temporalio.client import Client, ScheduleActionExecutionStartWorkflow
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from activities.endings import trouble_raised
from activities.requests import ErrorReport, ErrorsSummary, Notice, ReexportStarted, ReexportWanted
from activities.temporal import fair
from crm_export.clients import Clients
from crm_export.model import error_text

MOST_CAUSES = 50
"""A summary stays small: so many causes at most, the commonest first."""
_KEYS_A_CAUSE = 5
logger = logging.getLogger("crm_export.errors")


class ExportErrorsActivities:
    """The activities of ExportErrors, and ``report_errors`` for those who report to it."""

    def __init__(self, clients: Clients, task_queue: str) -> None:
        self._clients = clients
        self._store = clients.store
        self._task_queue = task_queue

    @activity.defn
    async def report_errors(self, report: ErrorReport) -> None:
        """Signal the connection's ExportErrors workflow, and start it where it does not run."""
        await activity.client().start_workflow(
            "ExportErrors",
            ErrorsSummary(connection=report.connection),
            id=f"export-errors/{report.connection}",
            task_queue=self._task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            start_signal="report",
            start_signal_args=[report],
            priority=fair(report.connection),
        )

    @activity.defn
    async def summarise_errors(self, connection: str) -> ErrorsSummary:
        """What the ExportErrors table holds open."""

        def summarise() -> ErrorsSummary:
            return ErrorsSummary(
                connection=connection,
                open_errors=self._store.errors.count_open(connection),
                causes=tuple(self._store.errors.causes(connection, MOST_CAUSES, _KEYS_A_CAUSE)),
                held={
                    error.job: error_text(error.object, error.record_key, error.refusal)
                    for error in self._store.errors.held(connection)
                },
            )

        with trouble_raised():
            return await asyncio.to_thread(summarise)

    @activity.defn
    async def notify(self, notice: Notice) -> None:
        """Tell people: a line in the log, and to the connection's webhook where it has one."""
        logger.warning(notice.text, extra={"connection": notice.connection})
        with trouble_raised():
            webhook = self._clients.connection(notice.connection).notify
        if webhook is not None:
            try:
                async with httpx.AsyncClient(timeout=10) as client:
                    # The shape that Slack's, Mattermost's and Teams' incoming webhooks take.
                    (await client.post(webhook.get_secret_value(), json={"text": notice.text})).raise_for_status()
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                # httpx's own words hold the URL, and that is a credential.
                raise ApplicationError(f"the webhook did not take it ({_why(error)})") from None

    @activity.defn
    async def start_reexport(self, connection: str) -> None:
        """Trigger the daily re-export now; while one is running, that one goes on."""
        await activity.client().get_schedule_handle(f"CRMExport_ExportError/{connection}").trigger()

    @activity.defn
    async def start_reexport_only(self, wanted: ReexportWanted) -> ReexportStarted:
        """Start a re-export of some open errors, one at a time. While that of all is under way, it does these too."""
        client = activity.client()
        daily = await _running(client, f"CRMExport_ExportError/{wanted.connection}")
        if daily is not None:
            return ReexportStarted(workflow_id=daily.workflow_id, run_id=daily.first_execution_run_id, started=False)
        workflow_id = f"CRMExport_ExportError/{wanted.connection}-chosen"
        try:
            handle = await client.start_workflow(
                "CRMExport_ExportError",
                wanted,
                id=workflow_id,
                task_queue=self._task_queue,
                id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                static_summary=f"Re-export of {wanted.only}, asked for by {wanted.by}",
                priority=fair(wanted.connection),
            )
        except WorkflowAlreadyStartedError as error:
            return ReexportStarted(workflow_id=workflow_id, run_id=error.run_id, started=False)
        return ReexportStarted(workflow_id=workflow_id, run_id=handle.first_execution_run_id, started=True)


def _why(error: httpx.HTTPError | httpx.InvalidURL) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code}"
    return type(error).__name__


async def _running(client: Client, schedule_id: str) -> ScheduleActionExecutionStartWorkflow | None:
    """The run of a Schedule that is under way."""
    try:
        actions = (await client.get_schedule_handle(schedule_id).describe()).info.running_actions
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    return next((action for action in actions if isinstance(action, ScheduleActionExecutionStartWorkflow)), None)
