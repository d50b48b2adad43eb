"""ExportWorkflow: one run of one export job."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from enum import StrEnum
from typing import Any, NoReturn, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError
from temporalio.workflow import ActivityHandle

with workflow.unsafe.imports_passed_through():
    from activities.requests import RunPlan
    from crm_export.model import (
        HeldFate,
        HeldRecord,
        JobTrouble,
        Model,
        PageResult,
        Position,
        RunCounts,
        RunRef,
    )
    from workflows import shown
    from workflows.run_activities import RunActivities
    from workflows.shown import Blocked, ExportState
    from workflows.trouble import ended, stopped

Result = TypeVar("Result", RunPlan, PageResult)


class ExportRequest(Model):
    """Which job to export. The rest is carried over when a long run continues as new."""

    connection: str
    job: str
    pages: int = 0
    pause_on_error: bool | None = None


class ExportResult(Model):
    """What became of the run's records; ``outcome`` says in words what a plain success would hide."""

    outcome: str
    exported: int = 0
    refused: int = 0
    gone: int = 0
    position: Position | None = None


class Progress(Model):
    """The answer to the query ``progress``; counts are those of the last page that ended."""

    state: ExportState
    exported: int
    refused: int
    gone: int
    total: int | None
    position: str | None
    held: HeldRecord | None
    blocked: Blocked | None
    pause_on_error: bool | None


class Released(Model):
    """The answer to an operator: the record key that the run waited on and does not any more, None if there is none."""

    record_key: str | None


class _Wish(StrEnum):
    """What an operator asks of a run that waits."""

    TRY_NOW = "try now"
    LEAVE_OUT = "leave out"


@workflow.defn(name="ExportWorkflow")
class ExportWorkflow:
    """Exports a job's records in order. A record that the CRM refuses is held, or left out: as the owner set."""

    @workflow.init
    def __init__(self, request: ExportRequest) -> None:
        self._request = request
        self._run = RunRef(
            connection=request.connection,
            job=request.job,
            run_id=workflow.info().first_execution_run_id,
            workflow_id=workflow.info().workflow_id,
        )
        self._activities = RunActivities(self._run)
        self._plan = RunPlan()
        self._state = ExportState.RUNNING
        self._pages = request.pages
        self._counts = RunCounts()
        self._position: Position | None = None
        self._held: HeldRecord | None = None
        self._blocked: Blocked | None = None
        self._wish: _Wish | None = None
        self._pause_on_error = request.pause_on_error
        self._setting_to_store = False
        self._reporting: ActivityHandle[None] | None = None

    @workflow.run
    async def run(self, request: ExportRequest) -> ExportResult:
        """Begin; page after page: export, report what was refused, hold where a record must be held; end."""
        try:
            await self._begin()
            if self._plan.under_way or not self._plan.export_enabled:
                return self._not_started()
            while True:
                page = await self._export_page()
                await self._report(page)
                if page.held:
                    await self._hold(page.held)
                elif page.finished:
                    return await self._end()
                if workflow.info().is_continue_as_new_suggested():
                    await self._reported()
                    self._continue_as_new()
        except (asyncio.CancelledError, ActivityError):
            await self._end_early()
            raise

    async def _begin(self) -> None:
        self._enter(ExportState.RUNNING)
        self._plan = await self._once(self._activities.start_begin)
        if self._plan.trouble:
            self._plan = await self._wait_out(self._activities.start_begin, self._plan.trouble)
        self._activities.heartbeat = self._plan.heartbeat
        self._counts, self._position = self._plan.counts, self._plan.position
        if self._pause_on_error is not None:
            await self._store_setting()
        self._detail()

    async def _export_page(self) -> PageResult:
        def start(patient: bool) -> ActivityHandle[PageResult]:
            return self._activities.start_page(patient, self._pages + 1, self._position)

        page = await self._once(start)
        if page.trouble:
            await self._report(page)
            page = await self._wait_out(start, page.trouble)
        self._pages += 1
        self._counts, self._position = page.counts, page.position
        self._detail()
        return page

    async def _hold(self, held: HeldRecord) -> None:
        """Wait at a record that the CRM refuses until it is exported, released, skipped or gone."""
        self._held, self._wish = held, None
        self._enter(ExportState.PAUSED)
        fate: HeldFate | None = None
        while fate is None:
            attempt = self._activities.start_attempt(held)
            fate = await attempt if await self._ended(attempt) else await stopped(attempt)
            if fate is None and workflow.info().is_continue_as_new_suggested():
                # The last wait before continuing as new: what is asked meanwhile still counts.
                await self._reported()
            if fate is None and self._wish is _Wish.LEAVE_OUT:
                fate = await self._activities.leave_out_held_record()
            elif fate is None and workflow.info().is_continue_as_new_suggested():
                self._continue_as_new()
            self._wish = None
        self._held = None
        self._enter(ExportState.RUNNING)
        await self._report()

    async def _once(self, start: Callable[[bool], ActivityHandle[Result]]) -> Result:
        """Run an activity; the job-level trouble that stops it is part of its result."""
        activity = start(False)
        await self._ended(activity)
        return await activity

    async def _wait_out(self, start: Callable[[bool], ActivityHandle[Result]], trouble: JobTrouble) -> Result:
        """Retry an activity without end; once its trouble lasts for ``blocked_after``, show the run as blocked."""
        self._blocked, self._wish = Blocked(trouble=trouble, since=workflow.now()), None
        result: Result | None = None
        while result is None:
            attempt = start(True)
            if self._state is not ExportState.BLOCKED:
                left = self._blocked.since + self._plan.blocked_after - workflow.now()
                if not await self._ended(attempt, within=max(left, timedelta(seconds=1))) and self._wish is None:
                    self._enter(ExportState.BLOCKED)
                    await self._report()
            result = await attempt if await self._ended(attempt) else await stopped(attempt)
            self._wish = None
        was_shown, self._blocked = self._state is ExportState.BLOCKED, None
        self._enter(ExportState.RUNNING)
        if was_shown:
            await self._report()
        return result

    async def _ended(self, activity: ActivityHandle[Any], *, within: timedelta | None = None) -> bool:
        """Wait for an activity, storing meanwhile what a signal set; False when an operator, or time, came first."""
        while True:
            done = await ended(activity, unless=lambda: self._wish is not None or self._setting_to_store, within=within)
            if not self._setting_to_store:
                return done
            await self._store_setting()

    async def _end(self) -> ExportResult:
        state = await self._activities.finish(completed=True)
        self._counts, self._position = state.counts, state.position
        self._enter(ExportState.COMPLETED)
        await self._report()
        await self._reported()
        await workflow.wait_condition(workflow.all_handlers_finished)
        left_out = self._counts.refused
        return self._result(
            f"{left_out:,} records were left out; they are in ExportErrors: crm-export errors {self._run.job}"
            if left_out
            else "every record was exported"
        )

    async def _end_early(self) -> None:
        """A run that is cancelled, or fails: what it held stays in ExportErrors as open, and the next run begins at the
        same place."""
        with suppress(ActivityError):
            await self._activities.finish(completed=False)
        with suppress(ActivityError):
            await self._reported()
        self._reporting = None
        self._held = self._blocked = None
        self._enter(ExportState.COMPLETED)
        await self._report()
        await self._reported()

    def _not_started(self) -> ExportResult:
        self._enter(ExportState.COMPLETED)
        if self._plan.under_way:
            return self._result(f"not started: {self._plan.under_way} is under way")
        return self._result(f"not started: Export to CRM is switched off for {self._run.connection}")

    def _result(self, outcome: str) -> ExportResult:
        return ExportResult(outcome=outcome, position=self._position, **self._counts.model_dump())

    async def _report(self, page: PageResult | None = None) -> None:
        """Tell the connection's ExportErrors workflow what has become different, while the export goes on."""
        if page is not None and not page.refused_by_code:
            return
        await self._reported()
        self._reporting = self._activities.start_report(page, self._blocked.trouble if self._blocked else None)

    async def _reported(self) -> None:
        """One report after the other, so that the last one stands."""
        if self._reporting is not None:
            await self._reporting

    async def _store_setting(self) -> None:
        self._setting_to_store = False
        await self._activities.store_setting(self._pause_on_error)

    def _continue_as_new(self) -> NoReturn:
        workflow.continue_as_new(
            self._request.model_copy(update={"pages": self._pages, "pause_on_error": self._pause_on_error})
        )

    # What people see.

    def _enter(self, state: ExportState) -> None:
        """Show a state by everything that shows it."""
        if ExportState.BLOCKED in (self._state, state):
            shown.show_blocked(self._blocked if state is ExportState.BLOCKED else None)
        self._state = state
        code = self._held.refusal.code if self._held else self._blocked.trouble.code if self._blocked else None
        shown.show_state(state, connection=self._run.connection, job=self._run.job, code=code)
        self._detail()

    def _detail(self) -> None:
        """Say in words where the run stands, and what it waits for."""
        lines = [shown.standing(self._counts, self._plan.total, self._position)]
        if self._held:
            lines.insert(0, shown.paused(self._run.job, self._held))
        elif self._blocked and self._state is ExportState.BLOCKED:
            lines.insert(0, shown.blocked(self._blocked))
        workflow.set_current_details("\n\n".join(lines))

    @workflow.query(description="How far the run is, what it waits for, and since when")
    def progress(self) -> Progress:
        return Progress(
            state=self._state,
            total=self._plan.total,
            position=str(self._position) if self._position else None,
            held=self._held,
            blocked=self._blocked if self._state is ExportState.BLOCKED else None,
            pause_on_error=self._pause_on_error,
            **self._counts.model_dump(),
        )

    # What an operator may ask. Signals set state; the main line acts on it. Each is an update too, which validates
    # and answers.

    def _ask(self, wish: _Wish) -> None:
        if wish is _Wish.LEAVE_OUT and self._held:
            self._wish = wish
        elif wish is _Wish.TRY_NOW and (self._held or self._blocked):
            # Who wants it left out stands: a later word, perhaps of another setting, may come before the attempt ends.
            self._wish = self._wish or wish

    @workflow.signal(description="Pause setting of this run alone: true or false. False releases a held record")
    def set_pause_on_error(self, on: bool) -> None:
        self._pause_on_error, self._setting_to_store = on, True
        if not on:
            self._ask(_Wish.LEAVE_OUT)

    @workflow.signal(description="From the settings workflow: the connection's settings have changed")
    def connection_setting_changed(self, pause_on_error: bool | None) -> None:
        if pause_on_error is not None:
            self._pause_on_error = None
        self._ask(_Wish.LEAVE_OUT if self._held and pause_on_error is False else _Wish.TRY_NOW)

    @workflow.signal(description="Try the held record, or what blocks the run, now")
    def retry_now(self) -> None:
        self._ask(_Wish.TRY_NOW)

    @workflow.signal(description="Leave the held record in ExportErrors and carry on after it")
    def skip_record(self) -> None:
        self._ask(_Wish.LEAVE_OUT)

    @workflow.signal(description="From the command line or the console: who started this run")
    def asked_by(self, by: str) -> None:
        """The run's history names them; nothing else is to be done."""

    @workflow.update(name="set_pause_on_error", description="Pause setting of this run alone; answers what it released")
    async def update_pause_on_error(self, on: bool) -> Released:
        released = self._held
        self.set_pause_on_error(on)
        if on or released is None:
            return Released(record_key=None)
        return await self._until_released(released)

    @workflow.update(name="retry_now", description="Try the held record now; answers which one, None when only blocked")
    def update_retry_now(self, by: str = "") -> Released:
        self.retry_now()
        return Released(record_key=self._held.record_key if self._held else None)

    @update_retry_now.validator
    def _waits(self, by: str = "") -> None:
        if not self._held and not self._blocked:
            raise ValueError(f"{self._run.job} is neither paused nor blocked")

    @workflow.update(name="skip_record", description="Leave this held record in ExportErrors and carry on after it")
    async def update_skip_record(self, record_key: str, by: str = "") -> Released:
        released = self._held
        assert released is not None
        self.skip_record()
        return await self._until_released(released)

    @update_skip_record.validator
    def _holds(self, record_key: str, by: str = "") -> None:
        if not self._held:
            raise ValueError(f"{self._run.job} is not paused")
        if self._held.record_key != record_key:
            raise ValueError(f"{self._run.job} holds record {self._held.record_key}, not {record_key}")

    async def _until_released(self, held: HeldRecord) -> Released:
        await workflow.wait_condition(lambda: self._held is not held)
        return Released(record_key=held.record_key)
