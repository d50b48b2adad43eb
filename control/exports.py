"""The façade: start, signal, list, describe. The command line and the console both use it, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ParamSpec, TypeVar

from temporalio.client import (
    Client,
    ScheduleActionExecution,
    ScheduleActionExecutionStartWorkflow,
    ScheduleHandle,
    ScheduleInfo,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowHandle,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.converter import DataConverter
from temporalio.service import RPCError, RPCStatusCode

from activities.requests import SettingsTold
from activities.temporal import connect, ui_url
from control.status import JobStatus, blocked_shown, ended_word, held_shown, state_word
from crm_export.config import Config, Job
from crm_export.errors import CrmExportError
from crm_export.model import ExportError, RunState, SettingChange, Settings
from crm_export.store import Store
from workflows.export import ExportResult, ExportWorkflow, Released
from workflows.reexport import ReexportResult
from workflows.settings import CrmSettings

ANSWER_SECONDS = 10
"""A command gives up after so long on a Temporal, or a worker, that does not answer."""
T = TypeVar("T")
P = ParamSpec("P")


class OperationFailedError(CrmExportError):
    """What was asked for cannot be done now; the message says why, and what to do."""


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

    # Runs

    async def run(self, job: Job, *, full: bool = False) -> Running:
        """Start a run now. Raises OperationFailedError where one is under way, or Export to CRM is switched off."""
        settings = await _in_thread(self._store.settings.get, job.connection)
        if not settings.export_enabled:
            raise OperationFailedError(
                f"Export to CRM is switched off for {job.connection}: it must be on before {job.name} can run"
            )
        schedule_id = f"export/{job.connection}/{job.name}"
        if not (await _schedule_info(self._schedule(schedule_id))).running_actions:
            await _in_thread(self._store.runs.request_full, job.connection, job.name, full)
            running = await self._trigger(schedule_id)
            if running.started:
                return running
        raise OperationFailedError(f"{job.name} is being exported already: see crm-export status {job.name}")

    async def state(self, job: Job) -> RunState | None:
        """The job's present or last run as the store knows it; None when it never ran."""
        return await _in_thread(self._store.runs.state, job.connection, job.name)

    async def progress(self, job: Job, handle: WorkflowHandle[Any, Any]) -> RunProgress:
        """How a run stands, as the store knows it: up to date within a batch."""
        described = await _answered(handle.describe())
        state = await _in_thread(self._store.runs.state, job.connection, job.name)
        if state is None or state.run is None or state.run.run_id != handle.first_execution_run_id:
            state = RunState()
        running = described.status is WorkflowExecutionStatus.RUNNING
        return RunProgress(
            state=state,
            blocked=await _blocked_text(described, self._client.data_converter),
            ended=None if running else ended_word(described),
        )

    async def result(self, handle: WorkflowHandle[Any, Any]) -> ExportResult:
        """The result of a run that has ended well."""
        return ExportResult.model_validate(await handle.result())

    async def status(self, jobs: Sequence[Job]) -> list[JobStatus]:
        return list(await asyncio.gather(*(self._status(job) for job in jobs)))

    async def _status(self, job: Job) -> JobStatus:
        state = await _in_thread(self._store.runs.state, job.connection, job.name) or RunState()
        workflow_id, next_run_at = await self._last_run(job, state)
        described = await self._described(workflow_id)
        word, reason = state_word(described)
        rate = None
        if state.started_at and state.updated_at and state.counts.exported:
            rate = state.counts.exported / max((state.updated_at - state.started_at).total_seconds(), 0.001)
        return JobStatus(
            job=job.name,
            connection=job.connection,
            state=word,
            exported=state.counts.exported,
            failed=state.counts.refused,
            gone=state.counts.gone,
            total=state.total,
            rate=rate,
            position=str(state.position) if state.position else None,
            held=held_shown(state.held, described) if word == "paused" and state.held else None,
            blocked=await blocked_shown(
                described, self._client.data_converter, but_not=state.held.refusal.code if state.held else None
            ),
            open_errors=await _in_thread(self._store.errors.count_open, job.connection, job.name),
            workflow_id=described.id if described else None,
            run_id=described.run_id if described else None,
            ui_url=ui_url(described.id, described.run_id, self._client.namespace) if described else None,
            started_at=state.started_at,
            next_run_at=next_run_at,
            reason=reason,
        )

    async def _last_run(self, job: Job, state: RunState) -> tuple[str | None, datetime | None]:
        """The job's running or last run by its workflow ID, and when the next one is due."""
        of_store = state.run.workflow_id if state.run else None
        try:
            info = (await _answered(self._schedule(f"export/{job.connection}/{job.name}").describe())).info
        except NotFoundError:
            return of_store, None
        actions = [*(result.action for result in info.recent_actions), *info.running_actions]
        next_run_at = info.next_action_times[0] if info.next_action_times else None
        return (_started(actions[-1]).workflow_id if actions else of_store), next_run_at

    async def _described(self, workflow_id: str | None) -> WorkflowExecutionDescription | None:
        if workflow_id is None:
            return None
        try:
            return await _answered(self._client.get_workflow_handle(workflow_id).describe())
        except NotFoundError:
            # Temporal has forgotten a run that ended long ago.
            return None

    # Held records

    async def retry(self, job: Job) -> str | None:
        """Try the held record, or what blocks the run, now; gives the held record's key."""
        released: Released = await self._ask(job, ExportWorkflow.update_retry_now)
        return released.record_key

    async def skip(self, job: Job) -> str:
        """Leave the held record in ExportErrors and let the run carry on after it; gives the record's key."""
        state = await _in_thread(self._store.runs.state, job.connection, job.name)
        if state is None or state.held is None:
            raise OperationFailedError(f"{job.name} is not paused: there is no record to skip")
        await self._ask(job, ExportWorkflow.update_skip_record, state.held.record_key)
        return state.held.record_key

    async def _ask(self, job: Job, update: Any, *args: Any) -> Any:
        state = await _in_thread(self._store.runs.state, job.connection, job.name)
        if state is None or state.run is None:
            raise OperationFailedError(f"{job.name} has never run: crm-export run {job.name}")
        handle = self._client.get_workflow_handle(state.run.workflow_id)
        return await _updated(handle, update, list(args), gone=f"{job.name} is not running")

    # Errors and the re-export

    async def errors(self, *, job: str | None, code: str | None, closed_too: bool) -> list[ExportError]:
        connections = list(self._config.connections)
        return await _in_thread(
            lambda: self._store.errors.list(connections=connections, job=job, code=code, closed_too=closed_too)
        )

    async def reexport(self, connection: str) -> Running:
        """Run the daily re-export now; while one is under way, that one is given."""
        settings = await _in_thread(self._store.settings.get, connection)
        if not settings.export_enabled:
            raise OperationFailedError(f"Export to CRM is switched off for {connection}: nothing is exported again")
        return await self._trigger(f"CRMExport_ExportError/{connection}")

    async def reexport_result(self, handle: WorkflowHandle[Any, Any]) -> ReexportResult:
        return ReexportResult.model_validate(await handle.result())

    # Settings

    async def settings(self, connection: str) -> Settings:
        return await _in_thread(self._store.settings.get, connection)

    async def calls_today(self, connection: str) -> int:
        """Calls of today's daily API limit that are spent, to within the lots that workers take."""
        return await _in_thread(self._store.api_usage.used, connection)

    async def changes(self, connection: str) -> list[SettingChange]:
        return await _in_thread(self._store.settings.changes, connection)

    async def held(self, connection: str) -> list[ExportError]:
        """The records that switching pause off would leave out."""
        return await _in_thread(self._store.errors.held, connection)

    async def set_pause_on_error(self, connection: str, on: bool, by: str) -> SettingsTold:
        return await self._change(connection, CrmSettings.update_pause_on_error, on, by)

    async def set_export_enabled(self, connection: str, on: bool, by: str) -> SettingsTold:
        return await self._change(connection, CrmSettings.update_export_enabled, on, by)

    async def set_daily_api_limit(self, connection: str, calls: int, by: str) -> SettingsTold:
        return await self._change(connection, CrmSettings.update_daily_api_limit, calls, by)

    async def _change(self, connection: str, update: Any, value: bool | int, by: str) -> SettingsTold:
        handle = self._client.get_workflow_handle(f"crm-settings/{connection}")
        told = await _updated(
            handle, update, [value, by], gone=f"the settings of {connection} have no workflow: run crm-export setup"
        )
        return SettingsTold.model_validate(told)

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
        await _answered(schedule.trigger())
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


@asynccontextmanager
async def exports(config: Config) -> AsyncIterator[Exports]:
    """The façade for one command: connected to Temporal and the store."""
    store = Store(config.store)
    try:
        await _in_thread(store.require_migrated)
        yield Exports(config, await connect(), store)
    finally:
        store.close()


def _started(action: ScheduleActionExecution) -> ScheduleActionExecutionStartWorkflow:
    assert isinstance(action, ScheduleActionExecutionStartWorkflow)
    return action


async def _blocked_text(described: WorkflowExecutionDescription, converter: DataConverter) -> str | None:
    if state_word(described)[0] != "blocked":
        return None
    blocked = await blocked_shown(described, converter)
    return blocked.message if blocked else None


async def _schedule_info(schedule: ScheduleHandle) -> ScheduleInfo:
    try:
        return (await _answered(schedule.describe())).info
    except NotFoundError:
        raise OperationFailedError(f"there is no Schedule {schedule.id}: run crm-export setup") from None


async def _updated(handle: WorkflowHandle[Any, Any], update: Any, args: list[Any], *, gone: str) -> Any:
    try:
        return await asyncio.wait_for(handle.execute_update(update, args=args), ANSWER_SECONDS)
    except WorkflowUpdateFailedError as error:
        raise OperationFailedError(str(error.cause)) from None
    except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
        raise OperationFailedError(
            f"no worker answered for {handle.id} within {ANSWER_SECONDS} s: see that one runs (crm-export worker)"
        ) from None
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise OperationFailedError(gone) from None
        raise OperationFailedError(f"Temporal refused: {error.message}") from None


class NotFoundError(OperationFailedError):
    """Temporal does not know what was asked for."""


async def _answered(call: Awaitable[T]) -> T:
    try:
        return await asyncio.wait_for(call, ANSWER_SECONDS)
    except TimeoutError:
        raise OperationFailedError(f"Temporal did not answer within {ANSWER_SECONDS} s") from None
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise NotFoundError(error.message) from None
        raise OperationFailedError(f"Temporal refused: {error.message}") from None


async def _in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await asyncio.to_thread(call, *args, **kwargs)
