"""Who asked for what, and what the console signs its sessions with."""

import secrets
from datetime import UTC, datetime

from sqlalchemy import insert, select, update

from crm_export.model import OperatorAction
from crm_export.store.database import Database
from crm_export.store.schema import operator_actions, session_key


class ActionLog:
    """The operators' actions beside the settings' change log. A row is written before the action is done."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, connection: str, job: str | None, action: str, target: str, by: str) -> int:
        """Write that somebody asks for something; gives the row, for ``end``."""
        statement = insert(operator_actions).values(
            connection=connection, job=job, action=action, target=target, by=by, at=datetime.now(UTC)
        )
        with self._database.write() as writing:
            return int(writing.execute(statement.returning(operator_actions.c.id)).scalar_one())

    def end(self, row_id: int, outcome: str) -> None:
        with self._database.write() as writing:
            writing.execute(update(operator_actions).where(operator_actions.c.id == row_id).values(outcome=outcome))

    def last(self, connections: list[str], most: int = 20) -> list[OperatorAction]:
        """The newest actions, newest first."""
        statement = (
            select(operator_actions)
            .where(operator_actions.c.connection.in_(connections))
            .order_by(operator_actions.c.id.desc())
            .limit(most)
        )
        with self._database.read() as reading:
            return [OperatorAction.model_validate(dict(row._mapping)) for row in reading.execute(statement)]


class SessionKey:
    """One secret a store, made when it is first asked for: every console on it takes the others' sessions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self) -> str:
        statement = self._database.insert(session_key).values(id=1, key=secrets.token_hex(32))
        with self._database.write() as writing:
            writing.execute(statement.on_conflict_do_nothing())
            return str(writing.execute(select(session_key.c.key)).scalar_one())
