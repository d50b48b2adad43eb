"""What the daily re-export asks of the world."""

import asyncio
import logging
from collections.abc import Callable

from temporalio import activity
from temporalio.service import RPCError, RPCStatusCode

from activities.endings import to_its_end, trouble, trouble_raised
from activities.requests import ReexportPlan, ReexportReleased, ReexportRequest
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
        """Which open error is the newest, and whether the connection exports at all."""

        def begin() -> ReexportPlan:
            return ReexportPlan(
                export_enabled=self._store.settings.get(connection).export_enabled,
                until=self._store.errors.last_id(connection),
                blocked_after=self._clients.connection(connection).blocked_after,
            )

        with trouble_raised():
            return await asyncio.to_thread(begin)

    @activity.defn
    async def reexport_page(self, request: ReexportRequest) -> ReexportPage:
        """Export the next open errors' records again."""

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
            done_something = result.exported or result.refused or result.gone
            if request.patient and result.trouble and not done_something:
                raise trouble(result.trouble)
            return result

    @activity.defn
    async def tell_paused_runs(self, released: ReexportReleased) -> None:
        """Tell paused runs whose held record went through: they carry on at once."""
        with trouble_raised():
            runs = await asyncio.to_thread(self._store.runs.states, [released.connection])
        for job in released.jobs:
            state = runs.get((released.connection, job))
            if state is None or state.run is None or state.held is None:
                continue
            try:
                await activity.client().get_workflow_handle(state.run.workflow_id).signal("retry_now")
            except RPCError as error:
                # It has ended meanwhile. Anything else is tried again.
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise

    def _job_and_source(self, name: str, batch_size: int) -> tuple[Job, Source] | None:
        job = self._clients.config.jobs.get(name)
        return None if job is None else (job.in_batches_of(batch_size), self._clients.source(job))
