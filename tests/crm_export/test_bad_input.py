"""Bad input, made up by Hypothesis: a clear error in one line, or it works; never a traceback, nothing half done."""

import asyncio
import datetime as dt
import json
import math
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crm_export import exports_yaml
from crm_export.config import Config, Job, SourceConfig
from crm_export.errors import ConfigError, CrmError, SourceError
from crm_export.model import Refusal, RolledBack, Written
from crm_export.salesforce import ClientCredentials, Salesforce
from crm_export.salesforce.errors import refusal
from crm_export.sources import Database, SourceReader
from crm_export.sources.values import UnsendableValueError, to_json

often = settings(max_examples=1000, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
seldom = settings(often, max_examples=300)
SECRET = "Never-To-Be-Told"
GOOD: dict[str, Any] = {
    "store": "sqlite:///crm-export.db",
    "connections": {
        "acme": {
            "crm": "salesforce",
            "login_url": "https://acme.my.salesforce.com",
            "api_version": "66.0",
            "auth": {"flow": "client_credentials", "client_id": "id", "client_secret": SECRET},
            "export_enabled": True,
            "pause_on_error": True,
            "daily_api_limit": 100000,
            "reexport_schedule": "0 3 * * *",
            "blocked_after": "2m",
        }
    },
    "sources": {"warehouse": {"url": f"postgresql://user:{SECRET}@host/db"}},
    "jobs": {
        "accounts": {
            "connection": "acme",
            "source": "warehouse",
            "table": "airports",
            "key": "icao",
            "cursor": "updated_at",
            "object": "Account",
            "external_id": "Icao__c",
            "fields": {"Name": "name"},
            "schedule": "*/15 * * * *",
            "concurrency": 1,
            "batch_size": 200,
            "retry": {"initial": "30s", "maximum": "15m"},
        }
    },
}

# Configuration

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from(
        ["1e999d", "9" * 400 + "d", "-5s", "0s", "* * * * *", "0 0 31 2 *", "on", "${X}", "${", "~", "!!x"]
    )
    | st.dates()
    | st.datetimes()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


def paths(document: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in document.items() if isinstance(document, dict) else ():
        yield (*path, name)
        yield from paths(value, (*path, name))


def loaded(text: str | bytes) -> Config | None:
    """None where the file was refused, in one line that names it and holds no secret."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "exports.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
        try:
            return exports_yaml.load(file, {})
        except ConfigError as error:
            told = str(error)
            assert told.startswith(str(file))
            assert "\n" not in told
            assert SECRET not in told
            return None


@often
@given(path=st.sampled_from(list(paths(GOOD))), value=values, how=st.sampled_from(["replace", "remove", "add"]))
def test_a_configuration_with_one_thing_wrong_is_refused_in_one_line(
    path: tuple[str, ...], value: Any, how: str
) -> None:
    document = json.loads(json.dumps(GOOD))
    *parents, name = path
    place = document
    for parent in parents:
        place = place[parent]
    if how == "remove":
        del place[name]
    elif how == "replace":
        place[name] = value
    else:
        place[f"{name}x"] = value
    try:
        text = yaml.safe_dump(document, allow_unicode=True)
    except (yaml.YAMLError, ValueError, UnicodeEncodeError):
        return
    config = loaded(text)
    if config is not None:
        assert SECRET not in repr(config)
        for job in config.jobs.values():
            assert job.connection in config.connections
            assert job.source in config.sources


@seldom
@given(text=st.binary(max_size=200) | st.text(max_size=200))
def test_a_file_that_is_no_configuration_is_refused_in_one_line(text: str | bytes) -> None:
    loaded(text)


@pytest.mark.parametrize("text", ["", "a: &a [*a]", "? [x]\n: y", "a: " + "[" * 2000, "a: !!python/object:os.system x"])
def test_yaml_that_is_too_clever_is_refused_in_one_line(text: str) -> None:
    assert loaded(text) is None


# Rows of a source

identifiers = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40).filter(
    # A dot parts schema and table; SQLite keeps these names for itself.
    lambda name: "." not in name and not name.lower().startswith("sqlite_")
)


def job(**settings: Any) -> Job:
    return Job.model_validate(
        {
            **{"name": "accounts", "connection": "acme", "source": "db", "table": "t", "key": "k"},
            **{"object": "Account", "external_id": "Key__c", "fields": {"Name": "n"}, **settings},
        }
    )


def reader(file: str, **settings: Any) -> SourceReader:
    config = SourceConfig.model_validate({"name": "db", "url": f"sqlite:///{file}"})
    return SourceReader(Database(config), job(**settings))


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@seldom
@given(table=identifiers, key=identifiers, column=identifiers)
def test_names_with_quotes_and_semicolons_are_names(table: str, key: str, column: str) -> None:
    if key.casefold() == column.casefold():
        return
    with tempfile.TemporaryDirectory() as folder, closing(sqlite3.connect(f"{folder}/db")) as database:
        database.execute(f"CREATE TABLE {quoted(table)} ({quoted(key)} TEXT, {quoted(column)} TEXT)")
        database.execute(f"INSERT INTO {quoted(table)} VALUES ('k1', 'v1')")
        database.commit()
        rows = reader(f"{folder}/db", table=table, key=key, fields={"Name": column})
        assert rows.order_problem() is None
        [record] = rows.read(None, 10)
        assert (record.key, record.values) == ("k1", {"Key__c": "k1", "Name": "v1"})
        assert rows.read_keys(["k1"])["k1"].body == record.body
        assert rows.check() == []


texts = st.text(max_size=300) | st.sampled_from(
    ["", " ", "a\0b", "\u202egnp.exe", "\ud800", "👩‍👩‍👧", "x" * 255, "x" * 600, "'; DROP TABLE t; --"]
)


@seldom
@given(
    keys=st.lists(texts.filter(lambda text: text.isascii() or "\ud800" not in text), unique=True, max_size=8),
    name=texts,
)
def test_any_key_is_read_in_order_and_found_again(keys: list[str], name: str) -> None:
    keys = [key for key in keys if key.encode(errors="ignore").decode() == key]
    with tempfile.TemporaryDirectory() as folder, closing(sqlite3.connect(f"{folder}/db")) as database:
        database.execute("CREATE TABLE t (k TEXT, n TEXT)")
        database.executemany(
            "INSERT INTO t VALUES (?, ?)", [(key, name.encode(errors="ignore").decode()) for key in keys]
        )
        database.commit()
        rows = reader(f"{folder}/db")
        trouble: SourceError | None = None
        try:
            records = rows.read(None, 3)
            while records and len(records) < len(keys):
                records += rows.read(records[-1].position, 3)
        except SourceError as error:
            trouble = error
        if trouble is not None:
            assert trouble.code == "SOURCE_KEY"
            assert any("\0" in key or len(key) > 500 for key in keys)
            return
        assert [record.key for record in records] == sorted(keys, key=str.encode)
        assert {record.key for record in records if not record.key.strip()} == {
            record.key for record in records if record.unsendable and "key is empty" in record.unsendable.message
        }
        assert rows.read_keys(keys).keys() == set(keys)


anything = (
    scalars
    | st.decimals()
    | st.times()
    | st.uuids()
    | st.binary(max_size=10)
    | st.lists(scalars, max_size=3)
    | st.text(max_size=50)
    | st.just(object())
)


@often
@given(value=anything)
def test_any_value_is_sent_without_loss_or_refused_without_being_told(value: Any) -> None:
    sent, refused = None, ""
    try:
        sent = to_json(value)
    except UnsendableValueError as error:
        refused = str(error)
    if refused:
        assert not isinstance(value, str) or len(value) < 4 or value not in refused
        return
    told = json.loads(orjson.dumps(sent))
    match value:
        case bool() | None | int() | str():
            assert told == (value if isinstance(told, type(value)) else str(value))
        case float():
            assert math.isfinite(value)
            assert told == value
        case Decimal():
            assert Decimal(str(told)) == value
        case dt.datetime():
            assert dt.datetime.fromisoformat(told).replace(tzinfo=None, microsecond=0) == value.replace(microsecond=0)
        case dt.date():
            assert dt.date.fromisoformat(told) == value


@pytest.mark.parametrize("cursor", [None, "c"])
def test_two_rows_with_one_place_in_the_order_are_told(tmp_path: Path, cursor: str | None) -> None:
    with closing(sqlite3.connect(tmp_path / "db")) as database, database:
        database.execute("CREATE TABLE t (k TEXT, n TEXT, c INTEGER)")
        database.executemany("INSERT INTO t VALUES (?, 'n', 1)", [("a",), ("b",), ("b",)])
    with pytest.raises(SourceError, match="several rows with k b"):
        reader(str(tmp_path / "db"), cursor=cursor).read(None, 2)


# Answers of a CRM

codes = st.sampled_from(
    ["STRING_TOO_LONG", "UNABLE_TO_LOCK_ROW", "ALL_OR_NONE_OPERATION_ROLLED_BACK", "REQUEST_LIMIT_EXCEEDED", ""]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=20) | codes,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
errors = st.fixed_dictionaries({}, optional={"statusCode": json_values, "message": json_values, "fields": json_values})
lines = st.fixed_dictionaries(
    {"success": st.booleans()},
    optional={"id": json_values, "created": json_values, "errors": st.lists(errors, max_size=2) | json_values},
)
bodies = st.binary(max_size=60) | st.lists(lines | json_values, max_size=4).map(json.dumps).map(str.encode)
statuses = st.sampled_from([200, 200, 200, 201, 204, 300, 400, 401, 403, 404, 429, 500, 503])
RECORDS = [orjson.dumps({"Key__c": f"k{i}", "Name": "Zanzibar"}) for i in range(2)]


async def asked(status: int, body: bytes, sign_in: tuple[int, bytes] | None = None) -> list[Any]:
    """What a client makes of such an answer, to each of its calls."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/token"):
            good = {"access_token": "t", "instance_url": "https://acme.my.salesforce.com"}
            return httpx.Response(
                *((sign_in[0],) if sign_in else (200,)), content=sign_in[1] if sign_in else orjson.dumps(good)
            )
        return httpx.Response(status, content=body)

    crm = Salesforce(
        "https://acme.my.salesforce.com",
        "66.0",
        ClientCredentials("id", SECRET),
        quick_retries=(),
        transport=httpx.MockTransport(answer),
    )
    made = [
        crm.upsert("Account", "Key__c", RECORDS, all_or_none=False),
        crm.upsert("Account", "Key__c", RECORDS, all_or_none=True),
        crm.upsert_one("Account", "Key__c", "k0", {"Key__c": "k0", "Name": "Zanzibar"}),
        crm.describe("Account"),
        crm.limits(),
    ]
    found: list[Any] = await asyncio.gather(*made, return_exceptions=True)
    await crm.aclose()
    return found


@often
@given(status=statuses, body=bodies)
def test_any_answer_of_a_crm_is_understood_or_trouble_in_one_line(status: int, body: bytes) -> None:
    for found in asyncio.run(asked(status, body)):
        if isinstance(found, BaseException):
            assert isinstance(found, CrmError), repr(found)
            assert_presentable(found.code, str(found))
        if isinstance(found, list):
            assert len(found) == len(RECORDS)
            assert {type(one) for one in found} <= {Written, RolledBack, Refusal}
            for one in found:
                if isinstance(one, Refusal):
                    assert_presentable(one.code, one.message, *one.fields)


@seldom
@given(status=statuses, body=st.binary(max_size=60) | json_values.map(json.dumps).map(str.encode))
def test_any_answer_to_the_sign_in_is_understood_or_trouble_in_one_line(status: int, body: bytes) -> None:
    for found in asyncio.run(asked(200, b"[]", (status, body))):
        assert isinstance(found, CrmError), repr(found)
        assert_presentable(found.code, str(found))


def test_a_message_of_5_mb_and_thousands_of_fields_are_cut() -> None:
    error = {"statusCode": "C" * 5_000, "message": "Zanzibar " * 600_000, "fields": ["F" * 1_000] * 5_000}
    body = orjson.dumps([{"success": False, "errors": [error]}] * 2)
    for found in asyncio.run(asked(200, body))[:2]:
        for one in found:
            assert isinstance(one, Refusal)
            assert_presentable(one.code, one.message, *one.fields)
            assert len(one.model_dump_json()) < 4_000


def assert_presentable(code: str, *texts: str) -> None:
    """Fit for a column, a search attribute, a terminal and a pending activity's failure; without values or secrets."""
    assert code
    assert len(code) <= 100
    for text in (code, *texts):
        assert text.isprintable()
        assert len(text) < 1_000
        assert SECRET not in text
        assert "Zanzibar" not in text


@often
@given(
    value=st.text(st.characters(categories=["L", "N", "P"]), min_size=4, max_size=60),
    before=st.text(max_size=20),
    after=st.text(max_size=20),
)
def test_a_message_that_quotes_a_value_loses_it(value: str, before: str, after: str) -> None:
    found = refusal("STRING_TOO_LONG", f"{before} {value} {after}", (), {"Key__c": "k", "Name": value}, "Key__c")
    assert value.casefold() not in found.message.casefold() or value.casefold() in f"{before} ‹name› {after}".casefold()
