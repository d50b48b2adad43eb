"""The org's records, and the audit of what was written."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from salesforce_simulator.schema import OBJECTS, Object

Values = dict[str, Any]


class Records:
    """All records, by object and ID, with an index for each external ID field (whose case Salesforce ignores)."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.by_id: dict[str, dict[str, Values]] = {name: {} for name in OBJECTS}
        self._index: dict[tuple[str, str], dict[str, str]] = {}
        self._last_number = 0
        self.audit: list[dict[str, Any]] = []
        self.written: list[dict[str, Any]] = []
        """What was written since somebody emptied this list: enough to write it again."""

    def find(self, of: Object, field: str, value: object) -> Values | None:
        record_id = self._index.get((of.name, field), {}).get(str(value).lower())
        return None if record_id is None else self.by_id[of.name.lower()][record_id]

    def write(self, of: Object, key_field: str, key: object, values: Mapping[str, Any], call: int) -> tuple[str, bool]:
        """Create or update a record; gives its ID and whether it is new."""
        record = self.find(of, key_field, key)
        number = self._last_number + 1 if record is None else None
        write = {
            "seq": len(self.audit) + 1,
            "call": call,
            "object": of.name,
            "key": str(key),
            "created": record is None,
            "id": f"{of.prefix}{number:012d}AAA" if record is None else record["Id"],
            "number": number,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "key_field": key_field,
            # Salesforce keeps no empty text.
            "values": {key_field: key, **{name: None if value == "" else value for name, value in values.items()}},
        }
        self.apply(write)
        self.written.append(write)
        return str(write["id"]), record is None

    def apply(self, write: Mapping[str, Any]) -> None:
        """Make one write, as it is or was made."""
        of = OBJECTS[write["object"].lower()]
        record = self.by_id[of.name.lower()].setdefault(write["id"], {"Id": write["id"], "CreatedDate": write["at"]})
        record.update(write["values"])
        record["LastModifiedDate"] = write["at"]
        self._last_number = max(self._last_number, write["number"] or 0)
        for field in of.fields.values():
            if field.external_id and record.get(field.name) is not None:
                self._index.setdefault((of.name, field.name), {})[str(record[field.name]).lower()] = record["Id"]
        self.audit.append({name: write[name] for name in ("seq", "call", "object", "key", "created")})

    def delete(self, of: Object, record: Values) -> None:
        del self.by_id[of.name.lower()][record["Id"]]
        for (name, field), index in self._index.items():
            if name == of.name and record.get(field) is not None:
                index.pop(str(record[field]).lower(), None)
