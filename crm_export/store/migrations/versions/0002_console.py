"""The console: who did what, the export batch size, and indexes for lists of 100,000 open errors."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_NOT_CLOSED = sa.text("state != 'closed'")
_HELD = sa.text("state = 'held'")


def upgrade() -> None:
    op.add_column("settings", sa.Column("export_batch_size", sa.Integer(), server_default="200", nullable=False))
    op.create_table(
        "operator_actions",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("connection", sa.String(length=255), nullable=False),
        sa.Column("job", sa.String(length=255), nullable=True),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("by", sa.String(length=255), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("operator_actions_of_connection", "operator_actions", ["connection", "id"], unique=False)
    op.create_table(
        "session_key",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.drop_index("export_errors_open_in_order", table_name="export_errors")
    op.create_index(
        "export_errors_open_in_order",
        "export_errors",
        ["connection", "id", "job", "code", "state", "first_failed_at", "record_key"],
        unique=False,
        sqlite_where=_NOT_CLOSED,
        postgresql_where=_NOT_CLOSED,
    )
    op.drop_index("export_errors_open_by_cause", table_name="export_errors")
    op.create_index(
        "export_errors_open_by_cause",
        "export_errors",
        ["connection", "job", "code", "first_failed_at"],
        unique=False,
        sqlite_where=_NOT_CLOSED,
        postgresql_where=_NOT_CLOSED,
    )
    op.create_index(
        "export_errors_held",
        "export_errors",
        ["connection", "job"],
        unique=False,
        sqlite_where=_HELD,
        postgresql_where=_HELD,
    )
