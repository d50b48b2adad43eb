"""The source's rows, and how they change: each change is a version of its own, noted with the time it was seen."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg

from tests.chaos.world import JOBS, World

ROWS = 40
"""Rows a table at the start; the first of them are never deleted."""
_PARENTS = 4


@dataclass(frozen=True)
class Change:
    """A row's version as it was committed at ``at`` or before; ``version`` is None when the row was deleted."""

    job: str
    key: str
    version: int | None
    at: float


@dataclass
class Source:
    """Three tables in PostgreSQL, written by one writer, so that versions are committed in their order."""

    world: World
    changes: list[Change] = field(default_factory=list)

    def create(self, rng: random.Random, refused: float) -> None:
        """Each table with ``ROWS`` rows, of which the CRM refuses a share for themselves."""
        self.create_tables()
        for job in JOBS:
            self.put(job, [(f"K{i:03d}", rng.random() >= refused) for i in range(ROWS)])

    def create_tables(self) -> None:
        with psycopg.connect(self.world.postgresql.url("source"), autocommit=True) as connection:
            for table in JOBS:
                connection.execute(
                    f"CREATE TABLE {table} (key text PRIMARY KEY, name text, city text, status text, parent text, "
                    "version bigint UNIQUE)".encode()
                )
            connection.execute("CREATE SEQUENCE versions")

    def put(self, job: str, rows: Sequence[tuple[str, bool]]) -> None:
        """Insert or update rows: (key, whether the CRM takes it for itself)."""
        statement = (
            f"INSERT INTO {job} VALUES (%(key)s, %(name)s, %(city)s, %(status)s, %(parent)s, nextval('versions')) "
            "ON CONFLICT (key) DO UPDATE SET name = excluded.name, city = excluded.city, status = excluded.status, "
            "version = excluded.version RETURNING version"
        )
        values = [_row(key, fine) for key, fine in rows]
        # What was perhaps committed when PostgreSQL was killed is done again, with versions that are newer still.
        while True:
            try:
                with psycopg.connect(self.world.postgresql.url("source")) as connection:
                    versions = [connection.execute(statement.encode(), row).fetchone() for row in values]
                break
            except psycopg.OperationalError:
                time.sleep(0.1)
        now = time.time()
        self.changes += [
            Change(job, key, found[0], now) for (key, _), found in zip(rows, versions, strict=True) if found
        ]

    def delete(self, job: str, key: str) -> None:
        while True:
            try:
                with psycopg.connect(self.world.postgresql.url("source")) as connection:
                    connection.execute(f"DELETE FROM {job} WHERE key = %s".encode(), [key])
                break
            except psycopg.OperationalError:
                time.sleep(0.1)
        self.changes.append(Change(job, key, None, time.time()))

    def rows(self, job: str) -> dict[str, tuple[int, bool]]:
        """Today's rows: version, and whether the CRM takes it for itself."""
        found = self.world.rows("source", f"SELECT * FROM {job}")
        return {row["key"]: (row["version"], is_fine(row)) for row in found}


def _row(key: str, fine: bool) -> dict[str, str | None]:
    """Each object refuses by a rule of its own: a validation rule, a restricted picklist, a length."""
    return {
        "key": key,
        "name": f"Name {key}" if fine else f"Name {key} {'x' * 90}",
        "city": "City" if fine else None,
        "status": "Open" if fine else "Wrong",
        "parent": f"P{int(key[1:]) % _PARENTS}",
    }


def is_fine(row: dict[str, object]) -> bool:
    return row["city"] is not None
