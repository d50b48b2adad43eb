"""The org's records, and the audit of what was written."""

import itertools
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
        self._numbers = itertools.count(1)
        self._seq = itertools.count(1)
        self.audit: list[dict[str, Any]] = []

    def find(self, of: Object, field: str, value: object) -> Values | None:
        record_id = self._index.get((of.name, field), {}).get(str(value).lower())
        return None if record_id is None else self.by_id[of.name.lower()][record_id]

    def write(self, of: Object, key_field: str, key: object, values: Mapping[str, Any], call: int) -> tuple[str, bool]:
        """Create or update a record; gives its ID and whether it is new."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        record = self.find(of, key_field, key)
        created = record is None
        if record is None:
            record_id = f"{of.prefix}{next(self._numbers):012d}AAA"
            record = {"Id": record_id, "CreatedDate": now, key_field: key}
            self.by_id[of.name.lower()][record_id] = record
        # Salesforce keeps no empty text.
        record.update({name: None if value == "" else value for name, value in values.items()})
        record["LastModifiedDate"] = now
        for field in of.fields.values():
            if field.external_id and record.get(field.name) is not None:
                self._index.setdefault((of.name, field.name), {})[str(record[field.name]).lower()] = record["Id"]
        self.audit.append(
            {"seq": next(self._seq), "call": call, "object": of.name, "key": str(key), "created": created}
        )
        return str(record["Id"]), created

    def delete(self, of: Object, record: Values) -> None:
        del self.by_id[of.name.lower()][record["Id"]]
        for (name, field), index in self._index.items():
            if name == of.name and record.get(field) is not None:
                index.pop(str(record[field]).lower(), None)
