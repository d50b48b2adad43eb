"""Connections share the workers alike, however many exports each has."""

import asyncio
from pathlib import Path

import yaml
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker

import worker
from activities.temporal import TASK_QUEUE, fair
from control.processes import TEMPORAL_SETTINGS
from crm_export.clients import Clients
from crm_export.config import Config
from crm_export.model import Settings
from crm_export.store import Store
from tests.parts import Org, put_airports
from workflows.export import ExportRequest, ExportResult, ExportWorkflow

BUSY = 40
QUEUE = "crm-export-fair"
DEPLOYED = Path(__file__).parents[2] / "deploy" / "dynamicconfig.yaml"


def config_of(org: Org, folder: Path) -> Config:
    """A connection with many jobs and one with a single one; each job has one record, named after it."""
    connection = {
        "crm": "salesforce",
        "login_url": org.url,
        "auth": {"flow": "client_credentials", "client_id": "demo", "client_secret": "demo"},
    }
    jobs = {f"busy{i}": "fair-busy" for i in range(BUSY)} | {"small": "fair-small"}
    return Config.model_validate(
        {
            "store": f"sqlite:///{folder}/store.db",
            "connections": {"fair-busy": connection, "fair-small": connection},
            "sources": {"warehouse": {"url": f"sqlite:///{folder}/source.db"}},
            "jobs": {
                name: {
                    "connection": of,
                    "source": "warehouse",
                    "query": f"SELECT '{name}' AS icao, name, city FROM airports",
                    "key": "icao",
                    "object": "Account",
                    "external_id": "Icao__c",
                    "fields": {"Name": "name", "BillingCity": "city"},
                }
                for name, of in jobs.items()
            },
        }
    )


async def test_a_busy_connection_does_not_starve_another(
    temporal: Client, org: Org, source_file: Path, tmp_path: Path
) -> None:
    put_airports(source_file, [("A", "Airport", "City")])
    config = config_of(org, tmp_path)
    store = Store(config.store)
    store.migrate()
    for connection in config.connections:
        store.settings.create(connection, Settings())
    runs: list[WorkflowHandle[ExportWorkflow, ExportResult]] = [
        await temporal.start_workflow(
            ExportWorkflow.run,
            ExportRequest(connection=job.connection, job=job.name),
            id=f"export/{job.connection}/{job.name}",
            task_queue=QUEUE,
            priority=fair(job.connection),
        )
        for job in config.jobs.values()
    ]
    async with Worker(temporal, task_queue=QUEUE, workflows=worker.WORKFLOWS, workflow_runner=worker.SANDBOX):
        # The small connection's comes last into a queue of activities that nobody takes yet.
        for run in runs:
            while not (await run.describe()).raw_description.pending_activities:
                await asyncio.sleep(0.05)
    clients = Clients(config, store)
    async with worker.build(temporal, clients, QUEUE, activities_at_once=1):
        await asyncio.gather(*(run.result() for run in runs))
    await clients.close()
    written = await org.written()
    assert len(written) == BUSY + 1
    assert written.index("small") < BUSY / 4


def test_a_server_is_as_fair_as_the_one_that_is_tested() -> None:
    deployed = yaml.safe_load(DEPLOYED.read_text())
    assert {name: entry["value"] for name, [entry] in deployed.items()} == TEMPORAL_SETTINGS
    names = {entry["constraints"]["taskQueueName"] for [entry] in deployed.values() if "constraints" in entry}
    assert names == {TASK_QUEUE}
