"""The ExportErrors table as people read it: filtered, a page at a time, quick however many rows there are."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import select

from crm_export.model import ErrorFilter, ErrorState, ExportError
from crm_export.store.database import Database
from crm_export.store.export_errors import error_of, not_closed, only_held
from crm_export.store.schema import export_errors

_ROWS_A_READ = 2_000


class ErrorPages:
    """Pages are found by the row they begin behind (keysets), so that the last costs what the first does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def newest(self, wanted: ErrorFilter, limit: int, before: int | None = None) -> list[ExportError]:
        """The newest rows, or those older than row ``before``, newest first."""
        return self._read(wanted, [export_errors.c.id < before] if before else [], export_errors.c.id.desc(), limit)

    def newer(self, wanted: ErrorFilter, limit: int, after: int) -> list[ExportError]:
        """The rows that come right before row ``after`` in a list, newest first."""
        return self._read(wanted, [export_errors.c.id > after], export_errors.c.id, limit)[::-1]

    def every(self, wanted: ErrorFilter) -> Iterator[ExportError]:
        """All rows, oldest first, read in short transactions: a download holds no lock."""
        after = 0
        while rows := self._read(wanted, [export_errors.c.id > after], export_errors.c.id, _ROWS_A_READ):
            yield from rows
            after = rows[-1].id

    def one(self, connection: str, row_id: int) -> ExportError | None:
        statement = select(export_errors).where(export_errors.c.id == row_id, export_errors.c.connection == connection)
        with self._database.read() as reading:
            row = reading.execute(statement).one_or_none()
        return None if row is None else error_of(row)

    def _read(self, wanted: ErrorFilter, bounds: list[Any], order: Any, limit: int) -> list[ExportError]:
        statement = select(export_errors).where(*_where(self._database, wanted), *bounds).order_by(order).limit(limit)
        with self._database.read() as reading:
            return [error_of(row) for row in reading.execute(statement)]


def _where(database: Database, wanted: ErrorFilter) -> list[Any]:
    table = export_errors.c
    where: list[Any] = [table.connection == wanted.connection]
    match wanted.state:
        case "unresolved":
            where.append(not_closed)
        case "open":
            where += [not_closed, table.state == ErrorState.OPEN]
        case "held":
            where.append(only_held)
        case "closed":
            where.append(table.state == ErrorState.CLOSED)
    if wanted.job is not None:
        where.append(table.job == wanted.job)
    if wanted.code is not None:
        where.append(table.code == wanted.code)
    if wanted.since is not None:
        where.append(table.first_failed_at >= wanted.since)
    if wanted.key:
        where.append(database.has_part(table.record_key, wanted.key))
    return where
