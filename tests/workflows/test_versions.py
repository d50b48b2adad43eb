"""Worker versions: a paused export lives through a deployment, and the old version's workers may go."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from temporalio.api.workflowservice.v1 import SetWorkerDeploymentCurrentVersionRequest
from temporalio.client import Client
from temporalio.common import WorkerDeploymentVersion
from temporalio.service import RPCError

import worker
from crm_export.errors import ConfigError
from crm_export.model import Settings
from crm_export.store import Store
from tests.parts import NO_CITY, Org, put_airports
from tests.workflows.conftest import Exporting, config_of
from tests.workflows.test_export import airports

DEPLOYMENT, QUEUE = "crm-export-versions", "crm-export-versions"


async def make_current(client: Client, build_id: str) -> None:
    """As ``temporal worker deployment set-current-version`` does, once the version's workers have shown themselves."""
    while True:
        try:
            await client.workflow_service.set_worker_deployment_current_version(
                SetWorkerDeploymentCurrentVersionRequest(
                    namespace=client.namespace, deployment_name=DEPLOYMENT, build_id=build_id
                )
            )
        except RPCError:
            await asyncio.sleep(0.1)
        else:
            return


async def test_a_paused_export_moves_on_to_the_new_version(
    temporal: Client, org: Org, source_file: Path, tmp_path: Path
) -> None:
    config = config_of(org, source_file, tmp_path / "store.db", "versions")
    store = Store(config.store)
    store.migrate()
    store.settings.create("versions", Settings())
    exporting = Exporting(temporal, config, store, org, QUEUE)
    keys = airports(source_file, 25, {13})
    await org.rule("city", NO_CITY)
    async with AsyncExitStack() as old, exporting.worker(WorkerDeploymentVersion(DEPLOYMENT, "2")):
        await old.enter_async_context(exporting.worker(WorkerDeploymentVersion(DEPLOYMENT, "1")))
        await make_current(temporal, "1")
        handle = await exporting.start()
        await exporting.until_held(handle, "A013")
        assert await _version(exporting, handle.id) == "1"

        await make_current(temporal, "2")
        await old.aclose()
        put_airports(source_file, [("A013", "Airport 13", "Mended")])
        result = await handle.result()
        assert (result.exported, result.refused) == (25, 0)
        assert await org.written() == keys
        assert await _version(exporting, handle.id) == "2"
        async for run in temporal.list_workflows(f'TaskQueue="{QUEUE}" AND ExecutionStatus="Running"'):
            await temporal.get_workflow_handle(run.id).terminate()
    store.close()


async def _version(exporting: Exporting, workflow_id: str) -> str:
    described = await exporting.client.get_workflow_handle(workflow_id).describe()
    return str(described.raw_description.workflow_execution_info.versioning_info.deployment_version.build_id)


def test_the_version_comes_from_the_environment() -> None:
    both = {"TEMPORAL_DEPLOYMENT_NAME": "crm-export", "TEMPORAL_WORKER_BUILD_ID": "2026-11-24"}
    assert worker.version_of(both) == WorkerDeploymentVersion("crm-export", "2026-11-24")
    assert worker.version_of({}) is None
    for name in both:
        with pytest.raises(ConfigError, match="go together"):
            worker.version_of({name: both[name]})
