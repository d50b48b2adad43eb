"""The command line as people use it: a program, against a Temporal server, a simulator and a worker."""

import asyncio
import json
import os
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client

from activities.temporal import TASK_QUEUE
from tests.parts import Org

CONFIG = """\
store: sqlite:///{folder}/store.db
connections:
  {connection}:
    crm: salesforce
    login_url: {url}
    auth: {{flow: client_credentials, client_id: demo, client_secret: "${{SECRET:-demo}}"}}
    blocked_after: 1s
sources:
  warehouse: {{url: "sqlite:///{folder}/source.db"}}
jobs:
  accounts:
    connection: {connection}
    source: warehouse
    table: airports
    key: icao
    object: Account
    external_id: Icao__c
    fields: {{Name: name, BillingCity: city}}
    batch_size: 10
    heartbeat: 2s
    retry: {{initial: 1h, maximum: 1h}}
"""


@dataclass
class Answer:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class CommandLine:
    """``crm-export`` with one configuration."""

    file: Path
    environ: dict[str, str]
    connection: str

    async def __call__(self, *arguments: str, **environ: str) -> Answer:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "control",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**self.environ, **environ},
        )
        out, err = await process.communicate()
        return Answer(process.returncode or 0, out.decode(), err.decode())

    def edit(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new))


@pytest.fixture
async def crm_export(
    temporal: Client, org: Org, source_file: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> CommandLine:
    """A configuration of its own, not set up yet."""
    connection = f"cli-{abs(hash(request.node.nodeid)) % 10**8}"
    file = tmp_path / "exports.yaml"
    file.write_text(CONFIG.format(folder=tmp_path, url=org.url, connection=connection))
    address = temporal.service_client.config.target_host
    environ = {**os.environ, "CRM_EXPORT_CONFIG": str(file), "TEMPORAL_ADDRESS": address, "USER": "ada"}
    return CommandLine(file, environ, connection)


@pytest.fixture
async def worker(crm_export: CommandLine, temporal: Client) -> AsyncIterator[asyncio.subprocess.Process]:
    """Set up, and a worker as a process, which asks for work."""
    assert (await crm_export("setup")).status == 0
    process = await asyncio.create_subprocess_exec(
        sys.executable, "worker.py", env=crm_export.environ, stderr=asyncio.subprocess.DEVNULL
    )
    request = DescribeTaskQueueRequest(
        namespace=temporal.namespace,
        task_queue=TaskQueue(name=TASK_QUEUE),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    )
    while not any(
        poller.identity.startswith(f"{process.pid}@")
        for poller in (await temporal.workflow_service.describe_task_queue(request)).pollers
    ):
        assert process.returncode is None
        await asyncio.sleep(0.05)
    yield process
    if process.returncode is None:
        process.terminate()
        await process.wait()


def rows(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
