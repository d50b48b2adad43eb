"""What a first design on Temporal looks like: one activity a record, or a batch of records as an activity's input.

They do what their names say as well as they can, with a worker of their own: 50 activities in flight, one client.
"""

import asyncio
import os
import sys
from datetime import timedelta
from typing import Any

import orjson
from temporalio import activity, workflow
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.temporal import connect
from crm_export import exports_yaml
from crm_export.clients import Clients
from crm_export.model import OrderValue, Position
from worker import prepare_process

TASK_QUEUE = "bench-toys"
_AT_ONCE = 50
_LIMIT = timedelta(seconds=60)


class Toys:
    """The activities of both designs: the values of each record go through Temporal."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._job = clients.config.jobs["items"]

    @activity.defn
    async def read(self, after: str, limit: int) -> list[dict[str, Any]]:
        source = self._clients.source(self._job)
        position = Position(key=OrderValue.of(after)) if after else None
        return [record.values for record in await asyncio.to_thread(source.read, position, limit)]

    @activity.defn
    async def write(self, records: list[dict[str, Any]]) -> None:
        crm = self._clients.crm(self._job.connection)
        bodies = [orjson.dumps(record) for record in records]
        await crm.upsert(self._job.object, self._job.external_id, bodies, all_or_none=True)


async def _read(after: str, limit: int) -> list[dict[str, Any]]:
    return await workflow.execute_activity_method(Toys.read, args=[after, limit], start_to_close_timeout=_LIMIT)


async def _write(records: list[dict[str, Any]]) -> None:
    await workflow.execute_activity_method(Toys.write, records, start_to_close_timeout=_LIMIT)


@workflow.defn
class RecordByRecord:
    """One activity a record, 50 in flight; continues as new where Temporal suggests it."""

    @workflow.run
    async def run(self, after: str) -> None:
        while records := await _read(after, 200):
            for start in range(0, len(records), _AT_ONCE):
                await asyncio.gather(*(_write([record]) for record in records[start : start + _AT_ONCE]))
            after = records[-1]["Icao__c"]
            if workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(after)


@workflow.defn
class BatchByBatch:
    """200 records out of one activity and into another."""

    @workflow.run
    async def run(self, after: str) -> None:
        while records := await _read(after, 200):
            await _write(records)
            after = records[-1]["Icao__c"]
            if workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(after)


async def _work(file: str) -> None:
    prepare_process()
    clients = Clients(exports_yaml.load(exports_yaml.find(file, os.environ), os.environ), None)
    toys = Toys(clients)
    async with Worker(
        await connect(),
        task_queue=TASK_QUEUE,
        workflows=[RecordByRecord, BatchByBatch],
        activities=[toys.read, toys.write],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_work(sys.argv[1]))
