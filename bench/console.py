"""How soon the console's pages answer with 1,000 jobs and 100,000 open errors, while four people watch each of them.

    python -m bench.console [--requests 200]

With a store in SQLite, then in PostgreSQL, and a real Temporal server, with runs of 50 of the jobs under way, 10 of
them paused. Prints p50, p95 and p99 of each page in milliseconds: over loopback, from the first byte sent to the last
received.
"""

import argparse
import asyncio
import json
import os
import random
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import yaml
from sqlalchemy import insert

from bench.parts import percentile, postgresql
from control.exports import exports
from control.processes import Processes, console_command, free_port, temporal_command, worker_command
from control.setup import setup
from crm_export import exports_yaml
from crm_export.config import Config
from crm_export.model import ErrorState
from crm_export.store import Store
from crm_export.store.schema import export_errors

JOBS = 1_000
ERRORS = 100_000
RUNNING, PAUSED = 50, 10
_CODES = ("FIELD_CUSTOM_VALIDATION_EXCEPTION", "STRING_TOO_LONG", "REQUIRED_FIELD_MISSING", "DUPLICATE_VALUE")
_LIMIT = 100.0
"""Milliseconds that p95 of each page must stay below."""
_CHANGE = "a change, until another's page shows it"
_SEEN_WITHIN = 2_000.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200, help="so many of each page")
    requests = parser.parse_args().requests
    with tempfile.TemporaryDirectory() as name, postgresql(Path(name) / "postgresql") as server:
        stores = {"sqlite": f"sqlite:///{name}/store.db", "postgresql": server}
        measured = {kind: _measured(Path(name), store, requests) for kind, store in stores.items()}
    print(json.dumps({"jobs": JOBS, "open_errors": ERRORS, "milliseconds": measured}, indent=2))
    return 0 if all(map(_are_quick, measured.values())) else 1


def _are_quick(pages: dict[str, dict[str, float]]) -> bool:
    seen = pages[_CHANGE]["p99"] < _SEEN_WITHIN
    return seen and all(page["p95"] < _LIMIT for name, page in pages.items() if name != _CHANGE)


def _measured(folder: Path, store: str, requests: int) -> dict[str, dict[str, float]]:
    with Processes(folder) as processes:
        return asyncio.run(_measure(folder, store, processes, requests))


async def _measure(folder: Path, store: str, processes: Processes, requests: int) -> dict[str, dict[str, float]]:
    port, salesforce, console = free_port(), free_port(), free_port()
    os.environ["TEMPORAL_ADDRESS"] = f"127.0.0.1:{port}"
    processes.start("temporal", temporal_command(port, free_port(), None))
    processes.start("salesforce", [sys.executable, "-m", "salesforce_simulator", "--port", str(salesforce)])
    for name, of in (("temporal", port), ("salesforce", salesforce)):
        await asyncio.to_thread(processes.wait_for, name, of)
    file = _config(folder, store, f"http://127.0.0.1:{salesforce}")
    config = exports_yaml.load(file, os.environ)
    async for _ in setup(config):
        pass
    _fill(store)
    processes.start("worker", worker_command(file))
    await _start_runs(config, f"http://127.0.0.1:{salesforce}")
    processes.start("console", console_command(file, console))
    await asyncio.to_thread(processes.wait_for, "console", console)
    pages = {
        "exports": "/exports",
        "exports, renewed": "/exports/live",
        "exports, filtered": "/exports?job=job-09&state=idle",
        "errors": "/errors",
        "errors, renewed": "/errors/live",
        "errors, last page": "/errors?after=1",
        "errors, one code": "/errors?code=DUPLICATE_VALUE",
        "errors, a code that nothing has": "/errors?code=NOTHING",
        "errors, searched": "/errors?key=K99999",
        "errors, searched in vain": "/errors?key=nothing",
        "errors, since": f"/errors?since={datetime.now(UTC) - timedelta(days=2):%Y-%m-%d}",
        "errors, since in vain": "/errors?since=2999-01-01",
        "settings": "/settings/bench",
        "settings, renewed": "/settings/bench/live",
        "acknowledgement": "/settings/bench/acknowledgement",
        "api, jobs": "/api/jobs",
        "api, errors": "/api/connections/bench/errors",
    }
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{console}", timeout=60) as client:
        stop = asyncio.Event()
        watching = [asyncio.create_task(_watch(client, path, stop)) for path in _watched()]
        measured = {name: await _times(client, path, requests) for name, path in pages.items()}
        measured[_CHANGE] = await _changes(client, 20)
        stop.set()
        await asyncio.gather(*watching)
    return measured


def _watched() -> list[str]:
    return ["/exports/live", "/errors/live", "/settings/bench/live", "/exports/live?state=paused"]


async def _watch(client: httpx.AsyncClient, path: str, stop: asyncio.Event) -> None:
    """A browser that keeps a page open."""
    while not stop.is_set():
        (await client.get(path)).raise_for_status()
        await asyncio.sleep(1)


async def _times(client: httpx.AsyncClient, path: str, requests: int) -> dict[str, float]:
    (await client.get(path)).raise_for_status()
    found = []
    for _ in range(requests):
        began = time.perf_counter()
        (await client.get(path)).raise_for_status()
        found.append((time.perf_counter() - began) * 1000)
        # Spread over the background's looks, rather than between two of them.
        await asyncio.sleep(0.017)
    return {f"p{p}": round(percentile(found, p), 1) for p in (50, 95, 99)}


async def _changes(client: httpx.AsyncClient, samples: int) -> dict[str, float]:
    """From the request to the answer of the other's page that has it; that page asks once a second."""
    found = []
    for number in range(1, samples + 1):
        began = time.perf_counter()
        asked = asyncio.create_task(
            client.patch("/api/connections/bench/settings", json={"daily_api_limit": 100_000 + number})
        )
        # The other page's turn comes at any time of its second.
        await asyncio.sleep(random.random())
        while f"{100_000 + number}" not in (await client.get("/settings/bench/live")).text:
            await asyncio.sleep(1)
        found.append((time.perf_counter() - began) * 1000)
        (await asked).raise_for_status()
    return {f"p{p}": round(percentile(found, p), 1) for p in (50, 95, 99)}


def _config(folder: Path, store: str, salesforce: str) -> Path:
    with closing(sqlite3.connect(folder / "source.db")) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS items (id TEXT PRIMARY KEY, name TEXT)")
        items = [(f"K{i}", f"Item {i}") for i in range(100)]
        connection.executemany("INSERT OR REPLACE INTO items VALUES (?, ?)", items)
    job: dict[str, Any] = {
        "connection": "bench",
        "source": "source",
        "table": "items",
        "key": "id",
        "object": "Account",
        "external_id": "Icao__c",
        "fields": {"Name": "name"},
        "schedule": "0 3 * * *",
    }
    config = {
        "store": store,
        "connections": {
            "bench": {
                "crm": "salesforce",
                "login_url": salesforce,
                "auth": {"flow": "client_credentials", "client_id": "demo", "client_secret": "demo"},
            }
        },
        "sources": {"source": {"url": f"sqlite:///{folder}/source.db"}},
        "jobs": {f"job-{i:03}": job for i in range(JOBS)},
    }
    file = folder / "exports.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    return file


def _fill(store: str) -> None:
    """Open errors over three days, of 50 jobs and four codes, one of them rare."""
    began = datetime.now(UTC) - timedelta(days=3)
    of_all = {
        "connection": "bench",
        "object": "Account",
        "message": "An account needs a billing city, and a country that the rule knows.",
        "fields": ["BillingCity"],
        "category": "validation",
        "hint": "mend the row",
        "state": ErrorState.OPEN,
        "attempts": 1,
    }
    rows = []
    for i in range(ERRORS):
        at = began + timedelta(seconds=i * 2.5)
        code = _CODES[3] if i % 1_000 == 0 else _CODES[i % 3]
        of_each = {"job": f"job-{i % 50 + 100}", "record_key": f"K{i}", "code": code}
        rows.append(of_all | of_each | {"first_failed_at": at, "last_failed_at": at})
    opened = Store(store)
    with opened.database.write() as connection:
        connection.execute(insert(export_errors), rows)
    opened.close()


async def _start_runs(config: Config, salesforce: str) -> None:
    """Runs that stay: the simulator is slow, and refuses what the paused ones send."""
    async with httpx.AsyncClient(base_url=salesforce) as org, exports(config) as facade:
        rule = {"kind": "validation", "object": "Account", "field": "Name", "matches": "Item 1$", "message": "no"}
        (await org.put("/simulator/rules/no", json=rule)).raise_for_status()
        jobs = list(config.jobs.values())
        for job in jobs[:PAUSED]:
            await facade.run(job, by="bench")
        for job in jobs[:PAUSED]:
            while (state := await facade.state(job)) is None or state.held is None:
                await asyncio.sleep(0.2)
        (await org.delete("/simulator/rules/no")).raise_for_status()
        outage = {"kind": "outage"}
        (await org.put("/simulator/rules/down", json=outage)).raise_for_status()
        for job in jobs[PAUSED:RUNNING]:
            await facade.run(job, by="bench")


if __name__ == "__main__":
    sys.exit(main())
