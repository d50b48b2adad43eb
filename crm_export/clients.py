"""The clients of one process: a CRM session a connection, a reader a job, each opened when first used."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from crm_export.config import Config, Connection, Job
from crm_export.errors import ConfigError
from crm_export.salesforce import Salesforce
from crm_export.sources import Database, SourceReader
from crm_export.store import Store


class Clients:
    """What a worker, or the command line, reaches the world with."""

    def __init__(self, config: Config, store: Store | None, *, call_seconds: float | None = None) -> None:
        """Without a store, calls are not counted. With ``call_seconds`` a call is given up after that, and not
        repeated: for a person who waits for the answer."""
        self.config = config
        self._store = store
        self._call_seconds = call_seconds
        self._crms: dict[str, Salesforce] = {}
        self._databases = {name: Database(source) for name, source in config.sources.items()}
        self._readers: dict[str, SourceReader] = {}
        self._lock = threading.Lock()

    @property
    def store(self) -> Store:
        assert self._store is not None
        return self._store

    def connection(self, name: str) -> Connection:
        """Raises ConfigError for a connection that this process does not know."""
        try:
            return self.config.connections[name]
        except KeyError:
            raise ConfigError(f"connection {name} is not in this worker's exports.yaml") from None

    def job(self, connection: str, name: str) -> Job:
        """Raises ConfigError for a job that this process does not know on that connection."""
        job = self.config.jobs.get(name)
        if job is None or job.connection != connection:
            raise ConfigError(f"job {name} of connection {connection} is not in this worker's exports.yaml")
        return job

    def source(self, job: Job) -> SourceReader:
        with self._lock:
            if job.name not in self._readers:
                self._readers[job.name] = SourceReader(self._databases[job.source], job)
            return self._readers[job.name]

    def crm(self, name: str) -> Salesforce:
        """One session a connection, shared by all its jobs; each call counts towards the daily limit."""
        if name not in self._crms:
            connection = self.connection(name)
            hurry: dict[str, Any] = (
                {"read_seconds": self._call_seconds, "quick_retries": ()} if self._call_seconds else {}
            )
            self._crms[name] = Salesforce(
                connection.login_url,
                connection.api_version,
                connection.credentials(),
                before_call=self._counted(name) if self._store else None,
                most_calls=connection.concurrency,
                **hurry,
            )
        return self._crms[name]

    def _counted(self, name: str) -> Callable[[], Awaitable[None]]:
        usage = self.store.api_usage

        async def before_call() -> None:
            if not usage.spend_taken(name):
                await asyncio.to_thread(usage.spend, name)

        return before_call

    async def close(self) -> None:
        for crm in self._crms.values():
            await crm.aclose()
        for database in self._databases.values():
            database.close()
        if self._store is not None:
            self._store.close()
