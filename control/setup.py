"""``crm-export setup``: tables, search attributes, the entity workflows and the Schedules. Safe to repeat."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.common import SearchAttributePair, TypedSearchAttributes, WorkflowIDConflictPolicy
from temporalio.service import RPCError

from activities.requests import ErrorsSummary
from activities.temporal import TASK_QUEUE, connect, fair
from control.asking import OperationFailedError, answered
from crm_export.config import Config, Connection, Job
from crm_export.store import Store
from workflows.export import ExportRequest, ExportWorkflow
from workflows.export_errors import ExportErrors
from workflows.reexport import CRMExportExportError, ReexportInput
from workflows.settings import CrmSettings, SettingsRequest
from workflows.shown import EXPORT_CONNECTION, EXPORT_JOB, EXPORT_STATE, SEARCH_ATTRIBUTES, ExportState

_CATCHUP = timedelta(days=1)
"""After an outage, one missed run is made up for if it was due within a day; Temporal's default is a year."""
_POLICY = SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=_CATCHUP)


async def setup(config: Config) -> AsyncIterator[str]:
    """Do what is missing, and say each thing that is there now, a line each."""
    client = await connect()
    store = Store(config.store)
    try:
        await asyncio.to_thread(store.migrate)
        for connection in config.connections.values():
            await asyncio.to_thread(store.settings.create, connection.name, connection.first_settings)
        yield f"store {store.database.name}"
    finally:
        store.close()
    await _register_search_attributes(client)
    yield f"search attributes {', '.join(key.name for key in SEARCH_ATTRIBUTES)}"
    for connection in config.connections.values():
        await _start_entities(client, connection.name)
        yield f"workflows crm-settings/{connection.name}, export-errors/{connection.name}"
        await _schedule(client, f"CRMExport_ExportError/{connection.name}", _reexport(connection))
        yield f"schedule CRMExport_ExportError/{connection.name} ({connection.reexport_schedule} UTC)"
    for job in config.jobs.values():
        await _schedule(client, f"export/{job.connection}/{job.name}", _export(job))
        yield f"schedule export/{job.connection}/{job.name} ({f'{job.schedule} UTC' if job.schedule else 'by hand'})"
    async for removed in _remove_stale(client, config):
        yield f"removed schedule {removed}: its job is not configured any more"


async def _register_search_attributes(client: Client) -> None:
    """Raises OperationFailedError with the command to run where this needs a right that we lack."""
    try:
        known = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace)
        )
        missing = [key.name for key in SEARCH_ATTRIBUTES if key.name not in known.custom_attributes]
        if missing:
            await client.operator_service.add_search_attributes(
                AddSearchAttributesRequest(
                    namespace=client.namespace,
                    search_attributes=dict.fromkeys(missing, IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD),
                )
            )
    except RPCError as error:
        flags = " ".join(f"--name {key.name} --type Keyword" for key in SEARCH_ATTRIBUTES)
        raise OperationFailedError(
            f"Temporal refused to register the search attributes ({error.message}): let an administrator run "
            f"temporal operator search-attribute create --namespace {client.namespace} {flags}"
        ) from None


async def _start_entities(client: Client, connection: str) -> None:
    await answered(
        client.start_workflow(
            CrmSettings.run,
            SettingsRequest(connection=connection),
            id=f"crm-settings/{connection}",
            task_queue=TASK_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            static_summary=f"Settings of {connection}",
            priority=fair(connection),
        )
    )
    await answered(
        client.start_workflow(
            ExportErrors.run,
            ErrorsSummary(connection=connection),
            id=f"export-errors/{connection}",
            task_queue=TASK_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            static_summary=f"What is open on {connection}",
            priority=fair(connection),
        )
    )


def _export(job: Job) -> Schedule:
    return Schedule(
        action=ScheduleActionStartWorkflow(
            ExportWorkflow.run,
            ExportRequest(connection=job.connection, job=job.name),
            id=f"export/{job.connection}/{job.name}",
            task_queue=TASK_QUEUE,
            typed_search_attributes=TypedSearchAttributes(
                [
                    SearchAttributePair(EXPORT_CONNECTION, job.connection),
                    SearchAttributePair(EXPORT_JOB, job.name),
                    SearchAttributePair(EXPORT_STATE, ExportState.RUNNING),
                ]
            ),
            static_summary=f"{job.name} to {job.object} of {job.connection}",
            priority=fair(job.connection),
        ),
        spec=ScheduleSpec(cron_expressions=[job.schedule] if job.schedule else []),
        policy=_POLICY,
    )


def _reexport(connection: Connection) -> Schedule:
    return Schedule(
        action=ScheduleActionStartWorkflow(
            CRMExportExportError.run,
            ReexportInput(connection=connection.name),
            id=f"CRMExport_ExportError/{connection.name}",
            task_queue=TASK_QUEUE,
            typed_search_attributes=TypedSearchAttributes(
                [
                    SearchAttributePair(EXPORT_CONNECTION, connection.name),
                    SearchAttributePair(EXPORT_STATE, ExportState.RUNNING),
                ]
            ),
            static_summary=f"Re-export of what {connection.name} refused",
            priority=fair(connection.name),
        ),
        spec=ScheduleSpec(cron_expressions=[connection.reexport_schedule]),
        policy=_POLICY,
    )


async def _schedule(client: Client, schedule_id: str, schedule: Schedule) -> None:
    """Create the Schedule, or give it today's configuration; whether it is paused is the operator's."""

    def updated(current: ScheduleUpdateInput) -> ScheduleUpdate:
        schedule.state = current.description.schedule.state
        return ScheduleUpdate(schedule=schedule)

    try:
        await answered(client.create_schedule(schedule_id, schedule))
    except ScheduleAlreadyRunningError:
        await answered(client.get_schedule_handle(schedule_id).update(updated))


async def _remove_stale(client: Client, config: Config) -> AsyncIterator[str]:
    """Schedules of this configuration's connections whose job is gone would start runs that can only fail."""
    configured = {f"export/{job.connection}/{job.name}" for job in config.jobs.values()}

    async def listed() -> list[str]:
        return [schedule.id async for schedule in await client.list_schedules()]

    ours = tuple(f"export/{connection}/" for connection in config.connections)
    for schedule_id in await answered(listed()):
        if schedule_id in configured or not schedule_id.startswith(ours):
            continue
        await answered(client.get_schedule_handle(schedule_id).delete())
        yield schedule_id
