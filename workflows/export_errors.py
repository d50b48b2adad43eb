"""ExportErrors: a connection's inbox of failures, and the memory of what is open."""

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.export_errors import MOST_CAUSES, ExportErrorsActivities
    from activities.requests import (
        MOST_CHOSEN,
        ErrorReport,
        ErrorsSummary,
        Notice,
        ReexportStarted,
        ReexportWanted,
    )
    from workflows import shown, timeouts
    from workflows.trouble import raise_if_cancelled


@workflow.defn(name="ExportErrors")
class ExportErrors:
    """Hears of refused records, tells people about each change of state once, and starts re-exports.

    The rows themselves are in the table: what this workflow carries is bounded, whatever fails.
    """

    @workflow.init
    def __init__(self, summary: ErrorsSummary) -> None:
        self._summary = summary
        self._blocked = dict(summary.blocked if summary.not_told is None else summary.not_told)
        self._reported = True
        self._reexport_asked = False

    @workflow.run
    async def run(self, summary: ErrorsSummary) -> None:
        """Reconcile with the table whenever something was reported, and once an hour; act on what is different."""
        workflow.upsert_search_attributes([shown.EXPORT_CONNECTION.value_set(summary.connection)])
        while not workflow.info().is_continue_as_new_suggested():
            try:
                await workflow.wait_condition(
                    lambda: self._reported or self._reexport_asked, timeout=timeouts.RECONCILE_EVERY
                )
            except TimeoutError:
                self._reported = True
            if self._reported:
                self._reported = False
                await self._reconcile()
            if self._reexport_asked:
                self._reexport_asked = False
                await self._start_reexport()
        while self._reexport_asked or not workflow.all_handlers_finished():
            if self._reexport_asked:
                self._reexport_asked = False
                await self._start_reexport()
            await workflow.wait_condition(workflow.all_handlers_finished)
        # The next run begins by reconciling: what was refused meanwhile is in the table, what is blocked is not. (To
        # reconcile here until nobody reports would have no end where many do.)
        workflow.continue_as_new(self._summary.model_copy(update={"not_told": dict(self._blocked)}))

    async def _reconcile(self) -> None:
        before = self._summary
        now = await workflow.execute_activity_method(
            ExportErrorsActivities.summarise_errors,
            before.connection,
            **timeouts.STORE_WORK,
        )
        self._summary = now.model_copy(update={"blocked": dict(self._blocked)})
        workflow.set_current_details(_details(self._summary))
        for text in _changes(before, self._summary):
            await self._tell(text)

    async def _tell(self, text: str) -> None:
        """Tell people, where they can be told: the inbox outlives their webhook."""
        try:
            await workflow.execute_activity_method(
                ExportErrorsActivities.notify,
                Notice(connection=self._summary.connection, text=text),
                start_to_close_timeout=timeouts.STORE_CALL,
                heartbeat_timeout=timeouts.HEARTBEAT,
                retry_policy=timeouts.A_FEW_TIMES,
            )
        except ActivityError as error:
            raise_if_cancelled()
            workflow.logger.warning(f"{self._summary.connection}: people were not told: {error.cause}")

    async def _start_reexport(self) -> None:
        await workflow.execute_activity_method(
            ExportErrorsActivities.start_reexport,
            self._summary.connection,
            **timeouts.STORE_WORK,
        )

    @workflow.signal(description="From an export: records were refused, held or released")
    def report(self, report: ErrorReport) -> None:
        self._reported = True
        if report.job and report.blocked:
            self._blocked[report.job] = report.blocked
        else:
            self._blocked.pop(report.job, None)

    @workflow.signal(description="Export the open errors again now")
    def reexport(self) -> None:
        self._reexport_asked = True

    @workflow.update(name="reexport", description="Export the open errors again now; answers how many are open")
    def update_reexport(self) -> int:
        self.reexport()
        return self._summary.open_errors

    @workflow.update(description="Export chosen open errors, or those of one cause, again now; answers which run does")
    async def reexport_only(self, wanted: ReexportWanted) -> ReexportStarted:
        return await workflow.execute_activity_method(
            ExportErrorsActivities.start_reexport_only,
            wanted,
            start_to_close_timeout=timeouts.STORE_CALL,
            retry_policy=timeouts.UNTIL_IT_WORKS,
        )

    @reexport_only.validator
    def _is_some(self, wanted: ReexportWanted) -> None:
        only = wanted.only
        if not (only.ids or only.job or only.code):
            raise ValueError("say which errors: their IDs, a job or a code")
        if len(only.ids) > MOST_CHOSEN:
            raise ValueError(f"at most {MOST_CHOSEN:,} errors at a time are exported again, not {len(only.ids):,}")

    @workflow.query(description="What is open: by job and cause, since when")
    def summary(self) -> ErrorsSummary:
        return self._summary


def _changes(before: ErrorsSummary, now: ErrorsSummary) -> list[str]:
    """One line for each change that people want to hear of: never one a record."""
    lines = [
        f"{text} · {job} of {now.connection} is paused there"
        for job, text in now.held.items()
        if _key(before.held.get(job)) != _key(text)
    ]
    lines += [f"{job} of {now.connection} is no longer paused" for job in before.held if job not in now.held]
    lines += [
        f"{text} · {job} of {now.connection} is blocked"
        for job, text in now.blocked.items()
        if job not in before.blocked
    ]
    lines += [f"{job} of {now.connection} is not blocked any more" for job in before.blocked if job not in now.blocked]
    known = {(cause.job, cause.code) for cause in before.causes}
    open_now = {(cause.job, cause.code) for cause in now.causes}
    lines += [
        f"{cause.code} · {cause.count:,} records of {cause.job} were left out, first {', '.join(cause.first_keys)}"
        for cause in now.causes
        if (cause.job, cause.code) not in known and cause.job not in now.held
    ]
    if len(now.causes) < MOST_CAUSES:
        # Of a list that is cut, a cause may be missing because others have become commoner.
        lines += [f"{code} · no record of {job} fails with it any more" for job, code in sorted(known - open_now)]
    return lines


def _key(held: str | None) -> str | None:
    """The head of an error text, code and record: a message that varies is no news."""
    return held.split(":", 1)[0] if held else None


def _details(summary: ErrorsSummary) -> str:
    if not summary.open_errors:
        return "No open errors."
    rows = [
        f"| {cause.job} | {cause.code} | {cause.count:,} | {cause.since:%Y-%m-%d %H:%M} UTC | "
        f"{', '.join(f'`{key}`' for key in cause.first_keys)} |"
        for cause in summary.causes
    ]
    head = "| job | code | records | since | first keys |\n|---|---|---|---|---|"
    return "\n".join([f"**{summary.open_errors:,} open errors**\n", head, *rows])
