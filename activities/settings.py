"""What the settings workflow asks of the world."""

import asyncio
import logging

from temporalio import activity
from temporalio.service import RPCError, RPCStatusCode

from activities.endings import trouble_raised
from activities.requests import SettingRequest, SettingsTold
from crm_export.clients import Clients
from crm_export.model import Settings

logger = logging.getLogger("crm_export.settings")
MOST_TOLD = 100
"""An answer names so many runs at most."""


class SettingsActivities:
    """The activities of CrmSettings."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._store = clients.store

    @activity.defn
    async def load_settings(self, connection: str) -> Settings:
        """The stored settings; those of exports.yaml where none are stored yet."""
        with trouble_raised():
            first = self._clients.connection(connection).first_settings
            return await asyncio.to_thread(self._store.settings.create, connection, first)

    @activity.defn
    async def change_setting(self, request: SettingRequest) -> Settings:
        """Store a setting for good, with who changed it."""
        with trouble_raised():
            logger.info("setting changed", extra=request.model_dump())
            return await asyncio.to_thread(
                self._store.settings.change, request.connection, request.setting, request.value, request.by
            )

    @activity.defn
    async def tell_exports(self, request: SettingRequest) -> SettingsTold:
        """Tell every running export of the connection that a setting has changed."""
        with trouble_raised():
            settings = await asyncio.to_thread(self._store.settings.get, request.connection)
            runs = await asyncio.to_thread(self._store.runs.states, [request.connection])
        releases = request.setting == "pause_on_error" and not request.value
        told: list[str] = []
        client = activity.client()
        pause_on_error = settings.pause_on_error if request.setting == "pause_on_error" else None
        running = 'WorkflowType IN ("ExportWorkflow", "CRMExport_ExportError") AND ExecutionStatus="Running"'
        async for run in client.list_workflows(f'{running} AND ExportConnection="{request.connection}"'):
            activity.heartbeat()
            try:
                await client.get_workflow_handle(run.id).signal("connection_setting_changed", pause_on_error)
                told.append(run.id)
            except RPCError as error:
                # It ended between the list and the signal. Anything else is tried again, and tells each once more.
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise
        # Of the runs that were told alone: what one that was terminated held, nobody lets go.
        listening = set(told)
        released = [
            f"{job} {state.held.record_key}"
            for (_, job), state in sorted(runs.items())
            if state.held and state.run and state.run.workflow_id in listening
        ]
        return SettingsTold(
            settings=settings,
            told=tuple(told[:MOST_TOLD]),
            released=tuple(released[:MOST_TOLD]) if releases else (),
        )
