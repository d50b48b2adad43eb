"""A store that is down, full, slow, locked, cut off or half migrated: nothing is lost, and it heals without a hand."""

import asyncio
import contextlib
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from crm_export.errors import StoreError
from crm_export.export import export_page
from crm_export.model import PageResult, Refusal, Settings
from crm_export.store import Store, database
from tests.chaos.world import PostgreSQL
from tests.crm_export.test_export import RUN, FakeCrm, FakeSource
from tests.crm_export.test_export import job as job_of


@contextlib.contextmanager
def opened(url: str) -> Iterator[Store]:
    store = Store(url)
    store.migrate()
    store.settings.create("acme", Settings(pause_on_error=False))
    store.runs.begin(RUN, first_position=lambda position, completed: position)
    yield store
    store.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A locked SQLite file is given up after a moment, not after half a minute."""
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.2)


class Exporting:
    """A job of 40 records of which four are refused, exported page after page whatever the store does."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.source = FakeSource(40)
        self.bad = {"k003", "k011", "k019", "k035"}
        self.crm = FakeCrm(self.bad, set(), 200)

    async def page(self) -> PageResult:
        ledger = await asyncio.to_thread(self.store.runs.claim, RUN, "Account")
        return await export_page(job_of(1), self.source, self.crm, ledger, seconds=60, should_stop=lambda: False)

    def nothing_is_lost(self) -> None:
        state = self.store.runs.state("acme", "accounts")
        assert state is not None
        assert (state.counts.exported, state.counts.refused) == (36, 4)
        assert set(self.crm.written) == set(self.source.keys) - self.bad
        rows = self.store.errors.list(connections=["acme"])
        assert {row.record_key for row in rows} == self.bad


async def test_a_full_disk_is_trouble_that_says_so_and_heals(file: Path) -> None:
    with opened(f"sqlite:///{file}") as store:
        exporting = Exporting(store)
        full = [True]

        @event.listens_for(store.database.engine, "connect")
        def limited(connection: Any, _record: Any) -> None:
            connection.execute(f"PRAGMA max_page_count = {1 if full[0] else 1_000_000}")

        # A message that takes pages, so that the rows do not fit into what the file has left.
        exporting.crm.reason = Refusal(code="STRING_TOO_LONG", message="x" * 50_000)
        store.database.engine.dispose()
        page = await exporting.page()
        assert page.trouble is not None
        assert page.trouble.code == "STORE_FAILED"
        assert f"the store sqlite:///{file} failed: database or disk is full" in page.trouble.message
        state = store.runs.state("acme", "accounts")
        assert state is not None
        assert state.position is None
        assert store.errors.count_open("acme") == 0
        full[0] = False
        store.database.engine.dispose()
        assert (await exporting.page()).finished
        exporting.nothing_is_lost()


async def test_a_lock_that_ends_is_waited_for(file: Path) -> None:
    with opened(f"sqlite:///{file}") as store, locked(file, seconds=1.5):
        exporting = Exporting(store)
        page = await exporting.page()
        assert page.trouble is None
        assert page.finished
        exporting.nothing_is_lost()


async def test_a_lock_that_stays_is_trouble_and_heals(file: Path, impatient: None) -> None:
    with opened(f"sqlite:///{file}") as store:
        exporting = Exporting(store)
        ledger = store.runs.claim(RUN, "Account")
        with locked(file):
            page = await export_page(
                job_of(1), exporting.source, exporting.crm, ledger, seconds=60, should_stop=lambda: False
            )
            assert page.trouble is not None
            assert "database is locked" in page.trouble.message
            with pytest.raises(StoreError, match="database is locked"):
                store.runs.claim(RUN, "Account")
        assert (await exporting.page()).finished
        exporting.nothing_is_lost()


async def test_while_the_store_hangs_no_call_starts(file: Path) -> None:
    """What is not stored after a second is all that a kill may repeat."""
    with opened(f"sqlite:///{file}") as store:
        exporting = Exporting(store)
        upsert, calls_at = exporting.crm.upsert, []

        async def slow(*args: Any, **kwargs: Any) -> Any:
            calls_at.append(time.monotonic())
            await asyncio.sleep(0.3)
            return await upsert(*args, **kwargs)

        exporting.crm.upsert = slow  # type: ignore[method-assign]
        ledger = store.runs.claim(RUN, "Account")
        with locked(file, seconds=4) as since:
            page = await export_page(
                job_of(1), exporting.source, exporting.crm, ledger, seconds=60, should_stop=lambda: False
            )
        assert page.finished
        exporting.nothing_is_lost()
        assert not [at for at in calls_at if 2 < at - since < 3.9]


@pytest.fixture
def cluster() -> Iterator[PostgreSQL]:
    """A PostgreSQL of its own, to be killed. As root it runs as another user, who may not look into pytest's folder."""
    with tempfile.TemporaryDirectory() as folder:
        server = PostgreSQL(Path(folder) / "pg")
        server.start()
        yield server
        server.kill()


async def test_a_database_that_is_killed_is_trouble_and_heals(cluster: PostgreSQL) -> None:
    with opened(cluster.url("postgres")) as store:
        exporting = Exporting(store)
        ledger = store.runs.claim(RUN, "Account")
        cluster.kill()
        page = await export_page(
            job_of(1), exporting.source, exporting.crm, ledger, seconds=60, should_stop=lambda: False
        )
        assert page.trouble is not None
        assert page.trouble.code == "STORE_FAILED"
        assert "Store-Password" not in page.trouble.message
        with pytest.raises(StoreError, match="the store postgresql"):
            store.runs.state("acme", "accounts")
        cluster.start()
        assert (await exporting.page()).finished
        exporting.nothing_is_lost()


def test_a_connection_lost_in_mid_transaction_leaves_nothing(postgresql_url: str) -> None:
    def write_and_lose_the_connection(store: Store) -> None:
        with store.database.write() as connection:
            connection.execute(text("UPDATE positions SET exported = 99"))
            backend = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            with store.database.write() as other:
                other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": backend})
            connection.execute(text("UPDATE positions SET refused = 99"))

    with opened(postgresql_url) as store:
        with pytest.raises(StoreError, match="failed"):
            write_and_lose_the_connection(store)
        state = store.runs.state("acme", "accounts")
        assert state is not None
        assert (state.counts.exported, state.counts.refused) == (0, 0)


def test_a_migration_that_is_killed_half_way_is_done_by_the_next(database_url: str) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED_WHILE_MIGRATING, database_url], capture_output=True, text=True, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    store = Store(database_url)
    with pytest.raises(StoreError, match="run crm-export setup"):
        store.require_migrated()
    store.migrate()
    store.require_migrated()
    store.settings.create("acme", Settings())
    assert store.settings.get("acme") == Settings()
    store.close()


_KILLED_WHILE_MIGRATING = """
import os, signal, sys
from sqlalchemy import event
from crm_export.store import Store

store = Store(sys.argv[1])
tables = []

@event.listens_for(store.database.engine, "after_cursor_execute")
def executed(connection, cursor, statement, *_):
    tables.append(statement) if "CREATE TABLE" in statement else None
    if len(tables) == 4:
        os.kill(os.getpid(), signal.SIGKILL)

store.migrate()
"""


@contextlib.contextmanager
def locked(file: Path, seconds: float | None = None) -> Iterator[float]:
    """Another process's write transaction, for so long or until the end of the block."""
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    release = threading.Timer(seconds or 0, connection.execute, ["ROLLBACK"])
    if seconds is not None:
        release.start()
    try:
        yield time.monotonic()
    finally:
        if seconds is None:
            connection.execute("ROLLBACK")
        else:
            release.join()
        connection.close()
