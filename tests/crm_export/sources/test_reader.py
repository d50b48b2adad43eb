"""Reading records in order, on SQLite and PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from crm_export.config import Job, SourceConfig
from crm_export.errors import SourceError
from crm_export.model import Position
from crm_export.sources import Database, SourceReader

TABLE = "CREATE TABLE items (id TEXT, name TEXT, changed INTEGER)"


def execute(url: str, *statements: str, rows: list[dict[str, Any]] | None = None) -> None:
    made = make_url(url)
    engine = create_engine(made.set(drivername="postgresql+psycopg") if made.drivername == "postgresql" else made)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement), rows if rows and ":" in statement else None)
    engine.dispose()


def fill(url: str, *rows: tuple[str | int | None, str | None, int | None], table: str = TABLE) -> None:
    named = [{"id": i, "name": n, "changed": c} for i, n, c in rows]
    execute(url, table, "INSERT INTO items VALUES (:id, :name, :changed)", rows=named)


@contextmanager
def reading(url: str, **given: Any) -> Iterator[SourceReader]:
    job = Job.model_validate(
        {
            "name": "items",
            "connection": "acme",
            "source": "db",
            "key": "id",
            "object": "Account",
            "external_id": "Key__c",
            "fields": {"Name": "name"},
            **({} if "query" in given else {"table": "items"}),
            **given,
        }
    )
    database = Database(SourceConfig.model_validate({"name": "db", "url": url}))
    yield SourceReader(database, job)
    database.close()


def all_keys(reader: SourceReader, limit: int) -> list[str]:
    keys: list[str] = []
    position: Position | None = None
    while page := reader.read(position, limit):
        keys += [record.key for record in page]
        position = Position.model_validate_json(page[-1].position.model_dump_json())
    return keys


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_pages_are_in_the_order_of_cursor_and_key_and_miss_nothing(database_url: str, limit: int) -> None:
    rows = [("d", "x", 1), ("a", "x", 2), ("c", "x", 1), ("b", "x", 2), ("e", "x", 0), ("f", None, 2)]
    fill(database_url, *rows)
    with reading(database_url, cursor="changed") as reader:
        assert all_keys(reader, limit) == ["e", "c", "d", "a", "b", "f"]
    with reading(database_url) as reader:
        assert all_keys(reader, limit) == ["a", "b", "c", "d", "e", "f"]
    with reading(
        database_url,
        query="SELECT * FROM items WHERE changed::text <> '0';"
        if "postgres" in database_url
        else "SELECT * FROM items WHERE changed <> 0;",
    ) as reader:
        assert all_keys(reader, limit) == ["a", "b", "c", "d", "f"]


def test_records_are_ready_to_send(database_url: str) -> None:
    fill(database_url, ("a", None, 1))
    with reading(database_url, fields={"Name": "name", "Parent__r.Key__c": "name", "N__c": "changed"}) as reader:
        [record] = reader.read(None, 10)
    assert record.values == {"Key__c": "a", "Name": None, "Parent__r": None, "N__c": 1}


def test_single_records_by_key(database_url: str) -> None:
    fill(database_url, *[(f"k'{i}", "x", i) for i in range(1_200)])
    with reading(database_url) as reader:
        found = reader.read_keys([f"k'{i}" for i in range(1_100)] + ["gone"])
        assert len(found) == 1_100
        assert found["k'7"].values["Name"] == "x"
        assert reader.read_keys([]) == {}


def test_number_keys_are_numbers(database_url: str) -> None:
    fill(database_url, *[(i, "x", 1) for i in (2, 10, 1)], table=TABLE.replace("id TEXT", "id BIGINT"))
    with reading(database_url) as reader:
        assert all_keys(reader, 2) == ["1", "2", "10"]
        assert list(reader.read_keys(["10", "007", "x", "1"])) in (["1", "10"], ["10", "1"])
        assert reader.count(reader.read(None, 1)[0].position) == 2


def test_a_table_that_was_empty_once_has_its_keys_later(database_url: str) -> None:
    """Emptied and filled anew, as loads do: what is there must not be called gone for ever."""
    execute(database_url, TABLE.replace("id TEXT", "id BIGINT"))
    with reading(database_url) as reader:
        assert reader.read_keys(["1"]) == {}
        execute(database_url, "INSERT INTO items VALUES (1, 'x', 1)")
        assert list(reader.read_keys(["1"])) == ["1"]


def test_a_computed_number_key_of_a_table_that_was_empty(database_url: str) -> None:
    execute(database_url, TABLE)
    with reading(database_url, query="SELECT changed + 1 AS id, name FROM items") as reader:
        assert reader.read_keys(["2"]) == {}
        execute(database_url, "INSERT INTO items VALUES ('a', 'x', 1)")
        assert list(reader.read_keys(["2"])) == ["2"]


def test_a_database_that_quotes_a_value_is_not_quoted(postgresql_url: str) -> None:
    fill(postgresql_url, ("a", "very-private-4711", 1))
    with (
        reading(postgresql_url, query="SELECT id, CAST(name AS integer) AS name FROM items") as reader,
        pytest.raises(SourceError, match="InvalidTextRepresentation, SQLSTATE 22P02") as told,
    ):
        reader.read(None, 10)
    assert "very-private-4711" not in str(told.value)


@pytest.mark.parametrize("kind", ["TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "DATE", "NUMERIC(20,4)"])
def test_every_cursor_type_survives_the_way_through_json(database_url: str, kind: str) -> None:
    value = {"DATE": "2026-01-0", "NUMERIC(20,4)": "1234567890.000"}.get(kind, "2026-01-01 00:00:00.12345")
    execute(
        database_url,
        f"CREATE TABLE items (id TEXT, name TEXT, changed {kind})",
        *[f"INSERT INTO items VALUES ('k{i}', 'x', '{value}{i}')" for i in range(1, 8)],
    )
    with reading(database_url, cursor="changed") as reader:
        assert all_keys(reader, 2) == [f"k{i}" for i in range(1, 8)]


def test_rows_without_a_place_are_named(database_url: str) -> None:
    fill(database_url, ("a", "x", None), (None, "x", 1), ("b", "x", 2), ("b", "x", 3))
    with reading(database_url, cursor="changed") as reader:
        problem = reader.order_problem()
        assert problem is not None
        assert "1 rows without a id" in problem.message
        assert any("id is not unique: 1 keys are there more than once, first b" in line for line in reader.check())
    with reading(database_url) as reader, pytest.raises(SourceError, match="several rows with id b"):
        reader.read(None, 3)


def test_check_names_what_is_missing(database_url: str) -> None:
    fill(database_url, ("a", "x", 1))
    with reading(database_url) as reader:
        assert reader.check() == []
    with reading(database_url, fields={"Name": "nmae"}) as reader:
        assert reader.check() == ["source db, table items has no column nmae (did you mean name?)"]
    with reading(database_url, table="itmes") as reader:
        assert reader.check() == ["source db has no table itmes (did you mean items?)"]
    with reading(database_url, query="SELECT nonsense") as reader:
        [problem] = reader.check()
        assert problem.startswith("source db could not be read")


def test_names_with_quotes_and_semicolons_are_names(database_url: str) -> None:
    execute(
        database_url,
        'CREATE TABLE "od""d; --" ("i d" TEXT, "na;me" TEXT)',
        """INSERT INTO "od""d; --" VALUES ('a', 'x')""",
    )
    with reading(database_url, table='od"d; --', key="i d", fields={"Name": "na;me"}) as reader:
        assert [record.values for record in reader.read(None, 5)] == [{"Key__c": "a", "Name": "x"}]
        assert reader.check() == []


def test_values_without_a_form_in_json_are_refused_by_field(database_url: str) -> None:
    kind = "BYTEA" if "postgres" in database_url else "BLOB"
    execute(database_url, f"CREATE TABLE items (id TEXT, name {kind})")
    execute(
        database_url,
        "INSERT INTO items VALUES ('a', '\\xff')" if kind == "BYTEA" else "INSERT INTO items VALUES ('a', x'ff')",
    )
    with reading(database_url) as reader:
        [record] = reader.read(None, 5)
        assert record.unsendable is not None
        assert (record.unsendable.code, record.unsendable.fields) == ("UNSENDABLE_VALUE", ("Name",))
        assert record.values == {}
        assert reader.check() == ["source db, table items: column name holds bytes, which cannot be exported"]


def test_typed_columns_become_what_salesforce_takes(database_url: str) -> None:
    execute(
        database_url,
        "CREATE TABLE items (id TEXT, at TIMESTAMP, day DATE, ok BOOLEAN, price NUMERIC(30,10), n BIGINT)",
        "INSERT INTO items VALUES ('a', '2026-11-23 19:05:00', '2026-11-23', TRUE, 12.5, 9007199254740993)",
    )
    fields = {"At__c": "at", "Day__c": "day", "Ok__c": "ok", "Price__c": "price", "N__c": "n"}
    with reading(database_url, fields=fields) as reader:
        [record] = reader.read(None, 5)
    assert record.values == {
        "Key__c": "a",
        "At__c": "2026-11-23T19:05:00.000+00:00",
        "Day__c": "2026-11-23",
        "Ok__c": True,
        "Price__c": 12.5,
        "N__c": 9007199254740993,
    }


def test_rewind_goes_back_by_the_lookback(database_url: str) -> None:
    execute(
        database_url,
        "CREATE TABLE items (id TEXT, name TEXT, changed TIMESTAMP)",
        *[f"INSERT INTO items VALUES ('k{i}', 'x', '2026-01-01 00:0{i}:00')" for i in range(6)],
    )
    with reading(database_url, cursor="changed") as reader:
        last = reader.read(None, 6)[-1].position
        back = reader.rewind(last, timedelta(minutes=2, seconds=30))
        assert [record.key for record in reader.read(back, 9)] == ["k3", "k4", "k5"]


def test_an_unreachable_source_is_named_without_its_password() -> None:
    for url in ("postgresql://me:hunter2@127.0.0.1:9/db", "sqlite:////nowhere/none.db", "nonsense://x"):
        with reading(url) as reader, pytest.raises(SourceError) as raised:
            reader.read(None, 1)
        assert raised.value.code == "SOURCE_UNREACHABLE"
        assert "hunter2" not in str(raised.value)
        assert "\n" not in str(raised.value)


def test_moments_without_a_zone_are_utc_and_decimals_lose_nothing() -> None:
    from crm_export.sources.values import UnsendableValueError, to_json

    assert to_json(datetime(1650, 1, 1, 12)) == "1650-01-01T12:00:00.000+00:00"
    assert to_json(datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)) == "2026-01-01T12:00:00.123+00:00"
    assert to_json(date(2026, 1, 2)) == "2026-01-02"
    assert to_json(Decimal("0.1")) == 0.1
    assert to_json(Decimal("12345678901234567.89")) == "12345678901234567.89"
    assert to_json(Decimal("3.00")) == 3
    assert to_json({"a": [1]}) == '{"a":[1]}'
    for bad in (float("nan"), Decimal("Infinity"), b"x", "a\0b", "\ud800", object()):
        with pytest.raises(UnsendableValueError):
            to_json(bad)
