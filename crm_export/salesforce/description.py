"""What Salesforce says of an object: its fields, and what this user may do with them (REST API, sObject Describe)."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crm_export.errors import CrmError


@dataclass(frozen=True, slots=True)
class FieldDescription:
    """One field, as far as an export needs to know it."""

    name: str
    type: str
    length: int
    createable: bool
    updateable: bool
    nillable: bool
    external_id: bool
    id_lookup: bool
    defaulted_on_create: bool
    relationship_name: str | None


@dataclass(frozen=True, slots=True)
class ObjectDescription:
    """One object; ``fields`` by their names."""

    name: str
    createable: bool
    updateable: bool
    fields: Mapping[str, FieldDescription]

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> "ObjectDescription":
        fields = [
            FieldDescription(
                name=str(field["name"]),
                type=str(field.get("type", "string")),
                length=int(field.get("length") or 0),
                createable=bool(field.get("createable", True)),
                updateable=bool(field.get("updateable", True)),
                nillable=bool(field.get("nillable", True)),
                external_id=bool(field.get("externalId")),
                id_lookup=bool(field.get("idLookup")),
                defaulted_on_create=bool(field.get("defaultedOnCreate")),
                relationship_name=field.get("relationshipName"),
            )
            for field in answer["fields"]
        ]
        return cls(
            name=str(answer["name"]),
            createable=bool(answer.get("createable", True)),
            updateable=bool(answer.get("updateable", True)),
            fields={field.name: field for field in fields},
        )

    def find(self, name: str) -> FieldDescription | None:
        """A field by its name, whose case Salesforce ignores; ``Account__r.Key__c`` is the parent's lookup field."""
        parent = name.split(".", 1)[0].lower() if "." in name else None
        for field in self.fields.values():
            if parent is None and field.name.lower() == name.lower():
                return field
            if parent is not None and field.relationship_name and field.relationship_name.lower() == parent:
                return field
        return None


def unwritable(description: ObjectDescription, external_id: str, fields: Sequence[str]) -> CrmError | None:
    """The permission that every record of a job lacks, if there is one."""
    if not (description.createable and description.updateable):
        return CrmError(
            "INSUFFICIENT_ACCESS_OR_READONLY",
            f"the integration user may not create and edit {description.name} records",
            hint="let an admin give it a permission set with Create and Edit",
        )
    for name in (*fields, external_id):
        field = description.find(name)
        if field is None:
            return CrmError(
                "INVALID_FIELD",
                f"{description.name} has no field {name} that the integration user can see",
                hint="correct the mapping, or let an admin look at field-level security",
            )
        if not (field.createable or field.updateable):
            return CrmError(
                "INVALID_FIELD_FOR_INSERT_UPDATE",
                f"the integration user may not write {description.name}.{name}",
                hint="let an admin look at field-level security, or take the field out of the mapping",
            )
    return None


def problems(description: ObjectDescription, external_id: str, fields: Sequence[str]) -> list[str]:
    """What is wrong with a job's mapping onto this object, a line each."""
    found: list[str] = []
    for name in (external_id, *fields):
        if description.find(name) is None:
            close = difflib.get_close_matches(name, list(description.fields), n=1)
            found.append(f"{description.name} has no field {name}" + (f" (did you mean {close[0]}?)" if close else ""))
    key = description.find(external_id)
    if key is not None and not (key.external_id or key.id_lookup):
        found.append(f"{description.name}.{external_id} is not an external ID: mark it as one in Salesforce")
    mapped = [field for name in fields if (field := description.find(name))]
    if not (description.createable and description.updateable):
        found.append(f"the integration user may not create and edit {description.name} records")
    found += [
        f"the integration user may not write {description.name}.{field.name}"
        for field in mapped
        if not (field.createable or field.updateable)
    ]
    sent = {field.name for field in mapped} | ({key.name} if key else set())
    found += [
        f"{description.name}.{field.name} is required and not mapped"
        for field in description.fields.values()
        if field.createable
        and not field.nillable
        and not field.defaulted_on_create
        and field.type != "boolean"
        and field.name not in sent
    ]
    return found
