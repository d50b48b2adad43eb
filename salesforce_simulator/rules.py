"""What the org refuses: rules that are switched on and off while it runs, each one JSON object.

A ``Match`` picks records: by ``keys`` (external IDs), or by a ``field`` that is ``blank``, ``equals`` a value, or is
longer than ``longer_than``; with none of these, every record of ``object``.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Match(_Rule):
    """Which records a rule is about."""

    object: str = "Account"
    keys: list[str] | None = None
    field: str | None = None
    blank: bool = False
    equals: Any = None
    matches: str | None = None
    longer_than: int | None = None

    def picks(self, object_name: str, key: str, values: Mapping[str, Any]) -> bool:
        """``values`` are the record's as they would be after the write."""
        if object_name != self.object or (self.keys is not None and key not in self.keys):
            return False
        if self.field is None:
            return True
        value = values.get(self.field)
        text = "" if value is None else str(value)
        if self.blank:
            return not text.strip()
        if self.longer_than is not None:
            return len(text) > self.longer_than
        if self.matches is not None:
            return re.search(self.matches, text) is not None
        return bool(value == self.equals)


class Validation(Match):
    """A validation rule: it says no to the records that it matches."""

    kind: Literal["validation"]
    message: str
    fields: list[str] = []
    code: str = "FIELD_CUSTOM_VALIDATION_EXCEPTION"


class Permission(Match):
    """A missing permission: on the object or a ``field`` (describe shows it), hidden, or for certain ``keys``."""

    kind: Literal["permission"]
    hidden: bool = False


class Trigger(Match):
    """A trigger that throws: one record that it matches, and every record of the call is refused."""

    kind: Literal["trigger"]
    code: str = "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY"
    message: str = (
        "AccountTrigger: execution of BeforeInsert caused by: System.NullPointerException: "
        "Attempt to de-reference a null object Trigger.AccountTrigger: line 3, column 1"
    )


class GovernorLimit(_Rule):
    """A call with more than ``records`` fails as a whole: Apex CPU time."""

    kind: Literal["governor_limit"]
    records: int
    object: str = "Account"
    message: str = "AccountTrigger: System.LimitException: Apex CPU time limit exceeded"


class RowLock(_Rule):
    """Another transaction holds these rows for the next ``tries``."""

    kind: Literal["row_lock"]
    keys: list[str]
    tries: int


class Slow(_Rule):
    """Every answer takes so many seconds more."""

    kind: Literal["slow"]
    seconds: float


class Outage(_Rule):
    """The service, or the way to it, fails for the next ``calls`` (without: until switched off)."""

    kind: Literal["outage"]
    how: Literal["503", "429", "html", "empty", "short", "half", "drop_before_write", "drop_after_write"] = "503"
    calls: int | None = None
    retry_after: int | None = None


class DailyLimit(_Rule):
    """The org may make so many calls in all."""

    kind: Literal["daily_limit"]
    calls: int


Rule = Annotated[
    Validation | Permission | Trigger | GovernorLimit | RowLock | Slow | Outage | DailyLimit,
    Field(discriminator="kind"),
]
RULE: TypeAdapter[Rule] = TypeAdapter(Rule)


R = TypeVar("R", bound=_Rule)


class Rules:
    """The rules that are switched on, by name."""

    def __init__(self) -> None:
        self.on: dict[str, Rule] = {}

    def of(self, kind: type[R]) -> list[R]:
        return [rule for rule in self.on.values() if isinstance(rule, kind)]
