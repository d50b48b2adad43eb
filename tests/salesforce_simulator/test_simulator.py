"""The simulator is Salesforce as its documentation has it; proven with a client that others wrote."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import requests
from simple_salesforce.api import Salesforce
from simple_salesforce.exceptions import SalesforceMalformedRequest, SalesforceResourceNotFound

from tests.parts import NO_CITY, Org

COLLECTION = "/services/data/v66.0/composite/sobjects/Account/Icao__c"


class WithoutTls(requests.adapters.HTTPAdapter):
    """simple-salesforce knows https alone; on loopback its calls go by http."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        request.url = str(request.url).replace("https://", "http://", 1)
        return super().send(request, *args, **kwargs)


@pytest.fixture
async def client(org: Org) -> AsyncIterator[httpx.AsyncClient]:
    """Signed in."""
    async with httpx.AsyncClient(base_url=org.url) as client:
        form = {"grant_type": "client_credentials", "client_id": "demo", "client_secret": "demo"}
        token = (await client.post("/services/oauth2/token", data=form)).json()
        client.headers["Authorization"] = f"Bearer {token['access_token']}"
        yield client


def body(*records: tuple[str, str | None], all_or_none: bool = False) -> dict[str, Any]:
    return {
        "allOrNone": all_or_none,
        "records": [
            {"attributes": {"type": "Account"}, "Icao__c": key, "Name": key, "BillingCity": city}
            for key, city in records
        ],
    }


def codes(answer: list[dict[str, Any]]) -> list[str]:
    return ["ok" if line["success"] else line["errors"][0]["statusCode"] for line in answer]


async def test_all_or_none_keeps_nothing_when_one_is_refused(client: httpx.AsyncClient, org: Org) -> None:
    await org.rule("city", NO_CITY)
    records = (("A", "x"), ("B", None), ("C", "x"), ("D", None))
    answer = (await client.patch(COLLECTION, json=body(*records, all_or_none=True))).json()
    rolled_back = "ALL_OR_NONE_OPERATION_ROLLED_BACK"
    refused = "FIELD_CUSTOM_VALIDATION_EXCEPTION"
    assert codes(answer) == [rolled_back, refused, rolled_back, refused]
    assert await org.written() == []
    answer = (await client.patch(COLLECTION, json=body(*records))).json()
    assert codes(answer) == ["ok", refused, "ok", refused]
    assert await org.written() == ["A", "C"]


async def test_results_say_created_or_updated(client: httpx.AsyncClient) -> None:
    first = (await client.patch(COLLECTION, json=body(("A", "x")))).json()[0]
    again = (await client.patch(COLLECTION, json=body(("A", "y")))).json()[0]
    assert (first["created"], again["created"], first["id"] == again["id"]) == (True, False, True)
    assert first["id"].startswith("001")


async def test_one_external_id_twice_refuses_both(client: httpx.AsyncClient) -> None:
    answer = (await client.patch(COLLECTION, json=body(("A", "x"), ("a", "x"), ("B", "x")))).json()
    assert codes(answer) == ["DUPLICATE_EXTERNAL_ID", "DUPLICATE_EXTERNAL_ID", "ok"]


async def test_a_trigger_that_throws_refuses_the_whole_call(client: httpx.AsyncClient, org: Org) -> None:
    await org.rule("trigger", {"kind": "trigger", "keys": ["B"]})
    code = "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY"
    for all_or_none in (True, False):
        sent = body(("A", "x"), ("B", "x"), all_or_none=all_or_none)
        assert codes((await client.patch(COLLECTION, json=sent)).json()) == [code, code]
    assert codes((await client.patch(COLLECTION, json=body(("A", "x")))).json()) == ["ok"]


async def test_a_row_lock_lasts_for_its_tries(client: httpx.AsyncClient, org: Org) -> None:
    await org.rule("lock", {"kind": "row_lock", "keys": ["A"], "tries": 2})
    results = [codes((await client.patch(COLLECTION, json=body(("A", "x")))).json())[0] for _ in range(3)]
    assert results == ["UNABLE_TO_LOCK_ROW", "UNABLE_TO_LOCK_ROW", "ok"]


async def test_missing_permissions_show_in_describe(client: httpx.AsyncClient, org: Org) -> None:
    describe = "/services/data/v66.0/sobjects/Account/describe"
    await org.rule("field", {"kind": "permission", "field": "BillingCity"})
    fields = {field["name"]: field for field in (await client.get(describe)).json()["fields"]}
    assert not fields["BillingCity"]["updateable"]
    assert codes((await client.patch(COLLECTION, json=body(("A", "x")))).json()) == ["INVALID_FIELD_FOR_INSERT_UPDATE"]
    await org.rule("field", {"kind": "permission", "field": "BillingCity", "hidden": True})
    answer = await client.patch(COLLECTION, json=body(("A", "x")))
    assert (answer.status_code, answer.json()[0]["errorCode"]) == (400, "INVALID_FIELD")
    await org.drop("field")
    await org.rule("object", {"kind": "permission"})
    assert (await client.get(describe)).json()["createable"] is False
    assert codes((await client.patch(COLLECTION, json=body(("A", "x")))).json()) == ["INSUFFICIENT_ACCESS_OR_READONLY"]


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"Name": None}, "REQUIRED_FIELD_MISSING"),
        ({"Name": "x" * 256}, "STRING_TOO_LONG"),
        ({"Industry": "Nonsense"}, "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST"),
        ({"NumberOfEmployees": 10**9}, "NUMBER_OUTSIDE_VALID_RANGE"),
        ({"Active__c": "maybe"}, "INVALID_TYPE_ON_FIELD_IN_RECORD"),
        ({"LastChecked__c": "yesterday"}, "INVALID_TYPE_ON_FIELD_IN_RECORD"),
    ],
)
async def test_values_are_checked_by_their_field(client: httpx.AsyncClient, values: dict[str, Any], code: str) -> None:
    record = {"attributes": {"type": "Account"}, "Icao__c": "A", "Name": "A", **values}
    assert codes((await client.patch(COLLECTION, json={"records": [record]})).json()) == [code]


async def test_calls_are_refused_as_a_whole(client: httpx.AsyncClient, org: Org) -> None:
    async def refused(path: str, **sent: Any) -> tuple[int, str]:
        answer = await client.patch(path, **sent)
        return answer.status_code, answer.json()[0]["errorCode"]

    unknown = {"records": [{"attributes": {"type": "Account"}, "Icao__c": "A", "Nope__c": 1}]}
    assert await refused(COLLECTION, json=unknown) == (400, "INVALID_FIELD")
    assert await refused(COLLECTION, content=b"{") == (400, "JSON_PARSER_ERROR")
    assert await refused(COLLECTION, json=body(*[(str(i), "x") for i in range(201)])) == (400, "EXCEEDED_ID_LIMIT")
    assert await refused(COLLECTION.replace("Account", "Nope"), json=body(("A", "x"))) == (404, "NOT_FOUND")
    assert await refused(COLLECTION.replace("Icao__c", "Name"), json=body(("A", "x"))) == (404, "NOT_FOUND")
    await org.rule("limit", {"kind": "daily_limit", "calls": 0})
    assert await refused(COLLECTION, json=body(("A", "x"))) == (403, "REQUEST_LIMIT_EXCEEDED")
    await org.drop("limit")
    await org.expire_sessions()
    assert await refused(COLLECTION, json=body(("A", "x"))) == (401, "INVALID_SESSION_ID")


async def test_outages(client: httpx.AsyncClient, org: Org) -> None:
    await org.rule("down", {"kind": "outage", "calls": 1})
    assert (await client.patch(COLLECTION, json=body(("A", "x")))).status_code == 503
    assert (await client.patch(COLLECTION, json=body(("A", "x")))).status_code == 200
    for how, kept in (("drop_before_write", False), ("drop_after_write", True)):
        await org.rule("down", {"kind": "outage", "how": how, "calls": 1})
        with pytest.raises(httpx.TransportError):
            await client.patch(COLLECTION, json=body((how, "x")))
        assert (how in await org.written()) is kept


async def test_sign_in_refuses_what_it_should(org: Org) -> None:
    async with httpx.AsyncClient(base_url=org.url) as client:
        form = {"grant_type": "client_credentials", "client_id": "demo", "client_secret": "wrong"}
        answer = await client.post("/services/oauth2/token", data=form)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


async def test_an_unknown_rule_is_an_error_that_says_so(org: Org) -> None:
    async with httpx.AsyncClient(base_url=org.url) as client:
        answer = await client.put("/simulator/rules/x", json={"kind": "nope"})
        assert answer.status_code == 400
        assert "kind" in answer.json()["error"]


async def test_a_client_that_others_wrote_reads_and_upserts_through_it(client: httpx.AsyncClient, org: Org) -> None:
    token = client.headers["Authorization"].removeprefix("Bearer ")

    def work() -> None:
        session = requests.Session()
        session.mount("https://", WithoutTls())
        salesforce: Any = Salesforce(instance_url=org.url, session_id=token, version="66.0", session=session)
        assert salesforce.Account.upsert("Icao__c/KJFK", {"Name": "Kennedy", "BillingCity": "New York"}) == 201
        assert salesforce.Account.upsert("Icao__c/KJFK", {"Name": "John F. Kennedy"}) == 200
        assert salesforce.Account.upsert("Icao__c/A%2FB 1", {"Name": "Slash"}) == 201
        assert salesforce.Account.get_by_custom_id("Icao__c", "KJFK")["BillingCity"] == "New York"
        fields = {field["name"]: field for field in salesforce.Account.describe()["fields"]}
        assert fields["Icao__c"]["externalId"]
        assert salesforce.limits()["DailyApiRequests"]["Max"] == 100_000
        for i in range(2_300):
            if i % 200 == 0:
                salesforce.restful(
                    "composite/sobjects/Account/Icao__c",
                    method="PATCH",
                    json=body(*[(f"B{j:04d}", "x") for j in range(i, min(i + 200, 2_300))]),
                )
        found = salesforce.query_all("SELECT Icao__c, Name FROM Account WHERE Icao__c LIKE 'B%' ORDER BY Icao__c")
        assert found["totalSize"] == len(found["records"]) == 2_300
        assert salesforce.query("SELECT COUNT() FROM Account WHERE Name = 'Slash'")["totalSize"] == 1
        with pytest.raises(SalesforceMalformedRequest):
            salesforce.Account.upsert("Icao__c/BAD", {"Name": "x" * 300})
        with pytest.raises(SalesforceMalformedRequest):
            salesforce.query("SELECT Nope FROM Account")
        with pytest.raises(SalesforceResourceNotFound):
            salesforce.Account.get_by_custom_id("Icao__c", "NOPE")
        session.close()

    await asyncio.to_thread(work)
