"""The words of the contract as models: what crosses between the rooms.

Every pydantic model here is small, frozen and readable in the Temporal UI: keys, codes, counts and positions, never a
record's values. :class:`Record`, which does hold values, is a plain dataclass so that it cannot be handed to Temporal
by accident: it lives and dies inside an activity.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Literal, Self
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, Field

JsonValue = str | int | float | bool | None | dict[str, "JsonValue"] | list["JsonValue"]
"""A field's value as Salesforce's JSON takes it; an object is a parent named by its external ID."""


class Model(BaseModel):
    """A frozen model that tolerates unknown fields, so that a newer worker's payload is readable by an older one."""

    model_config = ConfigDict(frozen=True, extra="ignore")


OrderPython = int | float | str | Decimal | datetime | date | UUID


class OrderValue(Model):
    """A cursor value or a key with its type, so that it survives JSON and compares in SQL as what it was."""

    type: Literal["int", "float", "str", "decimal", "datetime", "date", "uuid"]
    value: str

    @classmethod
    def of(cls, value: OrderPython) -> Self:
        """Raise TypeError for a type that no SQL column orders by."""
        match value:
            case bool():
                raise TypeError("a boolean column gives no order")
            case int():
                return cls(type="int", value=str(value))
            case float():
                return cls(type="float", value=repr(value))
            case str():
                return cls(type="str", value=value)
            case Decimal():
                return cls(type="decimal", value=str(value))
            case datetime():
                return cls(type="datetime", value=value.isoformat())
            case date():
                return cls(type="date", value=value.isoformat())
            case UUID():
                return cls(type="uuid", value=str(value))
        raise TypeError(f"a column of {type(value).__name__} gives no order")

    def python(self) -> OrderPython:
        match self.type:
            case "int":
                return int(self.value)
            case "float":
                return float(self.value)
            case "str":
                return self.value
            case "decimal":
                return Decimal(self.value)
            case "datetime":
                return datetime.fromisoformat(self.value)
            case "date":
                return date.fromisoformat(self.value)
            case "uuid":
                return UUID(self.value)


class Position(Model):
    """Where a run stands in the source's order: behind this row. ``cursor`` is None for a job without a cursor."""

    cursor: OrderValue | None = None
    key: OrderValue

    def __str__(self) -> str:
        return f"{self.cursor.value} / {self.key.value}" if self.cursor else self.key.value


class Category(StrEnum):
    """What kind of thing refused, in the words of Salesforce's administrators."""

    VALIDATION = "validation"
    DATA = "data"
    REFERENCE = "reference"
    DUPLICATE = "duplicate"
    PERMISSION = "permission"
    AUTOMATION = "automation"
    LOCK = "lock"
    SIGN_IN = "sign-in"
    QUOTA = "quota"
    OUTAGE = "outage"
    UNKNOWN = "unknown"


class Refusal(Model):
    """Why the CRM refused one record. ``message`` is the CRM's own, free of the record's values; ``hint`` is ours."""

    code: str
    message: str
    fields: tuple[str, ...] = ()
    category: Category = Category.UNKNOWN
    hint: str = ""


@dataclass(slots=True)
class Record:
    """One source row, ready to send. Not frozen, since that triples the cost of making one.

    ``key`` is the record key as text; ``order`` is the row's (cursor value, key), or (key,) without a cursor;
    ``body`` is a JSON object of CRM fields and what is sent, the external ID field included, encoded once.
    ``partition`` is the value of the job's ``partition_by``, as text. ``unsendable`` is set, and ``body`` is not to be
    sent, when a value has no form in Salesforce's JSON (bytes, NaN).
    """

    key: str
    order: tuple[OrderPython, ...]
    body: bytes
    unsendable: Refusal | None = None
    partition: str | None = None

    @property
    def values(self) -> dict[str, JsonValue]:
        """``body``, decoded."""
        values: dict[str, JsonValue] = orjson.loads(self.body)
        return values

    @property
    def position(self) -> Position:
        *cursor, key = self.order
        return Position(cursor=OrderValue.of(cursor[0]) if cursor else None, key=OrderValue.of(key))


@dataclass(frozen=True, slots=True)
class Written:
    """The CRM took the record."""


@dataclass(frozen=True, slots=True)
class RolledBack:
    """The record itself was not refused; an all-or-none call left nothing behind because a neighbour was."""


UpsertResult = Written | RolledBack | Refusal


MOST_CALLS = 2_000_000_000
"""The highest daily API limit: what the store's column takes."""


class Settings(Model):
    """What the owner of a connection chooses; the settings workflow owns it, the store keeps it."""

    export_enabled: bool = True
    pause_on_error: bool = True
    daily_api_limit: int = 100_000
    export_batch_size: int = 200


BATCH_SIZES = (25, 50, 100, 200)
"""What the owner chooses ``export_batch_size`` from: records a call at most; smaller ones for Apex limits."""


class OperatorAction(Model):
    """Who asked for what, when, and what came of it; ``outcome`` is None while it is under way or was cut short."""

    connection: str
    job: str | None
    action: str
    target: str
    by: str
    at: datetime
    outcome: str | None


class SettingChange(Model):
    """One line of a connection's change log."""

    connection: str
    setting: str
    old: str
    new: str
    by: str
    at: datetime


class RunRef(Model):
    """One run of one export job. ``run_id`` is the first of the chain, so that it outlives a continue-as-new."""

    connection: str
    job: str
    run_id: str
    workflow_id: str


class RunCounts(Model):
    """What became of a run's records so far: in the CRM, refused and left out, no longer in the source."""

    exported: int = 0
    refused: int = 0
    gone: int = 0

    def __str__(self) -> str:
        return f"{self.exported:,} exported, {self.refused:,} left out, {self.gone:,} gone"


class HeldRecord(Model):
    """The record that a paused run waits on; ``position`` is the record's own place in the order."""

    record_key: str
    object: str
    position: Position
    refusal: Refusal
    since: datetime
    attempts: int = 1

    def __str__(self) -> str:
        return error_text(self.object, self.record_key, self.refusal)


class RunState(Model):
    """What the store knows of a job's present or last run. ``total`` is what there was to export when it began."""

    run: RunRef | None = None
    position: Position | None = None
    counts: RunCounts = RunCounts()
    total: int | None = None
    held: HeldRecord | None = None
    completed: bool = False
    started_at: datetime | None = None
    updated_at: datetime | None = None


class JobTrouble(Model):
    """A job-level error as data: what a blocked run waits for."""

    code: str
    message: str
    hint: str = ""
    retry_after: timedelta | None = None

    def __str__(self) -> str:
        return f"{self.code} · {self.message}" + (f" · {self.hint}" if self.hint else "")


class PageResult(Model):
    """What one page came to. ``counts`` are the whole run's; the codes and first keys are of this page's refusals."""

    position: Position | None
    counts: RunCounts
    refused_by_code: dict[str, int] = {}
    first_keys: tuple[str, ...] = ()
    held: HeldRecord | None = None
    trouble: JobTrouble | None = None
    finished: bool = False


class HeldFate(StrEnum):
    """What became of a held record: how a paused run comes to carry on."""

    EXPORTED = "exported"
    GONE = "gone"
    LEFT_OUT = "left out"


class ReexportPage(Model):
    """What one page of a re-export came to. ``after`` is the last row it is done with; ``released`` names the jobs
    whose held record went through; ``not_tried`` the jobs that are in trouble of their own, with why."""

    after: int
    exported: int = 0
    refused: int = 0
    gone: int = 0
    released: tuple[str, ...] = ()
    not_tried: dict[str, str] = {}
    trouble: JobTrouble | None = None
    finished: bool = False


def error_text(object_name: str, record_key: str, refusal: Refusal) -> str:
    """The one line by which a refusal is known everywhere: ``code · object key: message · hint · fields``."""
    parts = [f"{refusal.code} · {object_name} {record_key}: {refusal.message}"]
    if refusal.hint:
        parts.append(refusal.hint)
    if refusal.fields:
        parts.append(f"fields: {', '.join(refusal.fields)}")
    return " · ".join(parts)


class ErrorState(StrEnum):
    """``held``: a paused run waits on it; ``open``: left out, to be exported again; ``closed``: done with."""

    OPEN = "open"
    HELD = "held"
    CLOSED = "closed"


class ClosedBy(StrEnum):
    """By what an error's row was closed."""

    EXPORT = "export"
    REEXPORT = "reexport"
    GONE = "gone"
    OPERATOR = "operator"


class ExportError(Model):
    """One row of the ExportErrors table."""

    id: int
    connection: str
    job: str
    object: str
    record_key: str
    code: str
    message: str
    fields: tuple[str, ...] = ()
    category: Category = Category.UNKNOWN
    hint: str = ""
    state: ErrorState
    attempts: int
    first_failed_at: datetime
    last_failed_at: datetime
    closed_at: datetime | None = None
    closed_by: ClosedBy | None = None

    @property
    def refusal(self) -> Refusal:
        return Refusal(code=self.code, message=self.message, fields=self.fields, category=self.category, hint=self.hint)


class ErrorFilter(Model):
    """Which rows of a connection's ExportErrors table to read. ``since``: first failed then or later; ``key``: a part
    of the record key."""

    connection: str
    job: str | None = None
    code: str | None = None
    state: Literal["unresolved", "open", "held", "closed", "all"] = "unresolved"
    since: datetime | None = None
    key: str | None = None


# What no store could look for would keep a re-export trying for ever.
_RowId = Annotated[int, Field(ge=1, lt=2**63)]
_Name = Annotated[str, Field(max_length=255, pattern=r"^[^\x00]*$")]


class ReexportOnly(Model):
    """What a re-export is limited to: chosen rows by their IDs, or all rows of a job, of a code, or of both."""

    ids: tuple[_RowId, ...] = ()
    job: _Name | None = None
    code: _Name | None = None

    def __str__(self) -> str:
        if self.ids:
            return f"{len(self.ids):,} chosen errors"
        return " of ".join(part for part in (self.code, self.job) if part) or "everything"


class OpenCause(Model):
    """The open errors of one job with one code: how many, since when, and a few of their keys."""

    job: str
    code: str
    count: int
    since: datetime
    first_keys: tuple[str, ...] = ()
