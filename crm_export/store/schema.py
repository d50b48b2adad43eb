"""The store's tables. Alembic's migrations build them; a test holds the two to each other."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Dialect,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC with its zone, on databases that keep zones and on those that do not (SQLite)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


metadata = MetaData()

# SQLite numbers rows by itself only where the key is INTEGER.
_row_number = BigInteger().with_variant(Integer, "sqlite")

export_errors = Table(
    "export_errors",
    metadata,
    Column("id", _row_number, primary_key=True, autoincrement=True),
    Column("connection", String(255), nullable=False),
    Column("job", String(255), nullable=False),
    Column("object", String(255), nullable=False),
    Column("record_key", Text, nullable=False),
    Column("code", String(255), nullable=False),
    Column("message", Text, nullable=False),
    Column("fields", JSON, nullable=False),
    Column("category", String(32), nullable=False),
    Column("hint", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("first_failed_at", UtcDateTime, nullable=False),
    Column("last_failed_at", UtcDateTime, nullable=False),
    Column("closed_at", UtcDateTime),
    Column("closed_by", String(16)),
    # The last re-export that tried this row, so that one that resumes after a kill counts no attempt twice.
    Column("reexport_run", String(255)),
)
_not_closed = export_errors.c.state != "closed"
Index(
    "export_errors_one_open",
    export_errors.c.connection,
    export_errors.c.job,
    export_errors.c.record_key,
    unique=True,
    sqlite_where=_not_closed,
    postgresql_where=_not_closed,
)
# What people filter by stands behind the order, so that a filter that finds little reads the index, not the rows.
Index(
    "export_errors_open_in_order",
    export_errors.c.connection,
    export_errors.c.id,
    export_errors.c.job,
    export_errors.c.code,
    export_errors.c.state,
    export_errors.c.first_failed_at,
    export_errors.c.record_key,
    sqlite_where=_not_closed,
    postgresql_where=_not_closed,
)
# Counts by cause, and since when, come from the index alone.
Index(
    "export_errors_open_by_cause",
    export_errors.c.connection,
    export_errors.c.job,
    export_errors.c.code,
    export_errors.c.first_failed_at,
    sqlite_where=_not_closed,
    postgresql_where=_not_closed,
)
_held = export_errors.c.state == "held"
Index(
    "export_errors_held",
    export_errors.c.connection,
    export_errors.c.job,
    sqlite_where=_held,
    postgresql_where=_held,
)

settings = Table(
    "settings",
    metadata,
    Column("connection", String(255), primary_key=True),
    Column("export_enabled", Boolean, nullable=False),
    Column("pause_on_error", Boolean, nullable=False),
    Column("daily_api_limit", Integer, nullable=False),
    Column("export_batch_size", Integer, nullable=False, server_default="200"),
)

setting_changes = Table(
    "setting_changes",
    metadata,
    Column("id", _row_number, primary_key=True, autoincrement=True),
    Column("connection", String(255), nullable=False, index=True),
    Column("setting", String(64), nullable=False),
    Column("old", String(64), nullable=False),
    Column("new", String(64), nullable=False),
    Column("by", String(255), nullable=False),
    Column("at", UtcDateTime, nullable=False),
)

# Who asked for what: written before it is done, so that nothing is done that is not here.
operator_actions = Table(
    "operator_actions",
    metadata,
    Column("id", _row_number, primary_key=True, autoincrement=True),
    Column("connection", String(255), nullable=False),
    Column("job", String(255)),
    Column("action", String(64), nullable=False),
    Column("target", Text, nullable=False),
    Column("by", String(255), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    # None while it is under way, and where a crash cut it short.
    Column("outcome", Text),
)
Index("operator_actions_of_connection", operator_actions.c.connection, operator_actions.c.id)

# What the console signs its sessions with, so that a restart signs nobody out.
session_key = Table(
    "session_key",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("key", String(64), nullable=False),
)

positions = Table(
    "positions",
    metadata,
    Column("connection", String(255), primary_key=True),
    Column("job", String(255), primary_key=True),
    # None: before the first row.
    Column("position", JSON(none_as_null=True)),
    Column("run_id", String(255)),
    Column("workflow_id", String(255)),
    # Goes up with each attempt that takes the run over, so that one believed dead can write nothing more.
    Column("claim", Integer, nullable=False),
    Column("exported", BigInteger, nullable=False),
    Column("refused", BigInteger, nullable=False),
    Column("gone", BigInteger, nullable=False),
    # Rows to export, counted when the run began.
    Column("total", BigInteger),
    # The setting of this run alone; None: the connection's.
    Column("pause_on_error", Boolean),
    Column("held_key", Text),
    Column("held_position", JSON(none_as_null=True)),
    Column("held_since", UtcDateTime),
    Column("completed", Boolean, nullable=False),
    Column("full_requested", Boolean, nullable=False),
    Column("started_at", UtcDateTime),
    Column("updated_at", UtcDateTime),
)

api_usage = Table(
    "api_usage",
    metadata,
    Column("connection", String(255), primary_key=True),
    Column("day", Date, primary_key=True),
    Column("calls", BigInteger, nullable=False),
)
