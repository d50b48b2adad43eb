"""Connections share the workers alike, however many exports each has."""

import asyncio
from pathlib import Path

from temporalio.client import Client, WorkflowHandle

import worker
from activities.temporal import fair
from crm_export.clients import Clients
from crm_export.config import Config
from crm_export.model import Settings
from crm_export.store import Store
from tests.parts import Org, put_airports
from workflows.export import ExportRequest, ExportResult, ExportWorkflow

BUSY = 40


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
            task_queue="crm-export-fair",
            priority=fair(job.connection),
        )
        for job in config.jobs.values()
    ]
    clients = Clients(config, store)
    async with worker.build(temporal, clients, "crm-export-fair", activities_at_once=1):
        await asyncio.gather(*(run.result() for run in runs))
    await clients.close()
    written = await org.written()
    assert len(written) == BUSY + 1
    # It came last into a queue of some eighty activities, two an export.
    assert written.index("small") < BUSY / 2
