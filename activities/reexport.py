"""What the daily re-export asks of the world."""

import asyncio
import logging
from collections.abc import Callable

from temporalio import activity
from temporalio.service import RPCError

from activities.endings import to_its_end, trouble, trouble_raised
from activities.requests import ReexportPlan, ReexportRequest
from crm_export.ahead import Source
from crm_export.clients import Clients
from crm_export.config import Job
from crm_export.model import ReexportPage
from crm_export.reexport import reexport_page

logger = logging.getLogger("crm_export.reexport")


class ReexportActivities:
    """The activities of CRMExport_ExportError."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._store = clients.store

    @activity.defn
    async def begin_reexport(self, connection: str) -> ReexportPlan:
        """How many errors are open, and which is the newest of them."""

        def begin() -> ReexportPlan:
            return ReexportPlan(
                export_enabled=self._store.settings.get(connection).export_enabled,
                until=self._store.errors.last_id(connection),
                open_errors=self._store.errors.count_open(connection),
                blocked_after=self._clients.connection(connection).blocked_after,
            )

        with trouble_raised():
            return await asyncio.to_thread(begin)

    @activity.defn
    async def reexport_page(self, request: ReexportRequest) -> ReexportPage:
        """Export the next open errors' records again; paused runs whose record went through are told at once."""

        async def page(should_stop: Callable[[], bool]) -> ReexportPage:
            settings = await asyncio.to_thread(self._store.settings.get, request.connection)
            return await reexport_page(
                request.connection,
                request.run_id,
                lambda name: self._job_and_source(name, settings.export_batch_size),
                self._clients.crm(request.connection),
                self._store,
                after=request.after,
                until=request.until,
                only=request.only,
                should_stop=should_stop,
            )

        with trouble_raised():
            result = await to_its_end(page)
            what = result.model_dump(include={"exported", "refused", "gone", "finished"})
            logger.info("open errors exported again", extra={"connection": request.connection, **what})
            for job in result.released:
                await self._tell_paused_run(request.connection, job)
            if request.patient and result.trouble:
                raise trouble(result.trouble)
            return result

    def _job_and_source(self, name: str, batch_size: int) -> tuple[Job, Source] | None:
        job = self._clients.config.jobs.get(name)
        return None if job is None else (job.in_batches_of(batch_size), self._clients.source(job))

    async def _tell_paused_run(self, connection: str, job: str) -> None:
        state = await asyncio.to_thread(self._store.runs.state, connection, job)
        if state is None or state.run is None or state.held is None:
            return
        try:
            await activity.client().get_workflow_handle(state.run.workflow_id).signal("retry_now")
        except RPCError:
            # The run has ended meanwhile; a run that missed it tries again by itself.
            logger.info("paused run was not told", extra={"connection": connection, "job": job})
