"""Upserts by external ID: what Salesforce checks of a record, and exact all-or-none semantics.

A call is worked off in order. With ``allOrNone`` and any failure nothing is kept: failing records carry their own
error, the others say that they were rolled back.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from salesforce_simulator.records import Records
from salesforce_simulator.rules import GovernorLimit, Permission, RowLock, Rules, Trigger, Validation
from salesforce_simulator.schema import Field, Object

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
ROLLED_BACK = {
    "statusCode": "ALL_OR_NONE_OPERATION_ROLLED_BACK",
    "message": "Record rolled back because not all records were valid and the request was using AllOrNone header",
    "fields": [],
}


class CallError(Exception):
    """The call is refused as a whole."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass
class Prepared:
    """One record of a call: its key, what it would become, and its first error."""

    key: Any
    values: dict[str, Any]
    after: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None


def error(code: str, message: str, *fields: str) -> dict[str, Any]:
    return {"statusCode": code, "message": message, "fields": list(fields)}


def upsert(
    of: Object,
    key_field: Field,
    sent: Sequence[Mapping[str, Any]],
    records: Records,
    rules: Rules,
    *,
    all_or_none: bool,
    call: int,
) -> list[dict[str, Any]]:
    """One call's results, in the order of its records. Raises CallError for what refuses it as a whole."""
    hidden = {rule.field.lower() for rule in rules.of(Permission) if rule.hidden and rule.field}
    prepared = [_prepare(of, key_field, record, hidden) for record in sent]
    keys = Counter(str(one.key).lower() for one in prepared)
    for one in prepared:
        one.error = one.error or _refused(of, key_field, one, keys, records, rules)
    _automation(of, prepared, rules)
    failed = any(one.error for one in prepared)
    results = []
    for one in prepared:
        if one.error or (failed and all_or_none):
            results.append({"success": False, "errors": [one.error or ROLLED_BACK]})
            continue
        record_id, created = records.write(of, key_field.name, one.key, one.values, call)
        results.append({"id": record_id, "success": True, "created": created, "errors": []})
    return results


def _prepare(of: Object, key_field: Field, record: Mapping[str, Any], hidden: set[str]) -> Prepared:
    values: dict[str, Any] = {}
    for name, value in record.items():
        if name == "attributes":
            continue
        known = of.find(name)
        if known is None and isinstance(value, dict | None) and (parent := of.relationship(name)):
            values[parent.name] = value
            continue
        if known is None or known.name.lower() in hidden:
            raise CallError(400, "INVALID_FIELD", f"No such column '{name}' on sobject of type {of.name}")
        values[known.name] = value
    key = values.pop(key_field.name, None)
    return Prepared(key=key, values=values)


def _refused(
    of: Object, key_field: Field, one: Prepared, keys: Counter[str], records: Records, rules: Rules
) -> dict[str, Any] | None:
    if one.key is None or str(one.key) == "":
        return error("MISSING_ARGUMENT", f"{key_field.name} not specified")
    if keys[str(one.key).lower()] > 1:
        return error(
            "DUPLICATE_EXTERNAL_ID", f"{key_field.name}: duplicate external id specified: {one.key}", key_field.name
        )
    if len(str(one.key)) > key_field.length:
        told = f"{key_field.name}: data value too large: {one.key} (max length={key_field.length})"
        return error("STRING_TOO_LONG", told, key_field.name)
    for lock in rules.of(RowLock):
        if str(one.key) in lock.keys and lock.tries > 0:
            lock.tries -= 1
            return error("UNABLE_TO_LOCK_ROW", "unable to obtain exclusive access to this record")
    for name, value in list(one.values.items()):
        known = of.fields[name.lower()]
        if known.refers_to and isinstance(value, dict):
            found = _parent(known, value, records)
            if isinstance(found, dict):
                return found
            one.values[name] = found
        elif problem := _wrong(known, value):
            return problem
    before = records.find(of, key_field.name, one.key) or {}
    one.after = {**before, **one.values, key_field.name: one.key}
    missing = [f.name for f in of.fields.values() if f.required and one.after.get(f.name) in (None, "")]
    if missing:
        return error("REQUIRED_FIELD_MISSING", f"Required fields are missing: [{', '.join(missing)}]", *missing)
    return _of_rules(of, one, rules)


def _parent(lookup: Field, value: Mapping[str, Any], records: Records) -> str | dict[str, Any]:
    from salesforce_simulator.schema import OBJECTS

    parent = OBJECTS[str(lookup.refers_to).lower()]
    name, wanted = next(((k, v) for k, v in value.items() if k != "attributes"), ("", None))
    known = parent.find(name)
    record = records.find(parent, known.name, wanted) if known else None
    if record is None:
        told = f"Foreign key external ID: {wanted} not found for field {name} in entity {parent.name}"
        return error("INVALID_FIELD", told)
    return str(record["Id"])


def _wrong(known: Field, value: Any) -> dict[str, Any] | None:
    """What is wrong with one value, by the field's type. None clears a field."""
    if not known.writable:
        told = f"Unable to create/update fields: {known.name}. Please check the security settings of this field."
        return error("INVALID_FIELD_FOR_INSERT_UPDATE", told, known.name)
    if value is None:
        return None
    match known.type:
        case "boolean":
            return None if isinstance(value, bool) else _bad(known, value)
        case "int" | "double" | "currency":
            try:
                number = float(value)
            except (TypeError, ValueError):
                # Salesforce reads numbers while it reads the request: one that is none fails the call, and is quoted.
                told = f"Cannot deserialize instance of {known.type} from VALUE_STRING value {value}"
                raise CallError(400, "JSON_PARSER_ERROR", told) from None
            if abs(number) >= 10 ** (known.precision - known.scale):
                told = f"{known.name}: value outside of valid range on numeric field: {value}"
                return error("NUMBER_OUTSIDE_VALID_RANGE", told, known.name)
            return None
        case "datetime" | "date":
            try:
                moment = (datetime if known.type == "datetime" else date).fromisoformat(str(value))
            except ValueError:
                return _bad(known, value)
            # The years that Salesforce's dates have.
            return None if 1700 <= moment.year <= 4000 else _bad(known, value)
    if isinstance(value, dict | list):
        return _bad(known, value)
    text = str(value)
    if len(text) > known.length:
        told = f"{known.name}: data value too large: {text} (max length={known.length})"
        return error("STRING_TOO_LONG", told, known.name)
    if known.type == "email" and not _EMAIL.fullmatch(text):
        return error("INVALID_EMAIL_ADDRESS", f"{known.name}: invalid email address: {text}", known.name)
    if known.picklist and text not in known.picklist:
        told = f"{known.name}: bad value for restricted picklist field: {text}"
        return error("INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST", told, known.name)
    return None


def _bad(known: Field, value: Any) -> dict[str, Any]:
    told = f"{known.name}: value not of required type: {value}"
    return error("INVALID_TYPE_ON_FIELD_IN_RECORD", told, known.name)


def _of_rules(of: Object, one: Prepared, rules: Rules) -> dict[str, Any] | None:
    for permission in rules.of(Permission):
        if permission.object != of.name or permission.hidden:
            continue
        if permission.field is None and (permission.keys is None or str(one.key) in permission.keys):
            told = "insufficient access rights on object id" if permission.keys else "insufficient access rights"
            return error("INSUFFICIENT_ACCESS_OR_READONLY", told)
        if permission.field in one.values:
            told = f"Unable to create/update fields: {permission.field}. Please check the security settings."
            return error("INVALID_FIELD_FOR_INSERT_UPDATE", told, str(permission.field))
    for rule in rules.of(Validation):
        if rule.picks(of.name, str(one.key), one.after):
            return error(rule.code, rule.message, *(rule.fields or ([rule.field] if rule.field else [])))
    return None


def _automation(of: Object, prepared: Sequence[Prepared], rules: Rules) -> None:
    """A trigger, or an Apex limit, refuses every record of the call that got so far."""
    told: dict[str, Any] | None = None
    for limit in rules.of(GovernorLimit):
        if limit.object == of.name and len(prepared) > limit.records:
            told = error("CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", limit.message)
    for trigger in rules.of(Trigger):
        if any(not one.error and trigger.picks(of.name, str(one.key), one.after) for one in prepared):
            told = error(trigger.code, trigger.message)
    if told:
        for one in prepared:
            one.error = one.error or told
