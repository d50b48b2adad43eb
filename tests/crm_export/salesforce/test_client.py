"""The Salesforce client: sign-in, calls, what is retried, and what is whose fault."""

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import jwt
import orjson
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from crm_export.errors import CrmError
from crm_export.model import Category, Refusal, RolledBack, Written
from crm_export.salesforce import AccessToken, ClientCredentials, Credentials, JwtBearer, RefreshToken, Salesforce
from tests.parts import NO_CITY, Org

LOGIN = "https://acme.my.salesforce.com"
Answer = Callable[[httpx.Request], httpx.Response]
APP = ClientCredentials("id", "top-secret")


def token(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"access_token": "T", "instance_url": LOGIN})


@asynccontextmanager
async def client(answer: Answer, sign_in: Answer = token, credentials: Credentials = APP) -> AsyncIterator[Salesforce]:
    def handle(request: httpx.Request) -> httpx.Response:
        return sign_in(request) if request.url.path.endswith("/token") else answer(request)

    salesforce = Salesforce(LOGIN, "66.0", credentials, quick_retries=(0, 0), transport=httpx.MockTransport(handle))
    yield salesforce
    await salesforce.aclose()


async def upsert(answer: Answer, *keys: str, all_or_none: bool = False, sign_in: Answer = token) -> list[Any]:
    async with client(answer, sign_in) as salesforce:
        records = [orjson.dumps({"Key__c": key, "Name": f"Name of {key}"}) for key in keys]
        return list(await salesforce.upsert("Account", "Key__c", records, all_or_none=all_or_none))


def ok(key: str) -> dict[str, Any]:
    return {"id": f"001{key}", "success": True, "created": True, "errors": []}


def no(code: str, message: str = "no", *fields: str) -> dict[str, Any]:
    return {"success": False, "errors": [{"statusCode": code, "message": message, "fields": list(fields)}]}


async def test_results_keep_their_order() -> None:
    answers = [ok("a"), no("REQUIRED_FIELD_MISSING", "Required fields are missing: [X]", "X"), ok("c")]
    results = await upsert(lambda request: httpx.Response(200, json=answers), "a", "b", "c")
    assert [type(result) for result in results] == [Written, Refusal, Written]
    assert results[1].fields == ("X",)
    assert results[1].category is Category.DATA


async def test_the_call_is_as_documented() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=[ok("a")])

    async with client(answer) as salesforce:
        await salesforce.upsert("Account", "Key__c", [b'{"Key__c":"a"}'], all_or_none=True)
    [request] = seen
    assert request.method == "PATCH"
    assert request.url.path == "/services/data/v66.0/composite/sobjects/Account/Key__c"
    assert request.headers["Authorization"] == "Bearer T"
    assert json.loads(request.content) == {
        "allOrNone": True,
        "records": [{"attributes": {"type": "Account"}, "Key__c": "a"}],
    }


async def test_nothing_of_a_failed_all_or_none_call_counts_as_written() -> None:
    answers = [ok("a"), no("ALL_OR_NONE_OPERATION_ROLLED_BACK"), no("STRING_TOO_LONG")]
    results = await upsert(lambda request: httpx.Response(200, json=answers), "a", "b", "c", all_or_none=True)
    assert [type(result) for result in results] == [RolledBack, RolledBack, Refusal]


@pytest.mark.parametrize(
    ("response", "code"),
    [
        (httpx.Response(200, json=[]), "UNEXPECTED_ANSWER"),
        (httpx.Response(200, json=[ok("a"), ok("b")]), "UNEXPECTED_ANSWER"),
        (httpx.Response(200, json=[{"success": False, "errors": []}]), "UNEXPECTED_ANSWER"),
        (httpx.Response(200, text="<html>down</html>"), "UNEXPECTED_ANSWER"),
        (httpx.Response(200, text=""), "UNEXPECTED_ANSWER"),
        (httpx.Response(503, text="<html>"), "SERVER_UNAVAILABLE"),
        (httpx.Response(429), "TXN_SECURITY_METERING_ERROR"),
        (httpx.Response(200, json=[no("STORAGE_LIMIT_EXCEEDED")]), "STORAGE_LIMIT_EXCEEDED"),
        (httpx.Response(400, json=[{"errorCode": "INVALID_FIELD", "message": "No such column"}]), "INVALID_FIELD"),
        (httpx.Response(403, json=[{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "x"}]), "REQUEST_LIMIT_EXCEEDED"),
        (httpx.Response(404, json=[{"errorCode": "NOT_FOUND", "message": "x"}]), "NOT_FOUND"),
    ],
)
async def test_trouble_of_the_call_is_raised(response: httpx.Response, code: str) -> None:
    with pytest.raises(CrmError) as raised:
        await upsert(lambda request: response, "a")
    assert raised.value.code == code
    assert raised.value.hint


async def test_a_value_of_a_wrong_type_fails_the_call_and_is_not_quoted() -> None:
    """Which record has it is found by sending fewer (delivery.py)."""
    told = "Cannot deserialize instance of currency from VALUE_STRING value Name of b"
    answer = httpx.Response(400, json=[{"errorCode": "JSON_PARSER_ERROR", "message": told}])
    assert [type(result) for result in await upsert(lambda request: answer, "a", "b")] == [Refusal, Refusal]
    [alone] = await upsert(lambda request: answer, "b")
    assert alone.message == "Cannot deserialize instance of currency from VALUE_STRING value ‹Name›"


async def test_what_a_failed_call_quotes_of_its_records_is_left_out() -> None:
    answer = httpx.Response(400, json=[{"errorCode": "NEW_IN_2027", "message": "cannot take Name of b"}])
    with pytest.raises(CrmError, match="cannot take ‹Name›") as raised:
        await upsert(lambda request: answer, "a", "b")
    assert "Name of" not in repr(raised.value)


async def test_the_crms_own_hint_on_when_to_call_again_is_kept() -> None:
    answer = httpx.Response(503, headers={"Retry-After": "17"}, json=[])
    with pytest.raises(CrmError) as raised:
        await upsert(lambda request: answer, "a")
    assert raised.value.retry_after == timedelta(seconds=17)


async def test_a_parents_missing_external_id_is_the_records_own() -> None:
    refused = no("INVALID_FIELD", "Foreign key external ID: 7 not found for field X in entity Account")
    [result] = await upsert(lambda request: httpx.Response(200, json=[refused]), "a")
    assert result.category is Category.REFERENCE


async def test_what_heals_by_itself_is_tried_again_quickly() -> None:
    answers: Iterator[httpx.Response | Exception] = iter(
        [
            httpx.ConnectError("reset"),
            httpx.Response(503),
            httpx.Response(200, json=[ok("a"), no("UNABLE_TO_LOCK_ROW")]),
            httpx.Response(200, json=[ok("b")]),
        ]
    )

    def answer(request: httpx.Request) -> httpx.Response:
        given = next(answers)
        if isinstance(given, Exception):
            raise given
        return given

    assert [type(result) for result in await upsert(answer, "a", "b")] == [Written, Written]
    with pytest.raises(StopIteration):
        next(answers)


async def test_a_lock_that_stays_counts() -> None:
    calls = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        return httpx.Response(200, json=[no("UNABLE_TO_LOCK_ROW")])

    [result] = await upsert(answer, "a")
    assert (result.code, calls) == ("UNABLE_TO_LOCK_ROW", 3)


async def test_lost_connections_are_named_without_a_trace_of_the_record() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("slow")

    with pytest.raises(CrmError) as raised:
        await upsert(answer, "a")
    assert raised.value.code == "TIMEOUT"
    assert "acme.my.salesforce.com" in str(raised.value)
    assert "Name of" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:9", "connection refused"),
        ("https://salesforce.invalid", "no such host"),
        ("https://127.0.0.1:{port}", "TLS: "),
    ],
)
async def test_what_the_network_said_is_told(org: Org, url: str, why: str) -> None:
    salesforce = Salesforce(url.format(port=httpx.URL(org.url).port), "66.0", APP, quick_retries=())
    with pytest.raises(CrmError, match=re.escape(f"({why}")):
        await salesforce.describe("Account")
    await salesforce.aclose()


async def test_an_ended_session_is_renewed_once() -> None:
    signed_in = 0

    def sign_in(request: httpx.Request) -> httpx.Response:
        nonlocal signed_in
        signed_in += 1
        return httpx.Response(200, json={"access_token": f"T{signed_in}", "instance_url": LOGIN})

    def answer(request: httpx.Request) -> httpx.Response:
        if request.headers["Authorization"] == "Bearer T1":
            return httpx.Response(401, json=[{"errorCode": "INVALID_SESSION_ID", "message": "expired"}])
        return httpx.Response(200, json=[ok("a")])

    assert len(await upsert(answer, "a", sign_in=sign_in)) == 1
    assert signed_in == 2

    ended = httpx.Response(401, json=[{"errorCode": "INVALID_SESSION_ID", "message": "expired"}])
    with pytest.raises(CrmError, match="INVALID_SESSION_ID"):
        await upsert(lambda request: ended, "a")


@pytest.mark.parametrize("answer", [{"error": "invalid_grant", "error_description": "user hasn't approved"}, []])
async def test_a_refused_sign_in_says_why_and_holds_no_secret(answer: Any) -> None:
    with pytest.raises(CrmError) as raised:
        await upsert(lambda r: httpx.Response(500), "a", sign_in=lambda r: httpx.Response(400, json=answer))
    assert raised.value.code in ("invalid_grant", "UNEXPECTED_ANSWER")
    assert "top-secret" not in f"{raised.value} {APP!r}"


async def test_the_flows() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    forms: list[dict[str, str]] = []

    def sign_in(request: httpx.Request) -> httpx.Response:
        forms.append(dict(httpx.QueryParams(request.content.decode())))
        return token(request)

    usage = httpx.Response(200, json={"DailyApiRequests": {"Max": 10, "Remaining": 4}})
    for credentials in (APP, RefreshToken("id", None, "R"), JwtBearer("id", "me@acme", pem), AccessToken("A", LOGIN)):
        async with client(lambda request: usage, sign_in, credentials) as salesforce:
            assert (await salesforce.limits()).used == 6
        assert "top-secret" not in repr(credentials)
        assert "PRIVATE" not in repr(credentials)
    assert [form["grant_type"].rsplit(":", 1)[-1] for form in forms] == [
        "client_credentials",
        "refresh_token",
        "jwt-bearer",
    ]
    claims = jwt.decode(forms[2]["assertion"], key.public_key(), algorithms=["RS256"], audience=LOGIN)
    assert (claims["iss"], claims["sub"]) == ("id", "me@acme")


def test_credentials_do_not_travel_in_the_clear() -> None:
    with pytest.raises(CrmError, match="not https"):
        Salesforce("http://acme.my.salesforce.com", "66.0", APP)


async def test_one_record_by_patch_gives_the_whole_exchange(org: Org) -> None:
    salesforce = Salesforce(org.url, "66.0", ClientCredentials("demo", "demo"))
    await org.rule("city", NO_CITY)
    key = "A/1 é?"
    refused = await salesforce.upsert_one("Account", "Icao__c", key, {"Icao__c": key, "Name": "A"})
    assert isinstance(refused.result, Refusal)
    assert (refused.status, refused.result.code) == (400, "FIELD_CUSTOM_VALIDATION_EXCEPTION")
    written = await salesforce.upsert_one("Account", "Icao__c", key, {"Icao__c": key, "Name": "A", "BillingCity": "B"})
    assert isinstance(written.result, Written)
    assert written.status == 201
    assert "Icao__c" not in written.body
    assert (await org.accounts())[key]["BillingCity"] == "B"
    assert [record async for record in salesforce.query("SELECT Name FROM Account")] == [{"Name": "A"}]
    with pytest.raises(CrmError) as raised:
        await salesforce.upsert_one("Account", "Nope__c", key, {"Name": "A"})
    assert raised.value.code == "NOT_FOUND"
    await salesforce.aclose()
