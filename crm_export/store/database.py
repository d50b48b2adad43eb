"""The store's database: SQLite for one machine, PostgreSQL in production."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import (
    ARRAY,
    JSON,
    ColumnElement,
    Connection,
    Engine,
    Table,
    TableValuedAlias,
    Text,
    any_,
    cast,
    create_engine,
    event,
    func,
    literal,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from crm_export.errors import StoreError

_CONNECT_SECONDS = 10
# Longer than any transaction here by far: another process's write is waited for, not failed on.
_BUSY_SECONDS = 30


class Database:
    """Short transactions on one database; every error becomes a StoreError that names the store, never a value."""

    def __init__(self, url: str) -> None:
        try:
            self.url = _with_driver(make_url(url))
        except ArgumentError:
            raise StoreError("the store's URL is not one: expected sqlite:///… or postgresql://…") from None
        self.name = self.url.render_as_string(hide_password=True)
        if self.url.get_backend_name() not in ("sqlite", "postgresql"):
            raise StoreError(f"the store {self.name} is not supported: use sqlite:///… or postgresql://…")
        self.engine = _engine(self.url)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction, committed at the end of the block. On SQLite it takes the write lock at once, so that it
        cannot fail half-way because another process wrote in between."""
        with self._errors(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with (
            self._errors(),
            self.engine.connect().execution_options(read_only=True) as connection,
            connection.begin(),
        ):
            yield connection

    def insert(self, table: Any) -> Any:
        """An INSERT that takes ON CONFLICT, in this database's dialect."""
        return (postgresql if self.url.get_backend_name() == "postgresql" else sqlite).insert(table)

    def rows(
        self, values: Sequence[Sequence[Any]], table: Table, names: Sequence[str]
    ) -> tuple[TableValuedAlias, list[ColumnElement[Any]]]:
        """Many rows as one parameter, a JSON array: to select from (in the order of its ``key``), and a column for each
        of the table's ``names``. A third of the time of a parameter for each value, and most of it without Python."""
        text = orjson.dumps(values).decode()
        if self.url.get_backend_name() == "postgresql":
            elements = func.jsonb_array_elements(cast(literal(text, Text), postgresql.JSONB))
            each = elements.table_valued("value", with_ordinality="key").render_derived("each")
            value = cast(each.c.value, postgresql.JSONB)
            return each, [
                cast(value.op("->" if isinstance(table.c[name].type, JSON) else "->>")(i), table.c[name].type)
                for i, name in enumerate(names)
            ]
        each = func.json_each(text).table_valued("value", "key", name="each")
        return each, [func.json_extract(each.c.value, f"$[{i}]") for i in range(len(names))]

    def among(self, text_column: ColumnElement[str], texts: Sequence[str]) -> ColumnElement[bool]:
        """Whether a column is one of many texts. PostgreSQL looks each up in a list of parameters one after the other,
        but hashes an array."""
        if self.url.get_backend_name() == "postgresql":
            return text_column == any_(literal(list(texts), ARRAY(Text)))
        return text_column.in_(texts)

    def has_part(self, text_column: ColumnElement[str], part: str) -> ColumnElement[bool]:
        """Whether a column's text has a part, in whatever case of A to Z."""
        if self.url.get_backend_name() == "postgresql":
            # As SQLite does, and in two thirds of the time that other letters' case takes.
            return text_column.collate("C").icontains(part, autoescape=True)
        # SQLite's LIKE takes no notice of case by itself, in a third of the time.
        return text_column.contains(part, autoescape=True)

    def migrate(self) -> None:
        """Create the tables or bring them up to date. Safe to repeat, and to run twice at a time."""
        with self._errors(), self.engine.connect() as connection, connection.begin():
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('crm-export migrations'))")
            config = _alembic()
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError:
                raise StoreError(f"the store {self.name} was set up by a newer crm-export: install that one") from None

    def require_migrated(self) -> None:
        """Raise StoreError where ``crm-export setup`` has not been run, or not since an update."""
        file = self.url.database if self.url.get_backend_name() == "sqlite" else None
        if file and not Path(file).exists():
            # To look would create it.
            raise StoreError(f"the store {self.name} does not exist: run crm-export setup")
        with self.read() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
        if current != ScriptDirectory.from_config(_alembic()).get_current_head():
            raise StoreError(f"the store {self.name} is not set up for this version: run crm-export setup")

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise StoreError(f"the store {self.name} failed: {_reason(error)}") from None


def _reason(error: SQLAlchemyError) -> str:
    # str(error) would carry the statement with its parameters.
    reason = str(getattr(error, "orig", None) or type(error).__name__)
    return " ".join(reason.split())[:200]


def _with_driver(url: URL) -> URL:
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def _alembic() -> AlembicConfig:
    config = AlembicConfig()
    config.set_main_option("script_location", "crm_export.store:migrations")
    config.set_main_option("path_separator", "os")
    return config


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        return create_engine(
            url,
            pool_pre_ping=True,
            pool_size=10,
            max_overflow=20,
            connect_args={"connect_timeout": _CONNECT_SECONDS},
        )
    engine = create_engine(url, connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False})

    # The driver's own transactions begin late and as readers; SQLAlchemy's page on pysqlite gives this remedy.
    @event.listens_for(engine, "connect")
    def no_driver_transactions(dbapi_connection: Any, _record: Any) -> None:
        dbapi_connection.isolation_level = None
        dbapi_connection.execute("PRAGMA journal_mode=WAL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        read_only = connection.get_execution_options().get("read_only")
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine
