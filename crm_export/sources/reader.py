"""Records out of a SQL database, in order, by keyset pagination.

Synchronous, as SQLAlchemy's portable core is; callers run it in a thread.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from itertools import pairwise
from typing import Any

import orjson
from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    and_,
    bindparam,
    column,
    func,
    inspect,
    or_,
    quoted_name,
    select,
    text,
)
from sqlalchemy import table as sql_table
from sqlalchemy.types import Boolean, LargeBinary, TypeEngine

from crm_export.config import Job
from crm_export.errors import SourceError
from crm_export.model import JsonValue, OrderPython, OrderValue, Position, Record, Refusal
from crm_export.salesforce import facts
from crm_export.sources.database import Database
from crm_export.sources.values import UnsendableValueError, column_converter, converter

_KEYS_A_STATEMENT = 500
_LONGEST_KEY = 500
"""Characters. Salesforce's external IDs have 255; PostgreSQL's index of open errors takes 2,700 bytes a row."""
_ENCODED_NUL = b"\\u0000"
"""Also in a text that shows a backslash before u0000; the single row's way tells the two apart."""


@dataclass(frozen=True)
class _Column:
    """One mapped field: where its value stands in a row, and how it is converted and sent. ``of_parent`` is set for a
    parent that is named by its external ID."""

    field: str
    of_parent: str
    index: int
    convert: Callable[[Any], JsonValue]
    convert_all: Callable[[Sequence[Any]], Sequence[JsonValue]]

    def sent(self, values: Sequence[JsonValue]) -> Sequence[JsonValue]:
        if not self.of_parent:
            return values
        # {"Account__r": {"Icao__c": …}}
        return [None if value is None else {self.of_parent: value} for value in values]


class SourceReader:
    """One job's records. Safe for several threads."""

    def __init__(self, database: Database, job: Job) -> None:
        self._database = database
        self._job = job
        self._any_key: OrderPython | None = None

    def read(self, after: Position | None, limit: int) -> list[Record]:
        """The next ``limit`` records behind ``after`` in the job's order; fewer at the end.

        Raises SourceError ``SOURCE_ORDER`` where two rows have one place in the order, and ``SOURCE_KEY`` for a key
        that no store and no CRM can keep.
        """
        # A row without a place in the order is found by order_problem; one that comes meanwhile must not be read here.
        has_place = [column.is_not(None) for column in self._order]
        statement = self._all.where(*has_place).order_by(*self._order).limit(limit + 1)
        if after is not None:
            statement = statement.where(self._behind(after))
        with self._database.connect() as connection:
            rows = connection.execute(statement).all()
        cursor = self._cursor_place
        for row, following in pairwise(rows):
            if row[0] == following[0] and (cursor is None or row[cursor] == following[cursor]):
                raise self._order_error(f"has several rows with {self._job.key} {row[0]}")
        return self._records(rows[:limit])

    def read_keys(self, keys: Sequence[str]) -> dict[str, Record]:
        """Today's records of these keys; those that are not in the source are left out."""
        records: dict[str, Record] = {}
        example = self._key_example
        if example is None:
            return records
        wanted = [key for text in keys if (key := _typed(text, example)) is not None]
        with self._database.connect() as connection:
            for start in range(0, len(wanted), _KEYS_A_STATEMENT):
                # Under a name of ours: SQLAlchemy would make one of the column's, which may hold any character.
                part = self._key.in_(bindparam("keys", wanted[start : start + _KEYS_A_STATEMENT], expanding=True))
                found = self._records(connection.execute(self._all.where(part)).all())
                records.update((record.key, record) for record in found)
        return records

    def count(self, after: Position | None) -> int:
        """How many records are behind ``after``."""
        statement = select(func.count()).select_from(self._from)
        if after is not None:
            statement = statement.where(self._behind(after))
        with self._database.connect() as connection:
            return int(connection.execute(statement).scalar_one())

    def rewind(self, position: Position, by: timedelta) -> Position:
        """A position so much earlier, for rows that were committed late; the same where the cursor is no time."""
        if position.cursor is None:
            return position
        value = position.cursor.python()
        if isinstance(value, datetime):
            earlier: OrderPython = value - by
        elif isinstance(value, str):
            try:
                moment = datetime.fromisoformat(value) - by
            except ValueError:
                return position
            earlier = moment.isoformat(sep=value[10:11] or "T")[: len(value)]
        else:
            return position
        return Position(cursor=OrderValue.of(earlier), key=position.key)

    def order_problem(self) -> SourceError | None:
        """Rows that have no place in the order, and would be passed over in silence."""
        for name in filter(None, (self._job.key, self._job.cursor)):
            statement = select(func.count()).select_from(self._from).where(_column(name).is_(None))
            with self._database.connect() as connection:
                missing = connection.execute(statement).scalar_one()
            if missing:
                return self._order_error(f"has {missing:,} rows without a {name}")
        return None

    def check(self) -> list[str]:
        """Everything that is wrong with the job's source, a line each."""
        try:
            problems = self._column_problems()
            if problems:
                return problems
            order = self.order_problem()
            return [*([order.message] if order else []), *self._duplicates()]
        except SourceError as error:
            return [error.message]

    def _column_problems(self) -> list[str]:
        with self._database.connect() as connection:
            if self._job.table is not None and not self._types:
                tables = inspect(connection).get_table_names(schema=self._schema)
                close = difflib.get_close_matches(self._table_name, tables, n=1)
                return [
                    f"source {self._database.name} has no table {self._job.table}"
                    + (f" (did you mean {close[0]}?)" if close else "")
                ]
            present = list(connection.execute(select(text("*")).select_from(self._from).limit(0)).keys())
        problems = []
        for name in self._job.columns:
            if name not in present:
                close = difflib.get_close_matches(name, present, n=1)
                problems.append(
                    f"{self._what} has no column {name}" + (f" (did you mean {close[0]}?)" if close else "")
                )
            elif isinstance(self._types.get(name), LargeBinary):
                problems.append(f"{self._what}: column {name} holds bytes, which cannot be exported")
        if self._job.cursor and isinstance(self._types.get(self._job.cursor), Boolean):
            problems.append(f"{self._what}: the cursor {self._job.cursor} is a boolean, which gives no order")
        return problems

    def _duplicates(self) -> list[str]:
        statement = (
            select(self._key)
            .select_from(self._from)
            .where(self._key.is_not(None))
            .group_by(self._key)
            .having(func.count() > 1)
            .order_by(self._key)
        )
        with self._database.connect() as connection:
            keys = [str(key) for key in connection.execute(statement.limit(1_000)).scalars()]
        if not keys:
            return []
        told = f"{len(keys):,} keys are there more than once, first {', '.join(keys[:5])}"
        return [f"{self._what}: {self._job.key} is not unique: {told}"]

    # What is read

    @property
    def _what(self) -> str:
        return f"source {self._database.name}, " + (f"table {self._job.table}" if self._job.table else "the query")

    @property
    def _schema(self) -> str | None:
        assert self._job.table is not None
        return self._job.table.rpartition(".")[0] or None

    @property
    def _table_name(self) -> str:
        assert self._job.table is not None
        return self._job.table.rpartition(".")[2]

    @cached_property
    def _from(self) -> FromClause:
        if self._job.table is not None:
            schema = quoted_name(self._schema, quote=True) if self._schema else None
            names = [quoted_name(name, quote=True) for name in self._job.columns]
            return sql_table(quoted_name(self._table_name, quote=True), *map(column, names), schema=schema)
        assert self._job.query is not None
        # A colon in the owner's query is SQL, not a parameter.
        query = self._job.query.strip().rstrip(";").replace(":", "\\:")
        return text(query).columns(*map(_column, self._job.columns)).subquery("source")

    @cached_property
    def _types(self) -> Mapping[str, TypeEngine[Any]]:
        """The declared types of a table's columns; of a query nothing is known."""
        if self._job.table is None:
            return {}
        with self._database.connect() as connection:
            inspector = inspect(connection)
            if not (
                inspector.has_table(self._table_name, schema=self._schema)
                or self._table_name in inspector.get_view_names(schema=self._schema)
            ):
                return {}
            return {c["name"]: c["type"] for c in inspector.get_columns(self._table_name, schema=self._schema)}

    @cached_property
    def _all(self) -> Select[Any]:
        return select(*map(_column, self._job.columns)).select_from(self._from)

    @cached_property
    def _key(self) -> ColumnElement[Any]:
        return _column(self._job.key)

    @cached_property
    def _order(self) -> list[ColumnElement[Any]]:
        return [_column(self._job.cursor), self._key] if self._job.cursor else [self._key]

    def _behind(self, after: Position) -> ColumnElement[bool]:
        key = after.key.python()
        if self._job.cursor is None or after.cursor is None:
            return self._key > key
        cursor, value = _column(self._job.cursor), after.cursor.python()
        # In this form an index on (cursor, key) is entered at its place.
        return and_(cursor >= value, or_(cursor > value, self._key > key))

    @cached_property
    def _columns(self) -> list[_Column]:
        places = {name: i for i, name in enumerate(self._job.columns)}
        untyped = self._database.engine.dialect.name == "sqlite"
        columns = []
        for path, name in ((self._job.external_id, self._job.key), *self._job.fields.items()):
            field, _, of_parent = path.partition(".")
            declared = self._types.get(name) if untyped else None
            columns.append(
                _Column(field, of_parent, places[name], converter(declared), column_converter(declared)),
            )
        return columns

    def _records(self, rows: Sequence[Sequence[Any]]) -> list[Record]:
        """By column, which costs a fraction; row by row where a value may have no form in JSON."""
        try:
            columns = [mapped.sent(mapped.convert_all([row[mapped.index] for row in rows])) for mapped in self._columns]
            fields = [mapped.field for mapped in self._columns]
            bodies = [orjson.dumps(dict(zip(fields, values, strict=True))) for values in zip(*columns, strict=True)]
        except (UnsendableValueError, orjson.JSONEncodeError):
            return [self._record(row) for row in rows]
        return [
            Record(str(row[0]), self._order_of(row), body, None, self._partition_of(row))
            if (b"\\" not in body or _ENCODED_NUL not in body) and _may_be_key(str(row[0]))
            else self._record(row)
            for row, body in zip(rows, bodies, strict=True)
        ]

    def _record(self, row: Sequence[Any]) -> Record:
        key, order, partition = str(row[0]), self._order_of(row), self._partition_of(row)
        values: dict[str, JsonValue] = {}
        failed: tuple[str, ...] = ()
        if "\0" in key or len(key) > _LONGEST_KEY:
            what = "a NUL character" if "\0" in key else f"more than {_LONGEST_KEY} characters"
            raise SourceError(
                "SOURCE_KEY",
                f"{self._what} has a record key with {what}, which no CRM takes",
                hint="mend the row, or leave it out with a query",
            )
        try:
            if not key.strip():
                raise UnsendableValueError("the record key is empty")
            for mapped in self._columns:
                failed = (mapped.field if not mapped.of_parent else f"{mapped.field}.{mapped.of_parent}",)
                [values[mapped.field]] = mapped.sent([mapped.convert(row[mapped.index])])
        except UnsendableValueError as error:
            code = "UNSENDABLE_VALUE"
            known = facts(code)
            reason = Refusal(code=code, message=str(error), fields=failed, category=known.category, hint=known.hint)
            return Record(key, order, b"{}", reason, partition)
        return Record(key, order, orjson.dumps(values), None, partition)

    def _order_of(self, row: Sequence[Any]) -> tuple[OrderPython, ...]:
        return (row[0],) if self._cursor_place is None else (row[self._cursor_place], row[0])

    def _partition_of(self, row: Sequence[Any]) -> str | None:
        value = None if self._partition_place is None else row[self._partition_place]
        return None if value is None else str(value)

    @cached_property
    def _cursor_place(self) -> int | None:
        return None if self._job.cursor is None else self._job.columns.index(self._job.cursor)

    @cached_property
    def _partition_place(self) -> int | None:
        return None if self._job.partition_by is None else self._job.columns.index(self._job.partition_by)

    @property
    def _key_example(self) -> OrderPython | None:
        """Any row's key; None while there is no row, which is asked again: a table may be emptied and filled anew."""
        if self._any_key is None:
            with self._database.connect() as connection:
                statement = select(self._key).select_from(self._from).where(self._key.is_not(None)).limit(1)
                self._any_key = connection.execute(statement).scalar()
        return self._any_key

    def _order_error(self, what: str) -> SourceError:
        return SourceError(
            "SOURCE_ORDER",
            f"{self._what} {what}: it has no certain place in the order",
            hint="mend the rows, or leave them out with a query",
        )


def _typed(key: str, example: OrderPython) -> OrderPython | None:
    """A key's text as the type of another key; None for a text that no key of this type has."""
    if isinstance(example, str):
        return key
    try:
        if isinstance(example, int):
            return int(key) if str(int(key)) == key else None
        return OrderValue(type=OrderValue.of(example).type, value=key).python()
    except (ValueError, ArithmeticError):
        return None


def _may_be_key(key: str) -> bool:
    return 0 < len(key) <= _LONGEST_KEY and not key.isspace()


def _column(name: str) -> ColumnElement[Any]:
    return column(quoted_name(name, quote=True))
