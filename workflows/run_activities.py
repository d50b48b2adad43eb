"""The activities of one run, each with its limits."""

from temporalio import workflow
from temporalio.workflow import ActivityCancellationType, ActivityHandle

with workflow.unsafe.imports_passed_through():
    from activities.export import ExportActivities
    from activities.export_errors import ExportErrorsActivities
    from activities.requests import (
        ErrorReport,
        FinishRequest,
        JobRequest,
        PageRequest,
        RunPlan,
        RunSetting,
    )
    from crm_export.model import HeldFate, HeldRecord, JobTrouble, PageResult, Position, RunRef, RunState
    from workflows import shown, timeouts


class RunActivities:
    """What one run asks of the world. ``patient``: job-level trouble is retried without end instead of returned."""

    def __init__(self, run: RunRef) -> None:
        self._run = run
        self.heartbeat = RunPlan().heartbeat
        """As the job is configured, once the run has begun."""

    def start_begin(self, patient: bool) -> ActivityHandle[RunPlan]:
        return workflow.start_activity_method(
            ExportActivities.begin_run,
            JobRequest(run=self._run, patient=patient),
            start_to_close_timeout=timeouts.LARGE_COUNT,
            heartbeat_timeout=timeouts.HEARTBEAT,
            retry_policy=timeouts.UNTIL_IT_WORKS,
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )

    def start_page(self, patient: bool, number: int, behind: Position | None) -> ActivityHandle[PageResult]:
        seconds = min(timeouts.PAGE, timeouts.FIRST_PAGE * 2 ** min(number - 1, 10)).total_seconds()
        return workflow.start_activity_method(
            ExportActivities.export_page,
            PageRequest(run=self._run, patient=patient, seconds=seconds),
            summary=shown.summary(f"page {number} behind {behind or 'the start'}"),
            start_to_close_timeout=timeouts.LONGEST_CALLS,
            heartbeat_timeout=self.heartbeat,
            retry_policy=timeouts.UNTIL_IT_WORKS,
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )

    def start_attempt(self, held: HeldRecord) -> ActivityHandle[HeldFate]:
        return workflow.start_activity_method(
            ExportActivities.export_held_record,
            JobRequest(run=self._run),
            summary=shown.summary(f"{held.object} {held.record_key} · {held.refusal.code}"),
            start_to_close_timeout=timeouts.LONGEST_CALLS,
            heartbeat_timeout=self.heartbeat,
            retry_policy=timeouts.UNTIL_IT_WORKS,
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )

    async def leave_out_held_record(self) -> HeldFate:
        return await workflow.execute_activity_method(
            ExportActivities.leave_out_held_record,
            JobRequest(run=self._run),
            **timeouts.STORE_WORK,
        )

    async def store_setting(self, pause_on_error: bool | None) -> None:
        await workflow.execute_activity_method(
            ExportActivities.set_run_setting,
            RunSetting(run=self._run, pause_on_error=pause_on_error),
            **timeouts.STORE_WORK,
        )

    def start_report(self, page: PageResult | None, blocked: JobTrouble | None) -> ActivityHandle[None]:
        return workflow.start_activity_method(
            ExportErrorsActivities.report_errors,
            ErrorReport(
                connection=self._run.connection,
                job=self._run.job,
                workflow_id=self._run.workflow_id,
                refused_by_code=page.refused_by_code if page else {},
                first_keys=page.first_keys if page else (),
                held=str(page.held) if page and page.held else None,
                blocked=str(blocked) if blocked else None,
            ),
            **timeouts.STORE_WORK,
        )

    async def finish(self, *, completed: bool) -> RunState:
        return await workflow.execute_activity_method(
            ExportActivities.finish_run,
            FinishRequest(run=self._run, completed=completed),
            **timeouts.STORE_WORK,
        )
