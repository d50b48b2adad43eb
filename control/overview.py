"""How all jobs stand at once, without a call to Temporal a job: one query for the runs, one for the Schedules."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from temporalio.client import (
    Client,
    ScheduleListActionStartWorkflow,
    WorkflowExecution,
    WorkflowExecutionDescription,
)

from activities.temporal import ui_url
from control.asking import NotFoundError, OperationFailedError, answered, has_worker, in_thread
from control.status import JobStatus, blocked_shown, job_status, state_word
from crm_export.config import Config
from crm_export.errors import CrmExportError, StoreError
from crm_export.model import OpenCause, RunState
from crm_export.store import Store
from workflows.shown import EXPORT_CONNECTION, EXPORT_JOB

logger = logging.getLogger("crm_export.console")
_EVERY = 1.0
"""Seconds between two looks, while somebody watches."""
_WATCHED = 15.0
"""So long after the last question somebody is taken to watch still."""
_PATIENCE = 4.0
"""A Temporal that does not answer is said to be gone after so many seconds."""
_SCHEDULES_EVERY = 10.0
_WORKERS_EVERY = 5.0
_DESCRIBED_EVERY = 10.0
"""What a stuck run waits for is asked again after so long, or when its attempts have become more."""
_DESCRIBES_AT_ONCE = 20
_JOBS_AT_ONCE = 25
_PACE_SECONDS = 30.0
"""A rate is of about the last so many seconds: a run that was paused for a day is not slow."""
_OVERLAP = timedelta(seconds=30)
"""Runs that ended are listed with some delay; so much of the list is read again."""
_MOST_CAUSES = 50
_KEYS_A_CAUSE = 3
_RANK = {"paused": 0, "blocked": 0, "failed": 1, "unknown": 2, "running": 3, "idle": 4}

Key = tuple[str, str]
"""A connection and a job."""


@dataclass(frozen=True)
class Reexport:
    """A re-export that is under way."""

    connection: str
    workflow_id: str
    ui_url: str
    state: str
    started_at: datetime


@dataclass(frozen=True)
class Snapshot:
    """All jobs as they stood at ``at``, those that need attention first. ``problem``: why it is not newer; ``worker``:
    whether one runs, None where that is not known; ``off``: the connections whose Export to CRM is switched off."""

    jobs: tuple[JobStatus, ...] = ()
    reexports: tuple[Reexport, ...] = ()
    at: datetime | None = None
    problem: str | None = None
    worker: bool | None = None
    off: tuple[str, ...] = ()

    def of(self, job: str) -> JobStatus | None:
        return next((status for status in self.jobs if status.job == job), None)


@dataclass
class _Described:
    of: tuple[str, str | None, int]
    at: float
    description: WorkflowExecutionDescription | None


class Overview:
    """Keeps a snapshot fresh while somebody watches, and asks nothing while nobody does."""

    def __init__(self, config: Config, client: Client, store: Store) -> None:
        self._config = config
        self._client = client
        self._store = store
        self._snapshot = Snapshot()
        self._asked_at = -_WATCHED
        self._asked = asyncio.Event()
        self._stopping = False
        self._looked = asyncio.Condition()
        self._failed: dict[Key, WorkflowExecution] = {}
        self._failed_until: datetime | None = None
        self._next_runs: dict[str, datetime | None] = {}
        self._next_runs_at = -_SCHEDULES_EVERY
        self._worker: bool | None = None
        self._worker_at = -_WORKERS_EVERY
        self._described: dict[Key, _Described] = {}
        self._causes: dict[str, tuple[float, list[OpenCause], int]] = {}
        self._paces: dict[Key, deque[tuple[float, int]]] = {}

    @asynccontextmanager
    async def kept_fresh(self) -> AsyncIterator[None]:
        """Look while the block runs."""
        looking = asyncio.create_task(self._keep_looking())
        try:
            yield
        finally:
            self._stopping = True
            looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking

    async def now(self) -> Snapshot:
        """The last look; a new one is waited for where nobody has watched lately."""
        watched = time.monotonic() - self._asked_at < _WATCHED
        self._asked_at = time.monotonic()
        self._asked.set()
        if not watched:
            await self.look_again()
        return self._snapshot

    async def causes(self, connection: str) -> tuple[list[OpenCause], int]:
        """What is open by job and code, the commonest first, and how much is open: at most a second old."""
        known = self._causes.get(connection)
        if known is None or time.monotonic() - known[0] > _EVERY:
            causes = await in_thread(self._store.errors.causes, connection, _MOST_CAUSES, _KEYS_A_CAUSE)
            open_errors = await in_thread(self._store.errors.count_open, connection)
            known = self._causes[connection] = (time.monotonic(), causes, open_errors)
        return known[1], known[2]

    async def look_again(self) -> None:
        """Wait for the next look: what was just done is to be seen."""
        self._asked_at = time.monotonic()
        self._asked.set()
        async with self._looked:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2 * _EVERY):
                    await self._looked.wait()

    async def _keep_looking(self) -> None:
        while not self._stopping:
            if time.monotonic() - self._asked_at > _WATCHED:
                self._asked.clear()
                await self._asked.wait()
            began = time.monotonic()
            try:
                await self._look()
            except Exception as error:
                # Whatever it is, the next look may be better; a page that says nothing would be worse.
                logger.exception("overview failed")
                self._snapshot = replace(self._snapshot, problem=f"the overview failed ({type(error).__name__})")
            async with self._looked:
                self._looked.notify_all()
            self._asked.clear()
            await asyncio.sleep(max(_EVERY - (time.monotonic() - began), 0.05))

    async def _look(self) -> None:
        problem = None
        try:
            states, open_errors, off = await in_thread(self._read_store)
        except CrmExportError as error:
            self._snapshot = replace(self._snapshot, problem=str(error))
            return
        running: dict[Key, WorkflowExecution] | None = None
        reexports = self._snapshot.reexports
        try:
            found, reexports = await answered(self._running(), _PATIENCE)
            await answered(self._note_failed(), _PATIENCE)
            await answered(self._note_next_runs(), _PATIENCE)
            await self._describe_stuck(states, found)
            await self._note_worker()
            running = found
        except OperationFailedError as error:
            problem = str(error)
        jobs = []
        for count, key in enumerate(self._keys()):
            jobs.append(await self._status(key, states.get(key, RunState()), open_errors.get(key, 0), running))
            if count % _JOBS_AT_ONCE == 0:
                # Pages are answered in between.
                await asyncio.sleep(0)
        jobs.sort(key=lambda status: (_RANK[status.state], status.connection, status.job))
        worker = self._worker if running is not None else None
        self._snapshot = Snapshot(tuple(jobs), reexports, datetime.now(UTC), problem, worker, off)

    def _keys(self) -> list[Key]:
        return [(job.connection, job.name) for job in self._config.jobs.values()]

    def _read_store(self) -> tuple[dict[Key, RunState], dict[Key, int], tuple[str, ...]]:
        connections = list(self._config.connections)
        states, open_errors = self._store.runs.states(connections), self._store.errors.count_by_job(connections)
        return states, open_errors, tuple(name for name in connections if self._is_off(name))

    def _is_off(self, connection: str) -> bool:
        with contextlib.suppress(StoreError):
            # A connection that setup has not seen yet has none.
            return not self._store.settings.get(connection).export_enabled
        return False

    async def _running(self) -> tuple[dict[Key, WorkflowExecution], tuple[Reexport, ...]]:
        query = 'WorkflowType IN ("ExportWorkflow", "CRMExport_ExportError") AND ExecutionStatus="Running"'
        runs = [run async for run in self._client.list_workflows(query)]
        reexports = [
            Reexport(
                connection=run.typed_search_attributes.get(EXPORT_CONNECTION, ""),
                workflow_id=run.id,
                ui_url=ui_url(run.id, run.run_id, self._client.namespace),
                state=state_word(run)[0],
                started_at=run.start_time,
            )
            for run in runs
            if run.workflow_type == "CRMExport_ExportError"
        ]
        return {_key(run): run for run in runs if run.workflow_type == "ExportWorkflow"}, tuple(reexports)

    async def _note_failed(self) -> None:
        """Remember each job's last run that ended badly; later looks ask only for what has ended since."""
        now = datetime.now(UTC)
        query = 'WorkflowType="ExportWorkflow" AND ExecutionStatus IN ("Failed", "Terminated", "TimedOut")'
        if self._failed_until is not None:
            query += f' AND CloseTime > "{(self._failed_until - _OVERLAP).isoformat()}"'
        async for run in self._client.list_workflows(query):
            known = self._failed.get(_key(run))
            if known is None or known.start_time < run.start_time:
                self._failed[_key(run)] = run
        self._failed_until = now

    async def _note_next_runs(self) -> None:
        if time.monotonic() - self._next_runs_at < _SCHEDULES_EVERY:
            return
        self._next_runs = {
            schedule.id: schedule.info.next_action_times[0]
            if schedule.info and schedule.info.next_action_times
            else None
            async for schedule in await self._client.list_schedules()
            if schedule.schedule and isinstance(schedule.schedule.action, ScheduleListActionStartWorkflow)
        }
        self._next_runs_at = time.monotonic()

    async def _note_worker(self) -> None:
        if time.monotonic() - self._worker_at < _WORKERS_EVERY:
            return
        self._worker = None
        with contextlib.suppress(OperationFailedError):
            # It takes a permission of its own.
            self._worker = await has_worker(self._client, _PATIENCE)
        self._worker_at = time.monotonic()

    async def _describe_stuck(self, states: Mapping[Key, RunState], running: Mapping[Key, WorkflowExecution]) -> None:
        """Ask what each paused or blocked run waits for, where that may have changed."""
        wanted: dict[Key, _Described] = {}
        for key, run in running.items():
            if state_word(run)[0] in ("paused", "blocked") and key[1] in self._config.jobs:
                held = states[key].held if key in states else None
                of = (run.run_id, held.record_key if held else None, held.attempts if held else 0)
                wanted[key] = _Described(of, time.monotonic(), None)
        self._described = {key: known for key, known in self._described.items() if key in wanted}
        due = [key for key, new in wanted.items() if not self._is_known(key, new)]
        limit = asyncio.Semaphore(_DESCRIBES_AT_ONCE)

        async def describe(key: Key) -> None:
            async with limit:
                handle = self._client.get_workflow_handle(running[key].id, run_id=running[key].run_id)
                with contextlib.suppress(NotFoundError):
                    wanted[key].description = await answered(handle.describe(), _PATIENCE)
                self._described[key] = wanted[key]

        await asyncio.gather(*(describe(key) for key in due))

    def _is_known(self, key: Key, new: _Described) -> bool:
        known = self._described.get(key)
        if known is None or known.of != new.of or new.at - known.at > _DESCRIBED_EVERY:
            return False
        pending = known.description.raw_description.pending_activities if known.description else ()
        # While an attempt is under way its end is awaited.
        return any(activity.HasField("next_attempt_schedule_time") for activity in pending)

    async def _status(
        self, key: Key, state: RunState, open_errors: int, running: Mapping[Key, WorkflowExecution] | None
    ) -> JobStatus:
        run = running.get(key) if running is not None else None
        word, reason = self._word(key, state, run, temporal_answers=running is not None)
        known = self._described.get(key)
        described = known.description if known and run and known.of[0] == run.run_id else None
        held_code = state.held.refusal.code if state.held else None
        status = job_status(
            self._config.jobs[key[1]],
            state,
            word=word,
            reason=reason,
            described=described,
            blocked=await blocked_shown(described, self._client.data_converter, but_not=held_code)
            if described
            else None,
            open_errors=open_errors,
            workflow_id=run.id if run else state.run.workflow_id if state.run else None,
            run_id=run.run_id if run else None,
            began=run.start_time if run else None,
            namespace=self._client.namespace,
            next_run_at=self._next_runs.get(f"export/{key[0]}/{key[1]}"),
        )
        return status.model_copy(update={"rate": self._rate(key, status)})

    def _word(
        self, key: Key, state: RunState, run: WorkflowExecution | None, *, temporal_answers: bool
    ) -> tuple[str, str | None]:
        if not temporal_answers:
            # What the store has is certain.
            return ("paused" if state.held else "unknown"), None
        if run is not None:
            word = state_word(run)[0]
            # The list may be a moment behind the store, which keeps who is held.
            return ("running" if word == "paused" and not state.held else word), None
        failed = self._failed.get(key)
        if failed is not None and (
            state.run is None
            or state.run.workflow_id == failed.id
            or state.started_at is None
            or failed.start_time > state.started_at
        ):
            return state_word(failed)
        return "idle", None

    def _rate(self, key: Key, status: JobStatus) -> float | None:
        if status.state != "running":
            self._paces.pop(key, None)
            return None
        pace = self._paces.setdefault(key, deque())
        if pace and pace[-1][1] > status.done:
            # Another run has begun.
            pace.clear()
        pace.append((time.monotonic(), status.done))
        while pace[-1][0] - pace[0][0] > _PACE_SECONDS:
            pace.popleft()
        seconds = pace[-1][0] - pace[0][0]
        return (pace[-1][1] - pace[0][1]) / seconds if seconds >= 2 else status.rate


def _key(run: WorkflowExecution) -> Key:
    attributes = run.typed_search_attributes
    return attributes.get(EXPORT_CONNECTION, ""), attributes.get(EXPORT_JOB, "")


def stuck(jobs: Sequence[JobStatus]) -> int:
    """How many jobs need attention."""
    return sum(status.state in ("paused", "blocked", "failed") for status in jobs)
