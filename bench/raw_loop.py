"""The raw loop: what is left of an export without Temporal, without order, without a store.

The same reads and the same posts, one batch after the other, ``concurrency`` at a time, read ahead: the fastest that
this machine does with these libraries, and the yardstick for everything else. A program of its own, as the worker is:
``python -m bench.raw_loop CONFIG JOB`` prints the seconds that it took.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator

from crm_export import exports_yaml
from crm_export.clients import Clients
from crm_export.config import Config
from crm_export.model import Record
from worker import prepare_process

READ = 2_000


async def export(config: Config, job_name: str) -> None:
    """Read and post everything once."""
    clients = Clients(config, None)
    job = config.jobs[job_name]
    crm = clients.crm(job.connection)
    batches: asyncio.Queue[list[Record] | None] = asyncio.Queue(READ // job.batch_size)

    async def post() -> None:
        while (batch := await batches.get()) is not None:
            await crm.upsert(job.object, job.external_id, [record.body for record in batch], all_or_none=True)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(job.concurrency):
            tasks.create_task(post())
        async for rows in _read(clients, job_name):
            for start in range(0, len(rows), job.batch_size):
                await batches.put(rows[start : start + job.batch_size])
        for _ in range(job.concurrency):
            await batches.put(None)
    await clients.close()


async def _read(clients: Clients, job_name: str) -> AsyncIterator[list[Record]]:
    source = clients.source(clients.config.jobs[job_name])
    rows = await asyncio.to_thread(source.read, None, READ)
    while rows:
        reading = asyncio.create_task(asyncio.to_thread(source.read, rows[-1].position, READ))
        yield rows
        rows = await reading


async def _timed(file: str, job_name: str) -> float:
    prepare_process()
    config = exports_yaml.load(exports_yaml.find(file, os.environ), os.environ)
    began = time.perf_counter()
    await export(config, job_name)
    return time.perf_counter() - began


if __name__ == "__main__":
    print(asyncio.run(_timed(sys.argv[1], sys.argv[2])))
