"""Positions: where each job stands, which run holds it there, and what became of its records.

A run's progress and the errors it met are written in one transaction, so that no crash can part them.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, select, update

from crm_export.errors import ReplacedError, StoreError, SupersededError
from crm_export.model import (
    ClosedBy,
    ErrorState,
    ExportError,
    HeldRecord,
    Position,
    Refusal,
    RunCounts,
    RunRef,
    RunState,
)
from crm_export.store.database import Database
from crm_export.store.export_errors import ExportErrorsTable
from crm_export.store.schema import positions
from crm_export.store.settings import pause_on_error

_NOT_HELD: dict[str, Any] = {"held_key": None, "held_position": None, "held_since": None}


class Runs:
    """Begins runs, hands out their ledgers, and tells how they stand."""

    def __init__(self, database: Database, errors: ExportErrorsTable) -> None:
        self._database = database
        self._errors = errors

    def begin(
        self,
        run: RunRef,
        *,
        first_position: Callable[[Position | None, bool], Position | None],
    ) -> RunState:
        """Make ``run`` the job's run; repeated for the same run, it changes nothing.

        ``first_position(last position, whether that run came to its end)`` says where a new run starts, unless a full
        export was asked for, which starts before the first row. What an earlier run still held is open from now on.
        """
        with self._database.write() as connection:
            row = _row(connection, run.connection, run.job, for_update=True)
            if row is None or row.run_id != run.run_id:
                last = _position(row.position) if row else None
                full = row is not None and row.full_requested
                start = None if full else first_position(last, row is not None and row.completed)
                self._errors.unhold(connection, run.connection, run.job)
                values = {
                    "position": _json(start),
                    "run_id": run.run_id,
                    "workflow_id": run.workflow_id,
                    "claim": (row.claim if row else 0) + 1,
                    "exported": 0,
                    "refused": 0,
                    "gone": 0,
                    "total": None,
                    "pause_on_error": None,
                    **_NOT_HELD,
                    "completed": False,
                    "full_requested": False,
                    "started_at": datetime.now(UTC),
                    "updated_at": datetime.now(UTC),
                }
                _upsert(self._database, connection, run.connection, run.job, values)
                row = _row(connection, run.connection, run.job)
            assert row is not None
            return self._state(connection, row)

    def set_total(self, run: RunRef, total: int) -> None:
        with self._database.write() as connection:
            connection.execute(update(positions).where(*_of_run(run)).values(total=total))

    def set_pause_on_error(self, run: RunRef, on: bool | None) -> None:
        """Give this run a setting of its own, or with None the connection's again."""
        with self._database.write() as connection:
            connection.execute(update(positions).where(*_of_run(run)).values(pause_on_error=on))

    def request_full(self, connection_name: str, job: str, full: bool) -> None:
        """Let the job's next run start before the first row."""
        with self._database.write() as connection:
            row = _row(connection, connection_name, job, for_update=True)
            if row is not None:
                connection.execute(update(positions).where(*_of_job(connection_name, job)).values(full_requested=full))
            # A job that never ran starts before the first row anyway.

    def finish(self, run: RunRef, *, completed: bool) -> RunState:
        """End ``run``: at the source's end (``completed``), or before it, where a held record becomes an open error."""
        with self._database.write() as connection:
            self._errors.unhold(connection, run.connection, run.job)
            done = connection.execute(
                update(positions)
                .where(*_of_run(run))
                .values(
                    completed=completed,
                    claim=positions.c.claim + 1,
                    **_NOT_HELD,
                    pause_on_error=None,
                    updated_at=datetime.now(UTC),
                )
            )
            row = _row(connection, run.connection, run.job)
            if row is None or done.rowcount == 0:
                raise ReplacedError(f"{run.job}: another run has taken over")
            return self._state(connection, row)

    def state(self, connection_name: str, job: str) -> RunState | None:
        """How the job stands; None when it never ran."""
        with self._database.read() as connection:
            row = _row(connection, connection_name, job)
            return None if row is None else self._state(connection, row)

    def states(self, connection_names: Sequence[str]) -> dict[tuple[str, str], RunState]:
        """How all jobs of some connections stand, by connection and job."""
        with self._database.read() as connection:
            rows = connection.execute(select(positions).where(positions.c.connection.in_(connection_names))).all()
            held = self._errors.held_in(connection, connection_names)
            return {
                (row.connection, row.job): self._state(connection, row, held.get((row.connection, row.job)))
                for row in rows
            }

    def claim(self, run: RunRef, object_name: str) -> "RunLedger":
        """Take the run over for one attempt of one activity. Raises ReplacedError where another run has begun."""
        with self._database.write() as connection:
            row = _claimed(connection, run)
            return RunLedger(
                self._database,
                self._errors,
                run,
                object_name,
                claim=row.claim,
                state=self._state(connection, row),
                pause=pause_on_error(connection, run.connection, row.pause_on_error),
            )

    def leave_out_held(self, run: RunRef) -> None:
        """Let the run's held record stay in ExportErrors as open, and its position move behind it; nothing where none
        is held. Raises ReplacedError where another run has begun."""
        with self._database.write() as connection:
            row = _claimed(connection, run)
            if row.held_key is not None:
                let_go = {**_NOT_HELD, "position": row.held_position, "refused": row.refused + 1}
                connection.execute(update(positions).where(*_of_run(run)).values(let_go))
                self._errors.unhold(connection, run.connection, run.job)

    def _state(self, connection: Connection, row: Row[Any], known: ExportError | None = None) -> RunState:
        """``known`` is the job's held error, where the caller has read it."""
        held = None
        if row.held_key is not None:
            error = known
            if error is None or error.record_key != row.held_key:
                error = self._errors.last_of(connection, row.connection, row.job, row.held_key)
            held_position = _position(row.held_position)
            if error is None or held_position is None:
                raise StoreError(f"job {row.job} holds record {row.held_key}, but no error of it is stored")
            held = HeldRecord(
                record_key=row.held_key,
                object=error.object,
                position=held_position,
                refusal=error.refusal,
                since=row.held_since,
                attempts=error.attempts,
            )
        run = (
            RunRef(connection=row.connection, job=row.job, run_id=row.run_id, workflow_id=row.workflow_id)
            if row.run_id is not None
            else None
        )
        return RunState(
            run=run,
            position=_position(row.position),
            counts=RunCounts(exported=row.exported, refused=row.refused, gone=row.gone),
            total=row.total,
            held=held,
            completed=row.completed,
            started_at=row.started_at,
            updated_at=row.updated_at,
        )


class RunLedger:
    """One attempt's pen: moves the run's position and writes its errors, each time in one transaction.

    Every write gives the setting as it is stored now (``pause_on_error``), and raises SupersededError once another
    attempt, or another run, has taken over.
    """

    def __init__(
        self,
        database: Database,
        errors: ExportErrorsTable,
        run: RunRef,
        object_name: str,
        *,
        claim: int,
        state: RunState,
        pause: bool,
    ) -> None:
        self._database = database
        self._errors = errors
        self._claim = claim
        self.run = run
        self.object = object_name
        self.position = state.position
        self.counts = state.counts
        self.held = state.held
        self.pause_on_error = pause

    def read_pause_on_error(self) -> bool:
        """The setting as it is stored now."""
        with self._database.read() as connection:
            row = connection.execute(select(positions.c.pause_on_error).where(*self._mine())).one_or_none()
            if row is None:
                raise self._superseded()
            self.pause_on_error = pause_on_error(connection, self.run.connection, row.pause_on_error)
        return self.pause_on_error

    def advance(self, position: Position | None, *, exported: Sequence[str], refused: Mapping[str, Refusal]) -> None:
        """Move behind ``position``: what was exported closes its open errors, what was refused is left out. None moves
        nothing, and asks whether the run is this attempt's still."""
        counts = self.counts.model_copy(
            update={
                "exported": self.counts.exported + len(exported),
                "refused": self.counts.refused + len(refused),
            }
        )
        with self._database.write() as connection:
            if position is None:
                self._move(connection, counts)
            else:
                self._move(connection, counts, position=_json(position))
                self._errors.close(connection, self.run.connection, self.run.job, exported, ClosedBy.EXPORT)
                self._errors.add(connection, self.run, self.object, refused, ErrorState.OPEN)
        # Not before it is committed: what could not be stored is stored again, with what came since.
        self.counts = counts
        self.position = position or self.position

    def hold(self, record_key: str, held_position: Position, refusal: Refusal) -> HeldRecord:
        """Stay before the record and write its error, as held."""
        since = datetime.now(UTC)
        with self._database.write() as connection:
            self._move(
                connection,
                self.counts,
                held_key=record_key,
                held_position=_json(held_position),
                held_since=since,
            )
            self._errors.add(connection, self.run, self.object, {record_key: refusal}, ErrorState.HELD)
            error = self._errors.last_of(connection, self.run.connection, self.run.job, record_key)
        self.held = HeldRecord(
            record_key=record_key,
            object=self.object,
            position=held_position,
            refusal=refusal,
            since=since,
            attempts=error.attempts if error else 1,
        )
        return self.held

    def refused_again(self, refusal: Refusal) -> None:
        """Count one more attempt on the held record."""
        held = self._held()
        with self._database.write() as connection:
            self._move(connection, self.counts)
            self._errors.add(connection, self.run, self.object, {held.record_key: refusal}, ErrorState.HELD)

    def let_go(self, became: ClosedBy | None) -> None:
        """Carry on after the held record: it was exported, it is gone, or (None) it stays in ExportErrors as open."""
        held = self._held()
        done = {ClosedBy.EXPORT: "exported", ClosedBy.GONE: "gone"}[became] if became else "refused"
        counts = self.counts.model_copy(update={done: getattr(self.counts, done) + 1})
        with self._database.write() as connection:
            self._move(connection, counts, position=_json(held.position), **_NOT_HELD)
            if became:
                self._errors.close(connection, self.run.connection, self.run.job, [held.record_key], became)
            else:
                self._errors.unhold(connection, self.run.connection, self.run.job)
        self.counts, self.position, self.held = counts, held.position, None

    def _move(self, connection: Connection, counts: RunCounts, **values: Any) -> None:
        row = connection.execute(
            update(positions)
            .where(*self._mine())
            .values(
                exported=counts.exported,
                refused=counts.refused,
                gone=counts.gone,
                updated_at=datetime.now(UTC),
                **values,
            )
            .returning(positions.c.pause_on_error)
        ).one_or_none()
        if row is None:
            raise self._superseded()
        self.pause_on_error = pause_on_error(connection, self.run.connection, row.pause_on_error)

    def _mine(self) -> list[Any]:
        return [*_of_run(self.run), positions.c.claim == self._claim]

    def _held(self) -> HeldRecord:
        if self.held is None:
            raise SupersededError(f"{self.run.job}: no record is held any more")
        return self.held

    def _superseded(self) -> SupersededError:
        return SupersededError(f"{self.run.job}: another attempt has taken over")


def _of_job(connection_name: str, job: str) -> list[Any]:
    return [positions.c.connection == connection_name, positions.c.job == job]


def _of_run(run: RunRef) -> list[Any]:
    return [*_of_job(run.connection, run.job), positions.c.run_id == run.run_id]


def _claimed(connection: Connection, run: RunRef) -> Row[Any]:
    row = connection.execute(
        update(positions)
        .where(*_of_run(run))
        .values(claim=positions.c.claim + 1, updated_at=datetime.now(UTC))
        .returning(*positions.c)
    ).one_or_none()
    if row is None:
        raise ReplacedError(f"{run.job}: another run has taken over")
    return row


def _row(connection: Connection, name: str, job: str, *, for_update: bool = False) -> Row[Any] | None:
    statement = select(positions).where(*_of_job(name, job))
    return connection.execute(statement.with_for_update() if for_update else statement).one_or_none()


def _upsert(database: Database, connection: Connection, name: str, job: str, values: Mapping[str, Any]) -> None:
    statement = database.insert(positions).values(connection=name, job=job, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["connection", "job"], set_=dict(values)))


def _json(position: Position | None) -> dict[str, Any] | None:
    return None if position is None else position.model_dump()


def _position(value: Any) -> Position | None:
    return None if value is None else Position.model_validate(value)
