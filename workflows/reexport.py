"""CRMExport_ExportError: the daily re-export of what a connection's exports left out."""

from datetime import timedelta

from temporalio import workflow
from temporalio.workflow import ActivityCancellationType, ActivityHandle

with workflow.unsafe.imports_passed_through():
    from activities.export_errors import ExportErrorsActivities
    from activities.reexport import ReexportActivities
    from activities.requests import ErrorReport, ReexportPlan, ReexportReleased, ReexportRequest
    from crm_export.model import JobTrouble, Model, ReexportOnly, ReexportPage
    from workflows import shown, timeouts
    from workflows.shown import ExportState
    from workflows.trouble import ended, stopped


class ReexportInput(Model):
    """Which connection's open errors to export again: all, or ``only`` some; ``by`` is who asked. The rest is carried
    over when a long one continues as new."""

    connection: str
    only: ReexportOnly | None = None
    by: str = ""
    plan: ReexportPlan | None = None
    after: int = 0
    exported: int = 0
    refused: int = 0
    gone: int = 0
    not_tried: dict[str, str] = {}


class ReexportResult(Model):
    """What became of the open errors' records; ``outcome`` says it in words. ``not_tried`` are jobs in trouble of
    their own, with why: their errors wait for the next day."""

    outcome: str
    exported: int = 0
    refused: int = 0
    gone: int = 0
    not_tried: dict[str, str] = {}


@workflow.defn(name="CRMExport_ExportError")
class CRMExportExportError:
    """Exports each open error's record as the source has it now. It never stops at a failing record."""

    @workflow.init
    def __init__(self, request: ReexportInput) -> None:
        self._sofar = request
        self._plan = request.plan
        self._retry = False
        self._trouble: JobTrouble | None = None

    @workflow.run
    async def run(self, request: ReexportInput) -> ReexportResult:
        """Begin; page after page, export again; end with what is closed and what the CRM refuses still."""
        shown.show_state(ExportState.RUNNING, connection=request.connection)
        self._plan = request.plan or await self._begin()
        if not self._plan.export_enabled:
            shown.show_state(ExportState.COMPLETED, connection=request.connection)
            return ReexportResult(outcome=f"not started: Export to CRM is switched off for {request.connection}")
        while not (page := await self._export_page(self._plan)).finished:
            await self._add(page)
            if workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(self._sofar.model_copy(update={"plan": self._plan}))
        await self._add(page)
        shown.show_state(ExportState.COMPLETED, connection=request.connection)
        await self._report()
        return self._result()

    async def _begin(self) -> ReexportPlan:
        return await workflow.execute_activity_method(
            ReexportActivities.begin_reexport,
            self._sofar.connection,
            **timeouts.STORE_WORK,
        )

    async def _export_page(self, plan: ReexportPlan) -> ReexportPage:
        page = await self._start_page(plan, patient=False)
        if page.trouble is None:
            return page
        await self._add(page)
        return await self._wait_out(plan, page.trouble)

    async def _wait_out(self, plan: ReexportPlan, trouble: JobTrouble) -> ReexportPage:
        """Retry the page without end; once its trouble lasts for ``blocked_after``, show the re-export as blocked."""
        self._trouble, self._retry = trouble, False
        page: ReexportPage | None = None
        within: timedelta | None = plan.blocked_after
        while page is None:
            attempt = self._start_page(plan, patient=True)
            if not await ended(attempt, unless=lambda: self._retry, within=within) and not self._retry:
                shown.show_state(ExportState.BLOCKED, connection=self._sofar.connection, code=trouble.code)
                within = None
                await ended(attempt, unless=lambda: self._retry)
            page = await attempt if attempt.done() else await stopped(attempt)
            self._retry = False
        self._trouble = None
        shown.show_state(ExportState.RUNNING, connection=self._sofar.connection)
        return page

    def _start_page(self, plan: ReexportPlan, *, patient: bool) -> ActivityHandle[ReexportPage]:
        return workflow.start_activity_method(
            ReexportActivities.reexport_page,
            ReexportRequest(
                connection=self._sofar.connection,
                run_id=workflow.info().first_execution_run_id,
                until=plan.until,
                after=self._sofar.after,
                only=self._sofar.only,
                patient=patient,
            ),
            summary=shown.summary(f"open errors behind row {self._sofar.after} up to {plan.until}"),
            start_to_close_timeout=timeouts.LONGEST_CALLS,
            heartbeat_timeout=timeouts.HEARTBEAT,
            retry_policy=timeouts.UNTIL_IT_WORKS,
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )

    async def _report(self) -> None:
        await workflow.execute_activity_method(
            ExportErrorsActivities.report_errors,
            ErrorReport(connection=self._sofar.connection),
            **timeouts.STORE_WORK,
        )

    async def _add(self, page: ReexportPage) -> None:
        """Count what a page came to, and tell the paused runs whose record went through."""
        self._sofar = self._sofar.model_copy(
            update={
                "after": page.after,
                "exported": self._sofar.exported + page.exported,
                "refused": self._sofar.refused + page.refused,
                "gone": self._sofar.gone + page.gone,
                "not_tried": {**self._sofar.not_tried, **page.not_tried},
            }
        )
        workflow.set_current_details(self._result().outcome)
        if page.released:
            await workflow.execute_activity_method(
                ReexportActivities.tell_paused_runs,
                ReexportReleased(connection=self._sofar.connection, jobs=page.released),
                **timeouts.STORE_WORK,
            )

    def _result(self) -> ReexportResult:
        done = self._sofar
        trouble = "".join(f"; {job} was not tried: {why}" for job, why in done.not_tried.items())
        return ReexportResult(
            outcome=f"{done.exported:,} exported, {done.refused:,} refused again, {done.gone:,} gone{trouble}",
            not_tried=done.not_tried,
            exported=done.exported,
            refused=done.refused,
            gone=done.gone,
        )

    @workflow.signal(description="Try what blocks the re-export now")
    def retry_now(self) -> None:
        self._retry = self._trouble is not None

    @workflow.update(name="retry_now", description="Try what blocks the re-export now; answers what that is")
    def update_retry_now(self, by: str = "") -> JobTrouble:
        self.retry_now()
        assert self._trouble is not None
        return self._trouble

    @update_retry_now.validator
    def _is_blocked(self, by: str = "") -> None:
        if self._trouble is None:
            raise ValueError(f"the re-export of {self._sofar.connection} is not blocked")

    @workflow.signal(description="From the settings workflow: the connection's settings have changed")
    def connection_setting_changed(self, pause_on_error: bool | None) -> None:
        self.retry_now()

    @workflow.signal(description="From the command line or the console: who started this re-export")
    def asked_by(self, by: str) -> None:
        self._sofar = self._sofar.model_copy(update={"by": by})

    @workflow.query(description="What became of the open errors so far")
    def progress(self) -> ReexportResult:
        return self._result()
