"""Values of a SQL database in the form that Salesforce's JSON takes (REST API, "Primitive Data Types").

A value without such a form gives an :class:`UnsendableValueError`, whose message never holds the value.
"""

import math
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy.types import Boolean, Date, DateTime, Numeric, TypeEngine

from crm_export.model import JsonValue


class UnsendableValueError(ValueError):
    """The value has no form in Salesforce's JSON; the message says why, without the value."""


def to_json(value: Any) -> JsonValue:
    """A value as its Python type says."""
    match value:
        case None | bool():
            return value
        case int():
            # Beyond 64 bits the digits go as text, which Salesforce takes for number fields too.
            return value if -(2**63) <= value < 2**63 else str(value)
        case str():
            return _text(value)
        case float():
            if not math.isfinite(value):
                raise UnsendableValueError("NaN and infinity are no numbers in JSON")
            return value
        case Decimal():
            return _decimal(value)
        case datetime():
            return _moment(value)
        case date():
            return value.isoformat()
        case time():
            return value.isoformat(timespec="milliseconds")
        case UUID():
            return str(value)
        case Enum():
            return to_json(value.value)
        case dict() | list():
            return _text(_encoded(value))
        case bytes() | bytearray() | memoryview():
            raise UnsendableValueError("bytes cannot be exported: map a text column")
    raise UnsendableValueError(f"a {type(value).__name__} cannot be exported")


def _encoded(value: Any) -> str:
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except orjson.JSONEncodeError:
        raise UnsendableValueError("the value holds something that JSON has no form for") from None


def _text(value: str) -> str:
    if "\0" in value:
        raise UnsendableValueError("the text holds a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UnsendableValueError("the text is not Unicode (a lone surrogate)") from None
    return value


def _decimal(value: Decimal) -> JsonValue:
    """Without loss: a number where JSON's double holds it exactly as written, else its digits as text, which Salesforce
    takes for number fields too."""
    if not value.is_finite():
        raise UnsendableValueError("NaN and infinity are no numbers in JSON")
    if value == value.to_integral_value() and abs(value) < 2**63:
        return int(value)
    nearest = float(value)
    return nearest if Decimal(repr(nearest)) == value else format(value, "f")


def _moment(value: datetime) -> str:
    """With offset and milliseconds; a moment without a zone is taken as UTC."""
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat(timespec="milliseconds")


def converter(declared: TypeEngine[Any] | None) -> Callable[[Any], JsonValue]:
    """How to convert a column; ``declared`` is its type where the database keeps values untyped (SQLite)."""
    match declared:
        case DateTime():
            return lambda value: to_json(_as_datetime(value))
        case Date():
            return lambda value: to_json(_as_date(value))
        case Boolean():
            return lambda value: to_json(bool(value) if isinstance(value, int) and value in (0, 1) else value)
        case Numeric():
            return lambda value: to_json(_as_decimal(value))
    return to_json


def column_converter(declared: TypeEngine[Any] | None) -> Callable[[Sequence[Any]], Sequence[JsonValue]]:
    """How to convert many values of a column at once: those whose types say that they may be sent as they are, are.

    What only the encoded text shows (a lone surrogate, a NUL) is left to the caller.
    """
    one = converter(declared)
    as_they_are = _sent_as_they_are(declared)

    def convert(values: Sequence[Any]) -> Sequence[JsonValue]:
        types = set(map(type, values))
        if types <= as_they_are and (float not in types or all(map(_is_finite, values))):
            return values
        return [one(value) for value in values]

    return convert


def _sent_as_they_are(declared: TypeEngine[Any] | None) -> set[type]:
    match declared:
        case DateTime() | Date():
            return {type(None)}
        case Boolean():
            return {type(None), bool}
        case Numeric():
            return {type(None), int, float}
    return {type(None), bool, int, float, str}


def _is_finite(value: Any) -> bool:
    return type(value) is not float or math.isfinite(value)


def _as_datetime(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return value
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        raise UnsendableValueError("the column is a timestamp, and the value is none") from None


def _as_date(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return datetime.fromisoformat(value).date()
    except ValueError:
        raise UnsendableValueError("the column is a date, and the value is none") from None


def _as_decimal(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return Decimal(value)
    except ArithmeticError:
        raise UnsendableValueError("the column is a number, and the value is none") from None
