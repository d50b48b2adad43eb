"""One export with everything it needs, on a real Temporal server, for the tests of the workflows."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkerDeploymentVersion
from temporalio.service import RPCError
from temporalio.worker import Replayer

import worker
from activities.codec import data_converter
from activities.requests import ErrorsSummary
from crm_export.clients import Clients
from crm_export.config import Config
from crm_export.model import ExportError, Settings
from crm_export.store import Store
from tests.parts import Org
from workflows.export import ExportRequest, ExportResult, ExportWorkflow, Progress
from workflows.export_errors import ExportErrors
from workflows.reexport import CRMExportExportError, ReexportInput, ReexportResult
from workflows.settings import CrmSettings, SettingsRequest

_numbers = itertools.count(1)


class Exporting:
    """A connection of its own (its name is unique in the server), one job on it, and a worker."""

    def __init__(self, client: Client, config: Config, store: Store, org: Org, task_queue: str) -> None:
        self.client = client
        self.config = config
        self.store = store
        self.org = org
        self.connection = next(iter(config.connections))
        self._task_queue = task_queue

    @asynccontextmanager
    async def worker(self, version: WorkerDeploymentVersion | None = None) -> AsyncIterator[None]:
        clients = Clients(self.config, self.store)
        async with worker.build(self.client, clients, self._task_queue, version=version):
            yield
        for crm in clients._crms.values():
            await crm.aclose()

    async def start(self, suffix: str = "") -> "WorkflowHandle[ExportWorkflow, ExportResult]":
        return await self.client.start_workflow(
            ExportWorkflow.run,
            ExportRequest(connection=self.connection, job="accounts"),
            id=f"export/{self.connection}/accounts{suffix}",
            task_queue=self._task_queue,
        )

    async def reexport(self) -> ReexportResult:
        return await self.client.execute_workflow(
            CRMExportExportError.run,
            ReexportInput(connection=self.connection),
            id=f"CRMExport_ExportError/{self.connection}",
            task_queue=self._task_queue,
        )

    async def start_entities(self) -> "WorkflowHandle[CrmSettings, None]":
        await self.client.start_workflow(
            ExportErrors.run,
            ErrorsSummary(connection=self.connection),
            id=f"export-errors/{self.connection}",
            task_queue=self._task_queue,
        )
        return await self.client.start_workflow(
            CrmSettings.run,
            SettingsRequest(connection=self.connection),
            id=f"crm-settings/{self.connection}",
            task_queue=self._task_queue,
        )

    async def replay(self) -> int:
        """Replay every execution that has ended: the workflows are deterministic. Gives how many there were."""
        replayer = Replayer(
            workflows=worker.WORKFLOWS,
            workflow_runner=worker.SANDBOX,
            interceptors=worker.INTERCEPTORS,
            data_converter=data_converter({}),
        )
        ended = f'TaskQueue="{self._task_queue}" AND ExecutionStatus IN ("Completed", "ContinuedAsNew")'
        # Not those under way: a history that is cut in the midst of a workflow task can keep the replayer waiting.
        runs = [run async for run in self.client.list_workflows(ended)]
        for run in runs:
            history = await self.client.get_workflow_handle(run.id, run_id=run.run_id).fetch_history()
            await replayer.replay_workflow(history)
        return len(runs)

    @property
    def inbox(self) -> "WorkflowHandle[ExportErrors, None]":
        return self.client.get_workflow_handle_for(ExportErrors.run, f"export-errors/{self.connection}")

    async def until(
        self, handle: "WorkflowHandle[ExportWorkflow, ExportResult]", true: Callable[[Progress], bool]
    ) -> Progress:
        """The run's progress once it is as wanted; the test's time-out is the bound."""
        # Of whichever run of the chain is the present one.
        handle = self.client.get_workflow_handle_for(ExportWorkflow.run, handle.id)
        while not true(progress := await handle.query(ExportWorkflow.progress)):
            await asyncio.sleep(0.05)
        return progress

    async def until_held(self, handle: "WorkflowHandle[ExportWorkflow, ExportResult]", key: str) -> Progress:
        return await self.until(handle, lambda progress: progress.held is not None and progress.held.record_key == key)

    def errors(self) -> dict[str, ExportError]:
        """The table's rows by record key, the newest of each."""
        return {e.record_key: e for e in self.store.errors.list(connections=[self.connection], closed_too=True)}


async def ask(handle: "WorkflowHandle[Any, Any]", update: Any, *args: Any) -> Any:
    """Execute an update. (The SDK's types take an async update with a name of its own for a coroutine's.)"""
    return await handle.execute_update(update, args=args)


def config_of(
    org: Org, source: Path, store: Path, name: str, connection: dict[str, Any] | None = None, **job: Any
) -> Config:
    return Config.model_validate(
        {
            "store": f"sqlite:///{store}",
            "connections": {
                name: {
                    "crm": "salesforce",
                    "login_url": org.url,
                    "auth": {"flow": "client_credentials", "client_id": "demo", "client_secret": "demo"},
                    "blocked_after": "1s",
                    **(connection or {}),
                }
            },
            "sources": {"warehouse": {"url": f"sqlite:///{source}"}},
            "jobs": {
                "accounts": {
                    "connection": name,
                    "source": "warehouse",
                    "table": "airports",
                    "key": "icao",
                    "object": "Account",
                    "external_id": "Icao__c",
                    "fields": {"Name": "name", "BillingCity": "city"},
                    "batch_size": 10,
                    "retry": {"initial": "1s", "maximum": "2s"},
                    "heartbeat": "2s",
                    **job,
                }
            },
        }
    )


@pytest.fixture
def job_settings() -> dict[str, Any]:
    """What a test wants its job to have beside the usual; override by parametrisation."""
    return {}


@pytest.fixture
def connection_settings() -> dict[str, Any]:
    """What a test wants its connection to have beside the usual; override it in the test's module."""
    return {}


@pytest.fixture
async def exporting(
    temporal: Client,
    org: Org,
    source_file: Path,
    tmp_path: Path,
    job_settings: dict[str, Any],
    connection_settings: dict[str, Any],
) -> AsyncIterator[Exporting]:
    number = next(_numbers)
    config = config_of(org, source_file, tmp_path / "store.db", f"acme{number}", connection_settings, **job_settings)
    store = Store(config.store)
    store.migrate()
    store.settings.create(f"acme{number}", Settings())
    exporting = Exporting(temporal, config, store, org, f"crm-export-test-{number}")
    async with exporting.worker():
        yield exporting
        async for run in temporal.list_workflows(f'TaskQueue="crm-export-test-{number}" AND ExecutionStatus="Running"'):
            # It may just have ended.
            with suppress(RPCError):
                await temporal.get_workflow_handle(run.id).terminate()
    store.close()
