"""What the engine costs beside the bare loop, on one machine: ``python bench/throughput.py [RECORDS [SECONDS]]``.

Side by side, three times in turn: (a) the same reads and posts with nothing else; (b) a page of the engine with its
store in SQLite, at concurrency 1 and 4. The sink is the simulator in its own process, whose answers take SECONDS (0).
Prints the median records a second of each, and the ratio to (a). Temporal is not in it: a page is one activity.
"""

import asyncio
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

from crm_export.clients import Clients
from crm_export.config import Config
from crm_export.export import export_page
from crm_export.model import RunRef
from crm_export.store import Store

ROUNDS = 3


def configured(folder: Path, url: str, concurrency: int) -> Config:
    fields = {"Name": "name", "BillingCity": "city", "Description": "note", "Elevation__c": "elevation"}
    return Config.model_validate(
        {
            "store": f"sqlite:///{folder}/store.db",
            "connections": {
                "bench": {
                    "crm": "salesforce",
                    "login_url": url,
                    "auth": {"flow": "client_credentials", "client_id": "demo", "client_secret": "demo"},
                    "daily_api_limit": 10**9,
                }
            },
            "sources": {"db": {"url": f"sqlite:///{folder}/source.db"}},
            "jobs": {
                "accounts": {
                    "connection": "bench",
                    "source": "db",
                    "table": "items",
                    "key": "id",
                    "object": "Account",
                    "external_id": "Icao__c",
                    "fields": fields,
                    "concurrency": concurrency,
                }
            },
        }
    )


def fill(folder: Path, records: int) -> None:
    with closing(sqlite3.connect(folder / "source.db")) as connection, connection:
        connection.execute("CREATE TABLE items (id TEXT PRIMARY KEY, name TEXT, city TEXT, note TEXT, elevation REAL)")
        rows = ((f"K{i:08d}", f"Name {i}", "City", "x" * 400, i / 7) for i in range(records))
        connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?)", rows)


async def raw(config: Config) -> None:
    """Read and post, nothing else."""
    clients = Clients(config, None)
    job = config.jobs["accounts"]
    source, crm, position = clients.source(job), clients.crm("bench"), None
    while rows := await asyncio.to_thread(source.read, position, 2_000):
        for start in range(0, len(rows), job.batch_size):
            values = [record.body for record in rows[start : start + job.batch_size]]
            await crm.upsert(job.object, job.external_id, values, all_or_none=True)
        position = rows[-1].position
    await clients.close()


async def engine(config: Config) -> None:
    """One page over everything, as the activity runs it."""
    store = Store(config.store)
    clients = Clients(config, store)
    job = config.jobs["accounts"]
    run = RunRef(connection="bench", job="accounts", run_id=os.urandom(8).hex(), workflow_id="bench")
    store.runs.begin(run, first_position=lambda position, completed: None)
    ledger = store.runs.claim(run, job.object)
    page = await export_page(
        job, clients.source(job), clients.crm("bench"), ledger, seconds=3_600, should_stop=lambda: False
    )
    assert page.finished, page
    await clients.close()


async def timed(work: Callable[[Config], Awaitable[None]], config: Config, records: int) -> float:
    began = time.perf_counter()
    await work(config)
    return records / (time.perf_counter() - began)


def main() -> None:
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    latency = sys.argv[2] if len(sys.argv) > 2 else "0"
    command = [sys.executable, "-m", "salesforce_simulator", "--fast", "--latency", latency]
    with (
        tempfile.TemporaryDirectory() as name,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as simulator,
    ):
        folder = Path(name)
        assert simulator.stdout is not None
        url = simulator.stdout.readline().split()[-1]
        fill(folder, records)
        store = Store(f"sqlite:///{folder}/store.db")
        store.migrate()
        first = configured(folder, url, 1)
        store.settings.create("bench", first.connections["bench"].first_settings)
        store.close()
        ways = {
            "raw loop": (raw, first),
            "engine, concurrency 1": (engine, first),
            "engine, concurrency 4": (engine, configured(folder, url, 4)),
        }
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, (work, config) in ways.items():
                rates[way].append(asyncio.run(timed(work, config, records)))
        simulator.terminate()
    base = statistics.median(rates["raw loop"])
    for way, found in rates.items():
        rate = statistics.median(found)
        print(f"{way:24} {rate:10,.0f} records/s   {rate / base:.2f} of the raw loop")


if __name__ == "__main__":
    main()
