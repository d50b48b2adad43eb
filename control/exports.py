"""The façade: start, signal, list, describe. The command line and the console both use it, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from temporalio.client import (
    Client,
    ScheduleActionExecution,
    ScheduleActionExecutionStartWorkflow,
    ScheduleHandle,
    ScheduleInfo,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
)
from temporalio.service import RPCError

from activities.requests import ReexportStarted, ReexportWanted, SettingsTold
from activities.temporal import connect
from control.asking import (
    ANSWER_SECONDS,
    NotAnsweredError,
    NotFoundError,
    OperationFailedError,
    answered,
    has_worker,
    in_thread,
    refused,
    updated,
)
from control.overview import Overview
from control.status import JobStatus, blocked_shown, blocked_text, ended_word, job_status, state_word
from crm_export.config import Config, Job
from crm_export.errors import CrmExportError
from crm_export.model import (
    ErrorFilter,
    ExportError,
    OperatorAction,
    ReexportOnly,
    RunState,
    SettingChange,
    Settings,
)
from crm_export.store import Store
from workflows.export import ExportResult, ExportWorkflow, Released
from workflows.export_errors import ExportErrors
from workflows.reexport import ReexportResult
from workflows.settings import CrmSettings

__all__ = ["ANSWER_SECONDS", "Exports", "OperationFailedError", "RunProgress", "Running", "exports"]

NOBODY = "somebody"
"""Who asked, where a program does not say."""


@dataclass(frozen=True)
class Running:
    """A run that was started, or is under way."""

    handle: WorkflowHandle[Any, Any]
    started: bool


@dataclass(frozen=True)
class RunProgress:
    """How a run stands. ``ended`` is None while it runs, then how it ended."""

    state: RunState
    blocked: str | None
    ended: str | None


class Exports:
    """One configuration's exports in one Temporal namespace."""

    def __init__(self, config: Config, client: Client, store: Store) -> None:
        self._config = config
        self._client = client
        self._store = store
        self.overview = Overview(config, client, store)
        """All jobs at once, for who watches them."""

    # Runs

    async def run(self, job: Job, *, full: bool = False, by: str = NOBODY) -> Running:
        """Start a run now. Raises OperationFailedError where one is under way, or Export to CRM is switched off."""
        async with self._noted(job.connection, job.name, "run", "from the first record" if full else "", by):
            running = await self._run(job, full=full)
            await _say_who(running, by)
            return running

    async def _run(self, job: Job, *, full: bool) -> Running:
        settings = await in_thread(self._store.settings.get, job.connection)
        if not settings.export_enabled:
            raise OperationFailedError(
                f"Export to CRM is switched off for {job.connection}: it must be on before {job.name} can run"
            )
        schedule_id = f"export/{job.connection}/{job.name}"
        if not (await _schedule_info(self._schedule(schedule_id))).running_actions:
            running = await (self._trigger_full(job, schedule_id) if full else self._trigger(schedule_id))
            if running.started:
                return running
        raise OperationFailedError(f"{job.name} is being exported already: see crm-export status {job.name}")

    async def _trigger_full(self, job: Job, schedule_id: str) -> Running:
        """Trigger a run from the first record; where it does not start, the next one is none either."""
        request_full = self._store.runs.request_full
        await in_thread(request_full, job.connection, job.name, True)
        running = None
        try:
            running = await self._trigger(schedule_id)
            return running
        finally:
            if running is None or not running.started:
                await in_thread(request_full, job.connection, job.name, False)

    async def state(self, job: Job) -> RunState | None:
        """The job's present or last run as the store knows it; None when it never ran."""
        return await in_thread(self._store.runs.state, job.connection, job.name)

    async def progress(self, job: Job, handle: WorkflowHandle[Any, Any]) -> RunProgress:
        """How a run stands, as the store knows it: up to date within a batch."""
        described = await answered(handle.describe())
        state = await in_thread(self._store.runs.state, job.connection, job.name)
        if state is None or state.run is None or state.run.run_id != handle.first_execution_run_id:
            state = RunState()
        running = described.status is WorkflowExecutionStatus.RUNNING
        return RunProgress(
            state=state,
            blocked=await blocked_text(described, self._client.data_converter),
            ended=None if running else ended_word(described),
        )

    async def result(self, handle: WorkflowHandle[Any, Any]) -> ExportResult:
        """The result of a run that has ended well."""
        return ExportResult.model_validate(await handle.result())

    async def status(self, jobs: Sequence[Job]) -> list[JobStatus]:
        return list(await asyncio.gather(*(self._status(job) for job in jobs)))

    async def _status(self, job: Job) -> JobStatus:
        state = await in_thread(self._store.runs.state, job.connection, job.name) or RunState()
        workflow_id, next_run_at = await self._last_run(job, state)
        described = await self._described(workflow_id)
        word, reason = state_word(described)
        return job_status(
            job,
            state,
            word=word,
            reason=reason,
            described=described,
            blocked=await blocked_shown(
                described, self._client.data_converter, but_not=state.held.refusal.code if state.held else None
            ),
            open_errors=await in_thread(self._store.errors.count_open, job.connection, job.name),
            workflow_id=described.id if described else None,
            run_id=described.run_id if described else None,
            began=described.start_time if described else None,
            namespace=self._client.namespace,
            next_run_at=next_run_at,
        )

    async def _last_run(self, job: Job, state: RunState) -> tuple[str | None, datetime | None]:
        """The job's running or last run by its workflow ID, and when the next one is due."""
        of_store = state.run.workflow_id if state.run else None
        try:
            info = (await answered(self._schedule(f"export/{job.connection}/{job.name}").describe())).info
        except NotFoundError:
            return of_store, None
        actions = [*(result.action for result in info.recent_actions), *info.running_actions]
        next_run_at = info.next_action_times[0] if info.next_action_times else None
        return (_started(actions[-1]).workflow_id if actions else of_store), next_run_at

    async def _described(self, workflow_id: str | None) -> WorkflowExecutionDescription | None:
        if workflow_id is None:
            return None
        try:
            return await answered(self._client.get_workflow_handle(workflow_id).describe())
        except NotFoundError:
            # Temporal has forgotten a run that ended long ago.
            return None

    # Held records

    async def retry(self, job: Job, by: str = NOBODY) -> str | None:
        """Try the held record, or what blocks the run, now; gives the held record's key."""
        async with self._noted(job.connection, job.name, "retry", "", by):
            released: Released = await self._ask(job, ExportWorkflow.update_retry_now, by)
            return released.record_key

    async def skip(self, job: Job, by: str = NOBODY, record_key: str | None = None) -> str:
        """Leave the held record in ExportErrors and let the run carry on after it; gives the record's key.

        With ``record_key`` that one alone: where the run holds another by now, nothing is done."""
        state = await in_thread(self._store.runs.state, job.connection, job.name)
        if state is None or state.held is None:
            raise OperationFailedError(f"{job.name} is not paused: there is no record to skip")
        key = record_key or state.held.record_key
        async with self._noted(job.connection, job.name, "skip", key, by):
            await self._ask(job, ExportWorkflow.update_skip_record, key, by)
        return key

    async def _ask(self, job: Job, update: Any, *args: Any) -> Any:
        workflow_id = await self._running(job)
        if workflow_id is None:
            state = await in_thread(self._store.runs.state, job.connection, job.name)
            if state is None or state.run is None:
                raise OperationFailedError(f"{job.name} has never run: crm-export run {job.name}")
            workflow_id = state.run.workflow_id
        return await updated(self._client, workflow_id, update, list(args), gone=f"{job.name} is not running")

    async def _running(self, job: Job) -> str | None:
        """The workflow ID of the job's run that is under way, as Temporal knows it: the store hears of a run only once
        its source has answered."""
        with suppress(NotFoundError):
            info = (await answered(self._schedule(f"export/{job.connection}/{job.name}").describe())).info
            if info.running_actions:
                return _started(info.running_actions[-1]).workflow_id
        # One that something else has started than the Schedule.
        return await answered(self._listed(job))

    async def _listed(self, job: Job) -> str | None:
        query = f'ExportConnection="{job.connection}" AND ExportJob="{job.name}" AND ExecutionStatus="Running"'
        async for run in self._client.list_workflows(f'WorkflowType="ExportWorkflow" AND {query}', limit=1):
            return run.id
        return None

    # Errors and the re-export

    async def errors(self, *, job: str | None, code: str | None, closed_too: bool) -> list[ExportError]:
        connections = list(self._config.connections)
        return await in_thread(
            lambda: self._store.errors.list(connections=connections, job=job, code=code, closed_too=closed_too)
        )

    async def reexport(self, connection: str, by: str = NOBODY) -> Running:
        """Run the daily re-export now; while one is under way, that one is given."""
        async with self._noted(connection, None, "re-export", "everything", by):
            await self._require_enabled(connection)
            running = await self._trigger(f"CRMExport_ExportError/{connection}")
            await _say_who(running, by)
            return running

    async def reexport_only(self, connection: str, only: ReexportOnly, by: str) -> ReexportStarted:
        """Export chosen open errors, or those of one cause, again now; while a re-export is under way, that one is
        given: it goes on, and no other is started beside it."""
        async with self._noted(connection, only.job, "re-export", str(only), by):
            await self._require_enabled(connection)
            told = await updated(
                self._client,
                f"export-errors/{connection}",
                ExportErrors.reexport_only,
                [ReexportWanted(connection=connection, only=only, by=by)],
                gone=f"the ExportErrors inbox of {connection} has no workflow: run crm-export setup",
            )
            return ReexportStarted.model_validate(told)

    async def _require_enabled(self, connection: str) -> None:
        settings = await in_thread(self._store.settings.get, connection)
        if not settings.export_enabled:
            raise OperationFailedError(f"Export to CRM is switched off for {connection}: nothing is exported again")

    async def error_page(
        self, wanted: ErrorFilter, limit: int, *, before: int | None = None, after: int | None = None
    ) -> list[ExportError]:
        """Rows of ExportErrors, newest first: the newest, those older than row ``before``, or newer than ``after``."""
        pages = self._store.error_pages
        if after is not None:
            return await in_thread(pages.newer, wanted, limit, after)
        return await in_thread(pages.newest, wanted, limit, before)

    def every_error(self, wanted: ErrorFilter) -> Iterator[ExportError]:
        """All rows of ExportErrors that are wanted, for a thread to read."""
        return self._store.error_pages.every(wanted)

    async def error(self, connection: str, row_id: int) -> ExportError | None:
        return await in_thread(self._store.error_pages.one, connection, row_id)

    async def open_errors(self, connection: str) -> int:
        return await in_thread(self._store.errors.count_open, connection)

    async def reexport_result(self, handle: WorkflowHandle[Any, Any]) -> ReexportResult:
        """The result of a re-export, once it has ended. Raises OperationFailedError where that was not its own end."""
        try:
            return ReexportResult.model_validate(await handle.result())
        except WorkflowFailureError:
            word = ended_word(await answered(handle.describe()))
        except RPCError as error:
            raise refused(error) from None
        raise OperationFailedError(f"the re-export {handle.id} was {word}: crm-export reexport starts another")

    # Settings

    async def settings(self, connection: str) -> Settings:
        return await in_thread(self._store.settings.get, connection)

    async def calls_today(self, connection: str) -> int:
        """Calls of today's daily API limit that are spent, to within the lots that workers take."""
        return await in_thread(self._store.api_usage.used, connection)

    async def changes(self, connection: str) -> list[SettingChange]:
        return await in_thread(self._store.settings.changes, connection)

    async def actions(self, connections: Sequence[str], most: int = 20) -> list[OperatorAction]:
        """Who asked for runs, retries, skips and re-exports, newest first."""
        return await in_thread(self._store.actions.last, list(connections), most)

    async def held(self, connection: str) -> list[ExportError]:
        """The records that switching pause off would leave out."""
        return await in_thread(self._store.errors.held, connection)

    async def set_pause_on_error(self, connection: str, on: bool, by: str) -> SettingsTold:
        return await self._change(connection, CrmSettings.update_pause_on_error, on, by)

    async def set_export_enabled(self, connection: str, on: bool, by: str) -> SettingsTold:
        return await self._change(connection, CrmSettings.update_export_enabled, on, by)

    async def set_daily_api_limit(self, connection: str, calls: int, by: str) -> SettingsTold:
        return await self._change(connection, CrmSettings.update_daily_api_limit, calls, by)

    async def set_export_batch_size(self, connection: str, records: int, by: str) -> SettingsTold:
        return await self._change(connection, CrmSettings.update_export_batch_size, records, by)

    async def _change(self, connection: str, update: Any, value: bool | int, by: str) -> SettingsTold:
        gone = f"the settings of {connection} have no workflow: run crm-export setup"
        told = await updated(self._client, f"crm-settings/{connection}", update, [value, by], gone=gone)
        return SettingsTold.model_validate(told)

    @asynccontextmanager
    async def _noted(self, connection: str, job: str | None, action: str, target: str, by: str) -> AsyncIterator[None]:
        """Write into the log who asks for what before it is done, and afterwards what came of it."""
        row = await in_thread(self._store.actions.begin, connection, job, action, target, by)
        try:
            yield
        except NotAnsweredError:
            await in_thread(self._store.actions.end, row, "asked for, not answered yet")
            raise
        except CrmExportError as error:
            await in_thread(self._store.actions.end, row, f"not done: {error}")
            raise
        await in_thread(self._store.actions.end, row, "done")

    def _schedule(self, schedule_id: str) -> ScheduleHandle:
        return self._client.get_schedule_handle(schedule_id)

    async def _trigger(self, schedule_id: str) -> Running:
        """Trigger a Schedule and find the run that this started; or the one that was under way."""
        schedule = self._schedule(schedule_id)
        before = await _schedule_info(schedule)
        if before.running_actions:
            return Running(self._handle(before.running_actions[-1]), started=False)
        # Two runs of one second have one workflow ID: a Schedule appends the time to the second.
        known = {_started(result.action).first_execution_run_id for result in before.recent_actions}
        await answered(schedule.trigger())
        for _ in range(ANSWER_SECONDS * 20):
            started = [result.action for result in (await _schedule_info(schedule)).recent_actions]
            new = [action for action in started if _started(action).first_execution_run_id not in known]
            if new:
                return Running(self._handle(new[-1]), started=True)
            await asyncio.sleep(0.05)
        raise OperationFailedError(f"Temporal took the request for {schedule_id}, but has not started it yet")

    def _handle(self, action: ScheduleActionExecution) -> WorkflowHandle[Any, Any]:
        started = _started(action)
        return self._client.get_workflow_handle(
            started.workflow_id, first_execution_run_id=started.first_execution_run_id
        )

    async def has_worker(self) -> bool | None:
        """Whether a worker runs; None where Temporal does not say."""
        with suppress(OperationFailedError):
            return await has_worker(self._client)
        return None

    async def require_ready(self) -> None:
        """Raises StoreError, or OperationFailedError where Temporal does not answer."""
        await in_thread(self._store.require_migrated)
        await answered(self._client.service_client.check_health())

    async def session_key(self) -> str:
        """What the console signs its sessions with."""
        return await in_thread(self._store.session_key.get)


@asynccontextmanager
async def exports(config: Config, *, lazy: bool = False) -> AsyncIterator[Exports]:
    """The façade for one command: connected to Temporal, or with ``lazy`` when it is first asked, and to the store."""
    store = Store(config.store)
    try:
        await in_thread(store.require_migrated)
        yield Exports(config, await connect(lazy=lazy), store)
    finally:
        store.close()


async def _say_who(running: Running, by: str) -> None:
    """A Schedule's trigger carries no name; the run's history shall have it."""
    with suppress(OperationFailedError):
        # It may have ended already.
        await answered(running.handle.signal("asked_by", by))


def _started(action: ScheduleActionExecution) -> ScheduleActionExecutionStartWorkflow:
    assert isinstance(action, ScheduleActionExecutionStartWorkflow)
    return action


async def _schedule_info(schedule: ScheduleHandle) -> ScheduleInfo:
    try:
        return (await answered(schedule.describe())).info
    except NotFoundError:
        raise OperationFailedError(f"there is no Schedule {schedule.id}: run crm-export setup") from None
