"""Salesforce's error codes: one table for what each means, whose it is, and who mends it how.

From Salesforce's "Core Data Types: StatusCode" and "REST API status codes and error responses"; which of them heal by
waiting is from practice.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Literal

from crm_export.errors import CrmError
from crm_export.model import Category, JsonValue, Refusal

_MOST_NAME = 100
"""Characters of a code or a field's name; Salesforce's own have 80 at most."""
_MOST_FIELDS = 20
_MOST_MESSAGE = 500
_NOT_QUOTED = (bool, list)
_SHORTEST_QUOTE = 12
"""A value's beginning of this length is recognised where Salesforce quotes a long value in part."""


@dataclass(frozen=True, slots=True)
class ErrorFacts:
    """What is known of an error code.

    ``level``: whether it refuses one record, or the call. ``waits``: it may heal by waiting alone. ``shared``: every
    record of a call may be refused with it though one of them, or their number, is the cause.
    """

    level: Literal["record", "job"]
    category: Category
    waits: bool
    cause: str
    hint: str
    shared: bool = False


def _record(category: Category, cause: str, hint: str, *, waits: bool = False, shared: bool = False) -> ErrorFacts:
    return ErrorFacts("record", category, waits, cause, hint, shared)


def _job(category: Category, cause: str, hint: str, *, waits: bool = False) -> ErrorFacts:
    return ErrorFacts("job", category, waits, cause, hint)


_OUTAGE_HINT = "it is tried again by itself; see Salesforce's status page if it lasts"
_AS_NAMED = _record(Category.DATA, "as the code says", "correct the mapping or the source row")

WRONG_TYPE = "JSON_PARSER_ERROR"

TABLE: Mapping[str, ErrorFacts] = {
    "FIELD_CUSTOM_VALIDATION_EXCEPTION": _record(
        Category.VALIDATION,
        "a validation rule said no; its text is the message",
        "mend the row, or let an admin exempt the integration user from the validation rule",
    ),
    "REQUIRED_FIELD_MISSING": _record(
        Category.DATA, "a required field is empty or not mapped", "map the field, fill it in the source, or relax it"
    ),
    "STRING_TOO_LONG": _record(
        Category.DATA, "the value is longer than the field", "shorten the value, or lengthen the field"
    ),
    "NUMBER_OUTSIDE_VALID_RANGE": _record(
        Category.DATA, "the number is too large for the field", "correct the source, or the field's precision"
    ),
    "INVALID_EMAIL_ADDRESS": _record(Category.DATA, "a malformed address", "correct the address in the source"),
    "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST": _record(
        Category.DATA,
        "the value is not in the picklist or record type",
        "let an admin add the value, or lift the picklist's restriction",
    ),
    "FIELD_INTEGRITY_EXCEPTION": _record(
        Category.DATA,
        "the value does not fit, as with State/Country or dependent picklists",
        "use a value that the field accepts",
    ),
    "FIELD_FILTER_VALIDATION_EXCEPTION": _record(
        Category.VALIDATION, "a lookup filter is not met", "let an admin look at the lookup filter"
    ),
    "MALFORMED_ID": _record(Category.REFERENCE, "not a Salesforce ID", "correct the mapping"),
    "INVALID_CROSS_REFERENCE_KEY": _record(
        Category.REFERENCE,
        "the parent is missing, deleted or not visible",
        "export the parent first, or give the integration user access to it",
        waits=True,
    ),
    "INSUFFICIENT_ACCESS_ON_CROSS_REFERENCE_ENTITY": _record(
        Category.PERMISSION,
        "no right on the parent, or on the record by sharing",
        "let an admin share the record with the integration user",
    ),
    "INVALID_FIELD": _record(
        Category.REFERENCE,
        "no parent has this external ID",
        "export the parent first",
        waits=True,
    ),
    "ENTITY_IS_DELETED": _record(
        Category.REFERENCE, "the record is in the recycle bin", "undelete it, or empty it from the recycle bin"
    ),
    "DUPLICATES_DETECTED": _record(
        Category.DUPLICATE, "a duplicate rule", "let an admin exempt the integration user from the duplicate rule"
    ),
    "DUPLICATE_VALUE": _record(
        Category.DUPLICATE, "another record uses this unique value", "find the other record, and merge or correct it"
    ),
    "DUPLICATE_EXTERNAL_ID": _record(
        Category.DUPLICATE,
        "two records have one external ID",
        "make the key unique in the source, and the external ID field in Salesforce",
    ),
    "INSUFFICIENT_ACCESS_OR_READONLY": _record(
        Category.PERMISSION,
        "no right on the object, record or field",
        "let an admin give the integration user a permission set that allows it",
    ),
    "INVALID_FIELD_FOR_INSERT_UPDATE": _record(
        Category.PERMISSION,
        "the field is computed, or not writable for this user",
        "let an admin look at field-level security, or take the field out of the mapping",
    ),
    "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY": _record(
        Category.AUTOMATION,
        "a trigger threw, or met an Apex limit",
        "let an admin mend the trigger named in the message; for an Apex limit, a smaller batch_size helps",
        waits=True,
        shared=True,
    ),
    "CANNOT_EXECUTE_FLOW_TRIGGER": _record(
        Category.AUTOMATION,
        "a record-triggered flow failed",
        "let an admin mend the flow; the error's ID is in the message",
        waits=True,
        shared=True,
    ),
    "APEX_ERROR": _record(
        Category.AUTOMATION,
        "an unhandled exception in the org",
        "let an admin look at the Apex code",
        waits=True,
        shared=True,
    ),
    "UNKNOWN_EXCEPTION": _record(
        Category.AUTOMATION,
        "an unhandled exception in the org",
        "open a Salesforce case with the ID in the message",
        waits=True,
        shared=True,
    ),
    "ENTITY_IS_LOCKED": _record(
        Category.LOCK, "the record is in an approval process", "finish the approval", waits=True
    ),
    "UNABLE_TO_LOCK_ROW": _record(
        Category.LOCK,
        "another transaction holds the row or its parent",
        "it mostly heals by itself; otherwise find what else writes to the record",
        waits=True,
    ),
    "INACTIVE_OWNER_OR_USER": _record(
        Category.PERMISSION,
        "the owner is inactive",
        'choose another owner, or let an admin give "Update Records with Inactive Owners"',
    ),
    "OP_WITH_INVALID_USER_TYPE_EXCEPTION": _record(
        Category.PERMISSION, "this user cannot own the record", "correct the owner in the mapping"
    ),
    "CANNOT_UPDATE_CONVERTED_LEAD": _record(
        Category.PERMISSION, "the lead was converted", 'let an admin give "View and Edit Converted Leads"'
    ),
    "TRANSFER_REQUIRES_READ": _AS_NAMED,
    "MISSING_ARGUMENT": _AS_NAMED,
    "INVALID_STATUS": _AS_NAMED,
    "INVALID_TYPE_ON_FIELD_IN_RECORD": _AS_NAMED,
    "INVALID_CURRENCY_ISO_CODE": _AS_NAMED,
    "UNSENDABLE_VALUE": _record(
        Category.DATA, "the source's value has no form in Salesforce's JSON", "correct the value or the mapping"
    ),
    # Of a whole call, and one record's value is the cause.
    WRONG_TYPE: _record(Category.DATA, "a value of the wrong type", "correct the value or the mapping", shared=True),
    "MULTIPLE_RECORDS": _record(
        Category.DUPLICATE,
        "several records have this external ID",
        "make the external ID field unique in Salesforce, and merge the records",
    ),
    "STORAGE_LIMIT_EXCEEDED": _job(Category.QUOTA, "the org's storage is full", "let an admin free or buy storage"),
    "INVALID_SESSION_ID": _job(Category.SIGN_IN, "the session has ended", "sign in anew: renew the access token"),
    "invalid_grant": _job(
        Category.SIGN_IN, "sign-in refused", "let an admin look at the user, its policy, and the connected app"
    ),
    "invalid_client": _job(
        Category.SIGN_IN, "sign-in refused", "correct the client secret, or let an admin look at the connected app"
    ),
    "invalid_client_id": _job(Category.SIGN_IN, "sign-in refused", "correct the client ID"),
    "inactive_user": _job(Category.SIGN_IN, "the user is inactive", "let an admin activate the integration user"),
    "API_DISABLED_FOR_ORG": _job(
        Category.PERMISSION, "the API right is missing", 'let an admin give the integration user "API Enabled"'
    ),
    "API_CURRENTLY_DISABLED": _job(
        Category.PERMISSION, "the API right is missing", 'let an admin give the integration user "API Enabled"'
    ),
    "INSUFFICIENT_ACCESS": _job(
        Category.PERMISSION, "no right on the call or object", "let an admin give the integration user access"
    ),
    "NOT_FOUND": _job(
        Category.PERMISSION,
        "the object or external ID field is unknown, or hidden from the user",
        "correct object and external_id, or let an admin make them visible",
    ),
    "INVALID_TYPE": _job(
        Category.PERMISSION,
        "the object is unknown, or hidden from the user",
        "correct the object, or let an admin make it visible",
    ),
    "REQUEST_LIMIT_EXCEEDED": _job(
        Category.QUOTA, "the org's API requests are used up", "wait, or let an admin raise the limit", waits=True
    ),
    "EXCEEDED_ID_LIMIT": _job(Category.QUOTA, "too much in one request", "use a smaller batch_size"),
    "LIMIT_EXCEEDED": _job(Category.QUOTA, "too much in one request", "use a smaller batch_size"),
    "TXN_SECURITY_METERING_ERROR": _job(Category.QUOTA, "throttled", "wait", waits=True),
    "SERVER_UNAVAILABLE": _job(Category.OUTAGE, "Salesforce is unavailable", _OUTAGE_HINT, waits=True),
    "UNKNOWN": _job(Category.OUTAGE, "Salesforce failed", _OUTAGE_HINT, waits=True),
    "QUERY_TIMEOUT": _job(Category.OUTAGE, "Salesforce was too slow", _OUTAGE_HINT, waits=True),
    "UNEXPECTED_ANSWER": _job(
        Category.OUTAGE, "an answer that is not Salesforce's", "see that login_url leads to Salesforce", waits=True
    ),
    "CONNECTION_FAILED": _job(Category.OUTAGE, "no connection", "see the network and login_url", waits=True),
    "TIMEOUT": _job(Category.OUTAGE, "no answer in time", _OUTAGE_HINT, waits=True),
}

_UNKNOWN = _record(
    Category.UNKNOWN,
    "not a code that crm-export knows",
    "crm-export does not know this code: go by Salesforce's message",
    waits=True,
    shared=True,
)
_OF_WHOLE_CALL: Mapping[str, ErrorFacts] = {
    "INVALID_FIELD": _job(
        Category.PERMISSION,
        "a mapped field is unknown, or hidden from the user",
        "correct the mapping, or let an admin look at field-level security",
    ),
}


def facts(code: str) -> ErrorFacts:
    """What is known of a record's error code; an unknown code is record-level and says that it is unknown."""
    return TABLE.get(code, _UNKNOWN)


def call_error(status: int, code: str, message: str, retry_after: timedelta | None = None) -> CrmError:
    """A call refused as a whole, with what to do about it."""
    code = _code(code)
    known = _OF_WHOLE_CALL.get(code) or TABLE.get(code)
    hint = known.hint if known else _OUTAGE_HINT if status >= 500 or status == 429 else _UNKNOWN.hint
    return CrmError(code, one_line(message), hint=hint, retry_after=retry_after)


def refusal(code: str, message: str, fields: Sequence[str], sent: Mapping[str, JsonValue], key_field: str) -> Refusal:
    """Why a record was refused, without the record's values: Salesforce's messages may quote them.

    ``sent`` is what was sent of the record; the value of ``key_field``, the record key, may stay.
    """
    shown = one_line(without_values(message, sent, key_field))
    return _refusal(_code(code), shown, tuple(one_line(field)[:_MOST_NAME] for field in fields[:_MOST_FIELDS]))


@lru_cache
def _refusal(code: str, message: str, fields: tuple[str, ...]) -> Refusal:
    """Thousands of records are refused in the same words."""
    known = facts(code)
    return Refusal(code=code, message=message, fields=fields, category=known.category, hint=known.hint)


def _code(text: str) -> str:
    """A code from outside: it becomes a column, a search attribute, and the first word of an error text."""
    return one_line(text)[:_MOST_NAME].strip() or "UNKNOWN_EXCEPTION"


def one_line(text: str) -> str:
    """Text from outside, fit for a log, a table and a terminal: one line, no control characters, at most 500."""
    if text.isprintable() and "  " not in text:
        return text.strip()[:_MOST_MESSAGE]
    clean = "".join(c if c.isprintable() else " " for c in text.encode(errors="replace").decode())
    return " ".join(clean.split())[:_MOST_MESSAGE]


def without_values(message: str, sent: Mapping[str, JsonValue], key_field: str) -> str:
    """A message with the names of fields where it quotes the values that were sent of a record."""
    quoted = _quoted(message.casefold(), sent)
    if not quoted:
        return message
    for field, value in sorted(quoted, key=lambda text: -len(text[1])):
        if field == key_field or len(value) < 2 or value == str(sent.get(key_field)):
            continue
        replacement = f"‹{field}›"
        message = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", lambda _, r=replacement: r, message, flags=re.I)  # type: ignore[misc]
        if len(value) > _SHORTEST_QUOTE:
            message = _without_beginning(message, value, replacement)
    return message


def _quoted(folded: str, sent: Mapping[str, JsonValue], parent: str = "") -> list[tuple[str, str]]:
    """The fields, with their values as text, that a message in lower case may quote, whole or by their beginning."""
    found: list[tuple[str, str]] = []
    for name, value in sent.items():
        if type(value) is str:
            text = value
        elif isinstance(value, dict):
            found += _quoted(folded, value, f"{parent}{name}.")
            continue
        elif value is None or isinstance(value, _NOT_QUOTED):
            continue
        else:
            text = str(value)
        if text[:_SHORTEST_QUOTE].casefold() in folded:
            found.append((f"{parent}{name}", text))
    return found


def _without_beginning(message: str, value: str, replacement: str) -> str:
    start = message.casefold().find(value[:_SHORTEST_QUOTE].casefold())
    if start < 0:
        return message
    length = _SHORTEST_QUOTE
    while length < len(value) and message[start : start + length + 1].casefold() == value[: length + 1].casefold():
        length += 1
    return message[:start] + replacement + message[start + length :]
