"""What a run asks of the world: begin, export a page, try the held record, end."""

import asyncio
import logging
from collections.abc import Callable

from temporalio import activity
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from activities.endings import backoff, refused, to_its_end, trouble, trouble_of, trouble_raised
from activities.requests import FinishRequest, JobRequest, PageRequest, RunPlan, RunSetting
from crm_export.clients import Clients
from crm_export.errors import ConfigError, JobLevelError, StoreError
from crm_export.export import export_page, first_position
from crm_export.held import export_held_record
from crm_export.model import HeldFate, JobTrouble, PageResult, Refusal, RunRef, RunState, error_text
from crm_export.store import RunLedger

logger = logging.getLogger("crm_export.export")


def _log(event: str, run: RunRef, **what: object) -> None:
    """One line an event that matters: keys, codes and counts."""
    logger.info(event, extra={"connection": run.connection, "job": run.job, "workflow_id": run.workflow_id, **what})


class ExportActivities:
    """The activities of ExportWorkflow."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._store = clients.store

    @activity.defn
    async def begin_run(self, request: JobRequest) -> RunPlan:
        """Find the job as configured now, where it stands, and how much there is to export."""
        plan = RunPlan()
        with trouble_raised():
            try:
                connection = self._clients.connection(request.run.connection)
                plan = plan.model_copy(update={"blocked_after": connection.blocked_after})
                job = self._clients.job(request.run.connection, request.run.job)
                plan = plan.model_copy(update={"heartbeat": job.heartbeat})
                state = await asyncio.to_thread(self._store.runs.state, request.run.connection, request.run.job)
                under_way = await self._other_run(request.run, state)
                if under_way is not None:
                    return plan.model_copy(update={"under_way": under_way})
                has_begun = state is not None and state.run == request.run
                return await asyncio.to_thread(self._begin, request, plan, has_begun)
            except (ConfigError, JobLevelError, StoreError) as error:
                if request.patient:
                    raise
                return plan.model_copy(update={"trouble": trouble_of(error)})

    async def _other_run(self, run: RunRef, state: RunState | None) -> str | None:
        """A Schedule's overlap policy keeps runs of one job apart, but not where the server is killed while it starts
        one: what it started is then forgotten, and the next trigger starts another (chaos, seed 2001)."""
        if state is None or state.run is None or state.completed or state.run.workflow_id == run.workflow_id:
            return None
        try:
            described = await activity.client().get_workflow_handle(state.run.workflow_id).describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return None
            raise
        return described.id if described.status is WorkflowExecutionStatus.RUNNING else None

    def _begin(self, request: JobRequest, plan: RunPlan, has_begun: bool) -> RunPlan:
        run = request.run
        job = self._clients.job(run.connection, run.job)
        # The switch keeps exports from starting. One that continues as new has started long ago.
        if not has_begun and not self._store.settings.get(run.connection).export_enabled:
            return plan.model_copy(update={"export_enabled": False})
        source = self._clients.source(job)
        problem = source.order_problem()
        if problem is not None:
            raise problem
        state = self._store.runs.begin(
            run,
            first_position=lambda last, completed: first_position(
                job, lambda position: source.rewind(position, job.lookback), last, completed
            ),
        )
        _log("run begun", run, position=str(state.position) if state.position else None)
        total = state.total
        if total is None:
            total = source.count(state.position)
            self._store.runs.set_total(run, total)
        return plan.model_copy(update={"total": total, "position": state.position, "counts": state.counts})

    @activity.defn
    async def export_page(self, request: PageRequest) -> PageResult:
        """Export the next page of a run."""

        async def page(should_stop: Callable[[], bool]) -> PageResult:
            run = request.run
            try:
                job = self._clients.job(run.connection, run.job)
                crm = self._clients.crm(run.connection)
            except ConfigError as error:
                return await asyncio.to_thread(self._page_not_begun, run, trouble_of(error))
            settings = await asyncio.to_thread(self._store.settings.get, run.connection)
            return await export_page(
                job.in_batches_of(settings.export_batch_size),
                self._clients.source(job),
                crm,
                await self._claim(run, job.object),
                seconds=request.seconds,
                should_stop=should_stop,
                one_batch=request.patient,
            )

        with trouble_raised():
            result = await to_its_end(page)
            _log("page exported", request.run, **result.counts.model_dump(), finished=result.finished)
            if result.held:
                _log("paused", request.run, record_key=result.held.record_key, code=result.held.refusal.code)
            if result.trouble:
                _log("trouble", request.run, code=result.trouble.code, reason=result.trouble.message)
            if request.patient and result.trouble:
                raise trouble(result.trouble)
            return result

    def _page_not_begun(self, run: RunRef, by: JobTrouble) -> PageResult:
        state = self._store.runs.state(run.connection, run.job) or RunState()
        return PageResult(position=state.position, counts=state.counts, trouble=by)

    @activity.defn
    async def export_held_record(self, request: JobRequest) -> HeldFate:
        """Try the held record once; Temporal retries a refusal without end."""

        async def attempt(_: Callable[[], bool]) -> HeldFate | Refusal:
            ledger = await self._claim(run, job.object)
            if ledger.held is None:
                # A former attempt let it go, and its answer was lost.
                return HeldFate.EXPORTED
            keys.append(ledger.held.record_key)
            return await export_held_record(job, self._clients.source(job), self._clients.crm(run.connection), ledger)

        run = request.run
        keys: list[str] = []
        with trouble_raised():
            job = self._clients.job(run.connection, run.job)
            fate = await to_its_end(attempt)
        code = fate.code if isinstance(fate, Refusal) else None
        word = "refused again" if isinstance(fate, Refusal) else fate
        _log("held record tried", run, record_key=keys[0] if keys else None, fate=word, code=code)
        if isinstance(fate, Refusal):
            text = error_text(job.object, keys[0], fate)
            raise refused(text, fate.code, backoff(job.retry.initial, job.retry.maximum)) from None
        return fate

    @activity.defn
    async def leave_out_held_record(self, request: JobRequest) -> HeldFate:
        """Let the held record stay in ExportErrors, and the run's position move behind it."""
        with trouble_raised():
            await asyncio.to_thread(self._store.runs.leave_out_held, request.run)
            return HeldFate.LEFT_OUT

    @activity.defn
    async def set_run_setting(self, setting: RunSetting) -> None:
        """Store the pause setting of one run alone, where its page reads it."""
        with trouble_raised():
            await asyncio.to_thread(self._store.runs.set_pause_on_error, setting.run, setting.pause_on_error)

    @activity.defn
    async def finish_run(self, request: FinishRequest) -> RunState:
        """End the run in the store; gives what became of its records."""
        with trouble_raised():
            state = await asyncio.to_thread(self._store.runs.finish, request.run, completed=request.completed)
            _log("run ended", request.run, **state.counts.model_dump(), completed=request.completed)
            return state

    async def _claim(self, run: RunRef, object_name: str) -> RunLedger:
        return await asyncio.to_thread(self._store.runs.claim, run, object_name)
