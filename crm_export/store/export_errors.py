"""The ExportErrors table: one row that is not closed for each record that the CRM refuses."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, bindparam, exists, func, literal, or_, select, text, true, update

from crm_export.model import ClosedBy, ErrorState, ExportError, OpenCause, ReexportOnly, Refusal, RunRef
from crm_export.store.database import Database
from crm_export.store.schema import export_errors

# One statement's parameters stay below SQLite's limit of 32,766 and PostgreSQL's of 65,535.
_KEYS_A_STATEMENT = 10_000
_REASON = ("code", "message", "fields", "category", "hint")
_NEW_REASON = tuple(f"new_{name}" for name in _REASON)
# A partial index is found by its own words: a bound parameter would not match it.
not_closed = text("state != 'closed'")
only_held = text("state = 'held'")


class ExportErrorsTable:
    """Writes within a caller's transaction (the methods that take one), and answers what is open."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        connection: Connection,
        run: RunRef,
        object_name: str,
        refused: Mapping[str, Refusal],
        state: ErrorState,
    ) -> None:
        """Write refused records: a new row, or one more attempt on the row that is not closed yet."""
        if not refused:
            return
        now = datetime.now(UTC)
        every, of_each = self._database.rows(
            [(key, *_reason(refusal)) for key, refusal in refused.items()], export_errors, ("record_key", *_REASON)
        )
        of_all = {
            "connection": run.connection,
            "job": run.job,
            "object": object_name,
            "state": state,
            "attempts": 1,
            "first_failed_at": now,
            "last_failed_at": now,
        }
        constants = {name: literal(value, export_errors.c[name].type) for name, value in of_all.items()}
        rows = select(*constants.values(), *of_each).select_from(every).where(true()).order_by(every.c.key)
        statement = self._database.insert(export_errors).from_select([*constants, "record_key", *_REASON], rows)
        new = statement.excluded
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["connection", "job", "record_key"],
                index_where=not_closed,
                set_={
                    **{name: getattr(new, name) for name in ("object", *_REASON, "state", "last_failed_at")},
                    "attempts": export_errors.c.attempts + 1,
                },
            )
        )

    def close(self, connection: Connection, name: str, job: str, keys: Sequence[str], closed_by: ClosedBy) -> int:
        """Close the rows of records that are done with; gives how many there were."""
        of_job = (export_errors.c.connection == name, export_errors.c.job == job, not_closed)
        if not keys or not connection.execute(select(exists().where(*of_job))).scalar():
            return 0
        closed = 0
        for start in range(0, len(keys), _KEYS_A_STATEMENT):
            closed += connection.execute(
                update(export_errors)
                .where(
                    *of_job, self._database.among(export_errors.c.record_key, keys[start : start + _KEYS_A_STATEMENT])
                )
                .values(state=ErrorState.CLOSED, closed_at=datetime.now(UTC), closed_by=closed_by)
            ).rowcount
        return closed

    def unhold(self, connection: Connection, name: str, job: str) -> None:
        """Let what the job's run held be an open error: the run does not wait on it any more."""
        connection.execute(
            update(export_errors)
            .where(
                export_errors.c.connection == name,
                export_errors.c.job == job,
                only_held,
            )
            .values(state=ErrorState.OPEN)
        )

    def last_of(self, connection: Connection, name: str, job: str, record_key: str) -> ExportError | None:
        row = connection.execute(
            select(export_errors)
            .where(
                export_errors.c.connection == name,
                export_errors.c.job == job,
                export_errors.c.record_key == record_key,
            )
            .order_by(export_errors.c.id.desc())
            .limit(1)
        ).one_or_none()
        return None if row is None else error_of(row)

    def due(
        self,
        name: str,
        reexport_run: str,
        after: int,
        until: int,
        limit: int,
        only: ReexportOnly | None = None,
    ) -> list[ExportError]:
        """The next rows for a re-export, in the order they came, without those that it has tried already."""
        only = only or ReexportOnly()
        statement = (
            select(export_errors)
            .where(
                export_errors.c.connection == name,
                not_closed,
                export_errors.c.id > after,
                export_errors.c.id <= until,
                or_(
                    export_errors.c.reexport_run.is_(None),
                    export_errors.c.reexport_run != reexport_run,
                ),
                *([export_errors.c.id.in_(only.ids)] if only.ids else []),
                *([export_errors.c.job == only.job] if only.job is not None else []),
                *([export_errors.c.code == only.code] if only.code is not None else []),
            )
            .order_by(export_errors.c.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [error_of(row) for row in connection.execute(statement)]

    def last_id(self, name: str) -> int:
        """The newest row that is not closed: what comes later is for the next re-export."""
        with self._database.read() as connection:
            statement = select(func.max(export_errors.c.id)).where(export_errors.c.connection == name, not_closed)
            return connection.execute(statement).scalar() or 0

    def settle(
        self,
        reexport_run: str,
        *,
        exported: Sequence[int],
        gone: Sequence[int],
        refused: Mapping[int, Refusal],
    ) -> None:
        """Write what a re-export made of some rows, by their IDs: what is done with, and what was refused again."""
        with self._database.write() as connection:
            for done, closed_by in ((exported, ClosedBy.REEXPORT), (gone, ClosedBy.GONE)):
                if done:
                    connection.execute(
                        update(export_errors)
                        .where(export_errors.c.id.in_(done), not_closed)
                        .values(state=ErrorState.CLOSED, closed_at=datetime.now(UTC), closed_by=closed_by)
                    )
            if refused:
                connection.execute(
                    update(export_errors)
                    .where(export_errors.c.id == bindparam("row_id"), not_closed)
                    .values(
                        **{name: bindparam(new) for name, new in zip(_REASON, _NEW_REASON, strict=True)},
                        attempts=export_errors.c.attempts + 1,
                        last_failed_at=datetime.now(UTC),
                        reexport_run=reexport_run,
                    ),
                    [
                        {
                            "row_id": row_id,
                            **{f"new_{name}": v for name, v in zip(_REASON, _reason(refusal), strict=True)},
                        }
                        for row_id, refusal in refused.items()
                    ],
                )

    def causes(self, name: str, most: int, keys_each: int) -> list[OpenCause]:
        """What is open by job and code, most first; ``most`` causes with ``keys_each`` of their first keys."""
        table = export_errors.c
        statement = (
            select(table.job, table.code, func.count().label("count"), func.min(table.first_failed_at))
            .where(table.connection == name, not_closed)
            .group_by(table.job, table.code)
            .order_by(func.count().desc(), table.job, table.code)
            .limit(most)
        )
        with self._database.read() as connection:
            causes = connection.execute(statement).all()
            return [
                OpenCause(
                    job=job,
                    code=code,
                    count=count,
                    since=since,
                    first_keys=tuple(
                        connection.execute(
                            select(table.record_key)
                            .where(table.connection == name, not_closed, table.job == job, table.code == code)
                            .order_by(table.first_failed_at, table.id)
                            .limit(keys_each)
                        ).scalars()
                    ),
                )
                for job, code, count, since in causes
            ]

    def count_open(self, name: str, job: str | None = None) -> int:
        """Rows not closed, held ones included."""
        where: list[Any] = [export_errors.c.connection == name, not_closed]
        if job is not None:
            where.append(export_errors.c.job == job)
        with self._database.read() as connection:
            return connection.execute(select(func.count()).select_from(export_errors).where(*where)).scalar_one()

    def count_by_job(self, names: Sequence[str]) -> dict[tuple[str, str], int]:
        """Rows not closed, held ones included, by connection and job."""
        table = export_errors.c
        statement = (
            select(table.connection, table.job, func.count())
            .where(table.connection.in_(names), not_closed)
            .group_by(table.connection, table.job)
        )
        with self._database.read() as connection:
            return {(name, job): count for name, job, count in connection.execute(statement)}

    def held_in(self, connection: Connection, names: Sequence[str]) -> dict[tuple[str, str], ExportError]:
        """What is held, by connection and job."""
        statement = select(export_errors).where(export_errors.c.connection.in_(names), only_held)
        return {(row.connection, row.job): error_of(row) for row in connection.execute(statement)}

    def held(self, name: str) -> list[ExportError]:
        """The records that paused runs of this connection wait on: one a job at most."""
        statement = (
            select(export_errors).where(export_errors.c.connection == name, only_held).order_by(export_errors.c.job)
        )
        with self._database.read() as connection:
            return [error_of(row) for row in connection.execute(statement)]

    def list(
        self,
        *,
        connections: Sequence[str],
        job: str | None = None,
        code: str | None = None,
        closed_too: bool = False,
    ) -> list[ExportError]:
        """Rows in the order they came, for people to read."""
        where: list[Any] = [export_errors.c.connection.in_(connections)]
        if not closed_too:
            where.append(not_closed)
        if job is not None:
            where.append(export_errors.c.job == job)
        if code is not None:
            where.append(export_errors.c.code == code)
        with self._database.read() as connection:
            rows = connection.execute(select(export_errors).where(*where).order_by(export_errors.c.id))
            return [error_of(row) for row in rows]


def _reason(refusal: Refusal) -> tuple[Any, ...]:
    """In the order of ``_REASON``."""
    return refusal.code, refusal.message, list(refusal.fields), refusal.category, refusal.hint


def error_of(row: Any) -> ExportError:
    values = {name: value for name, value in row._mapping.items() if name != "reexport_run"}
    return ExportError.model_validate(values)
