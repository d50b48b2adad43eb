"""The table of codes, and messages without the record's values."""

import pytest

from crm_export.model import Category
from crm_export.salesforce import TABLE, FieldDescription, ObjectDescription, facts, problems, refusal, unwritable


def test_every_code_says_what_it_is_and_what_to_do() -> None:
    assert len(TABLE) > 45
    for code, known in TABLE.items():
        assert known.cause, code
        assert known.hint, code
        assert known.category is not Category.UNKNOWN, code


def test_an_unknown_code_is_the_records_and_says_that_it_is_unknown() -> None:
    found = refusal("BRAND_NEW_CODE", "something", [], {}, "Key__c")
    assert found.category is Category.UNKNOWN
    assert "does not know this code" in found.hint
    assert facts("BRAND_NEW_CODE").level == "record"


SENT = {
    "Key__c": "K-1",
    "Name": "Zanzibar & Sons (Ltd.)",
    "Phone": 5551234,
    "Account__r": {"Key__c": "PARENT-9"},
    "Ok": True,
}


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            "Name: data value too large: Zanzibar & Sons (Ltd.) (max length=4)",
            "Name: data value too large: ‹Name› (max length=4)",
        ),
        ("zanzibar & sons (ltd.) is no good", "‹Name› is no good"),
        ("too large: Zanzibar & So… (max", "too large: ‹Name›… (max"),
        ("bad phone 5551234.", "bad phone ‹Phone›."),
        ("Foreign key external ID: PARENT-9 not found", "Foreign key external ID: ‹Account__r.Key__c› not found"),
        ("duplicate K-1, is it True?", "duplicate K-1, is it True?"),
        ("line one\nline\ttwo\x00", "line one line two"),
    ],
)
def test_messages_lose_the_records_values_and_keep_its_key(message: str, shown: str) -> None:
    assert refusal("X", message, [], SENT, "Key__c").message == shown  # type: ignore[arg-type]


def test_messages_are_cut() -> None:
    assert len(refusal("X", "word " * 100_000, [], {}, "Key__c").message) <= 500


def described(**changed: bool) -> ObjectDescription:
    def field(name: str, **given: object) -> FieldDescription:
        values = {"type": "string", "length": 80, "createable": True, "updateable": True, "nillable": True}
        rest = {"external_id": False, "id_lookup": False, "defaulted_on_create": False, "relationship_name": None}
        return FieldDescription(name=name, **{**values, **rest, **given})  # type: ignore[arg-type]

    fields = [
        field("Key__c", external_id=True),
        field("Name", nillable=False),
        field("City"),
        field("Total", createable=False, updateable=False),
        field("AccountId", relationship_name="Account__r"),
    ]
    given = {"createable": True, "updateable": True, **changed}
    return ObjectDescription("Account", fields={f.name: f for f in fields}, **given)


def test_a_missing_permission_is_recognised_from_the_description() -> None:
    assert unwritable(described(), "Key__c", ["Name", "city", "Account__r.Key__c"]) is None
    for description, fields, code in (
        (described(updateable=False), ["Name"], "INSUFFICIENT_ACCESS_OR_READONLY"),
        (described(), ["Total"], "INVALID_FIELD_FOR_INSERT_UPDATE"),
        (described(), ["Nope"], "INVALID_FIELD"),
    ):
        found = unwritable(description, "Key__c", fields)
        assert found is not None
        assert found.code == code


def test_check_names_everything_that_is_wrong_with_a_mapping() -> None:
    assert problems(described(), "Key__c", ["Name"]) == []
    assert problems(described(), "Nmae", ["Ctiy", "Total"]) == [
        "Account has no field Nmae (did you mean Name?)",
        "Account has no field Ctiy (did you mean City?)",
        "the integration user may not write Account.Total",
        "Account.Name is required and not mapped",
    ]
    assert "Account.City is not an external ID: mark it as one in Salesforce" in problems(described(), "City", ["Name"])
