"""The org's objects and fields, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Field:
    """One field, with what Salesforce's describe says of it."""

    name: str
    type: str = "string"
    length: int = 255
    required: bool = False
    external_id: bool = False
    writable: bool = True
    picklist: tuple[str, ...] = ()
    refers_to: str | None = None
    relationship: str | None = None
    precision: int = 0
    scale: int = 0

    def described(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "label": self.name.removesuffix("__c").replace("_", " "),
            "type": self.type,
            "length": self.length if self.type in _TEXTS else 0,
            "precision": self.precision,
            "scale": self.scale,
            "externalId": self.external_id,
            "idLookup": self.external_id or self.name == "Id",
            "unique": self.external_id,
            "createable": self.writable,
            "updateable": self.writable,
            "nillable": not self.required,
            "defaultedOnCreate": self.type == "boolean",
            "restrictedPicklist": bool(self.picklist),
            "picklistValues": [{"value": v, "label": v, "active": True} for v in self.picklist],
            "referenceTo": [self.refers_to] if self.refers_to else [],
            "relationshipName": self.relationship,
        }


@dataclass(frozen=True)
class Object:
    """One object type; ``prefix`` begins the IDs of its records."""

    name: str
    prefix: str
    fields: Mapping[str, Field]

    def find(self, name: str) -> Field | None:
        """A field by its name, whose case Salesforce ignores."""
        return self.fields.get(name.lower())

    def relationship(self, name: str) -> Field | None:
        return next(
            (f for f in self.fields.values() if f.relationship and f.relationship.lower() == name.lower()), None
        )


_TEXTS = ("string", "textarea", "phone", "url", "email", "picklist")


def _object(name: str, prefix: str, *fields: Field) -> Object:
    standard = (
        Field("Id", "id", 18, writable=False),
        Field("CreatedDate", "datetime", writable=False),
        Field("LastModifiedDate", "datetime", writable=False),
    )
    return Object(name, prefix, {field.name.lower(): field for field in (*standard, *fields)})


def _number(name: str, type_: str = "double", precision: int = 18, scale: int = 6) -> Field:
    return Field(name, type_, 0, precision=precision, scale=scale)


_ADDRESS = ("Street", "City", "State", "PostalCode", "Country")
_INDUSTRIES = ("Agriculture", "Banking", "Biotechnology", "Government", "Technology", "Transportation", "Other")
_ACCOUNT_LOOKUP = Field("AccountId", "reference", 18, refers_to="Account", relationship="Account")

OBJECTS: Mapping[str, Object] = {
    made.name.lower(): made
    for made in (
        _object(
            "Account",
            "001",
            Field("Name", required=True),
            *(replace(Field(f"Billing{part}"), length=80) for part in _ADDRESS),
            _number("BillingLatitude", scale=15),
            _number("BillingLongitude", scale=15),
            Field("Phone", "phone", 40),
            Field("Website", "url"),
            Field("Industry", "picklist", picklist=_INDUSTRIES),
            Field("Description", "textarea", 32_000),
            _number("NumberOfEmployees", "int", 8, 0),
            _number("AnnualRevenue", "currency", 18, 2),
            Field("Active__c", "boolean", 0),
            Field("Icao__c", external_id=True),
            Field("Iata__c", length=3),
            Field("Key__c", external_id=True),
            _number("Elevation__c"),
            Field("Timezone__c"),
            Field("LastChecked__c", "datetime", 0),
            Field("Opened__c", "date", 0),
        ),
        _object(
            "Lead",
            "00Q",
            Field("LastName", length=80, required=True),
            Field("FirstName", length=40),
            Field("Company", required=True),
            Field("Email", "email", 80),
            Field("Phone", "phone", 40),
            Field("Status", "picklist", picklist=("Open", "Working", "Closed")),
            Field("Key__c", external_id=True),
        ),
        _object(
            "Contact",
            "003",
            Field("LastName", length=80, required=True),
            Field("FirstName", length=40),
            Field("Email", "email", 80),
            _ACCOUNT_LOOKUP,
            Field("Key__c", external_id=True),
        ),
        _object(
            "Touchpoint__c",
            "a00",
            Field("Name", length=80),
            Field("Channel__c"),
            Field("Campaign__c"),
            Field("OccurredAt__c", "datetime", 0),
            _number("Value__c", "currency", 18, 2),
            Field("Account__c", "reference", 18, refers_to="Account", relationship="Account__r"),
            Field("Key__c", external_id=True),
        ),
    )
}
