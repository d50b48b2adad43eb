"""A source's database: opened when first used, and errors of its driver as SourceError, without parameters, password or
values."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)

from crm_export.config import SourceConfig
from crm_export.errors import SourceError

_CONNECT_SECONDS = 10
_NAME_NO_VALUES = (InterfaceError, OperationalError, ProgrammingError)
"""What fails for want of a connection, a table or a column. Others may quote the value that they fail at."""


class Database:
    """One source: an engine, opened when first used, and its name for errors."""

    def __init__(self, config: SourceConfig) -> None:
        self.name = config.name
        self._config = config
        self._lock = threading.Lock()
        self._opened: Engine | None = None

    @property
    def engine(self) -> Engine:
        """Raises SourceError ``SOURCE_UNREACHABLE`` for a URL that cannot be opened."""
        with self._lock:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection to read with. Raises SourceError."""
        try:
            with self.engine.connect() as connection:
                yield connection
        except (OperationalError, InterfaceError) as error:
            if error.connection_invalidated or error.statement is None:
                raise self.error("SOURCE_UNREACHABLE", f"cannot be reached: {_reason(error)}") from None
            raise self.error("SOURCE_QUERY_FAILED", f"could not be read: {_reason(error)}") from None
        except SQLAlchemyError as error:
            raise self.error("SOURCE_QUERY_FAILED", f"could not be read: {_reason(error)}") from None

    def error(self, code: str, what: str, hint: str = "run crm-export check") -> SourceError:
        return SourceError(code, f"source {self.name} {what}", hint=hint)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.dispose()

    def _open(self) -> Engine:
        try:
            url = make_url(self._config.url.get_secret_value())
            if url.drivername == "postgresql":
                url = url.set(drivername="postgresql+psycopg")
            if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
                # SQLite would create an empty one.
                told = f"is a SQLite file that does not exist: {url.database}"
                raise self.error("SOURCE_UNREACHABLE", told, "see sources in exports.yaml")
            arguments = {"connect_timeout": _CONNECT_SECONDS} if url.get_backend_name() == "postgresql" else {}
            return create_engine(
                url, pool_pre_ping=True, pool_size=10, max_overflow=40, pool_timeout=300, connect_args=arguments
            )
        except (NoSuchModuleError, ImportError) as error:
            told = f"has a url whose dialect or driver is not installed ({error})"
            raise self.error("SOURCE_UNREACHABLE", told, "install it beside crm-export") from None
        except (ArgumentError, ValueError):
            told = "has a url that cannot be used: sqlite:///… or postgresql://user:password@host:port/database"
            raise self.error("SOURCE_UNREACHABLE", told, "see sources in exports.yaml") from None


def _reason(error: SQLAlchemyError) -> str:
    # str(error) would carry the statement with its parameters.
    cause = getattr(error, "orig", None)
    if cause is None or isinstance(error, _NAME_NO_VALUES):
        return " ".join(str(cause or type(error).__name__).split())[:200]
    state = getattr(cause, "sqlstate", None)
    return f"{type(cause).__name__}, SQLSTATE {state}" if state else type(cause).__name__
