"""Calls at a time: how many may be in flight, what may land behind a refused record, and who shares a lane."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from crm_export.ahead import MOST_BYTES, Ahead, Stretch
from crm_export.config import Job
from crm_export.errors import CrmError
from crm_export.export import export_page
from crm_export.model import Position, Record, Refusal, RolledBack, RunRef, Settings, UpsertResult, Written
from crm_export.salesforce import ObjectDescription
from crm_export.store import Store

RUN = RunRef(connection="acme", job="accounts", run_id="run", workflow_id="w")
SIZE = 4


class Source:
    """Records in the order of their keys; each has a parent, or none."""

    def __init__(self, parents: Sequence[str | None], body: bytes = b"{}") -> None:
        self.records = [Record(f"k{i:04d}", (f"k{i:04d}",), body, None, parent) for i, parent in enumerate(parents)]
        if body == b"{}":
            for record in self.records:
                record.body = orjson.dumps({"Key__c": record.key})

    def read(self, after: Position | None, limit: int) -> list[Record]:
        behind = str(after.key.python()) if after else ""
        return [record for record in self.records if record.key > behind][:limit]

    def read_keys(self, keys: Sequence[str]) -> dict[str, Record]:
        return {record.key: record for record in self.records if record.key in keys}


class Crm:
    """Answers in an order of its own, and watches which keys are in flight together."""

    def __init__(self, seed: int, refused: set[str]) -> None:
        self._random = random.Random(seed)
        self._refused = refused
        self._in_flight: list[list[str]] = []
        self.written: list[str] = []
        self.together: list[list[list[str]]] = []

    async def upsert(
        self, object_name: str, external_id: str, records: Sequence[bytes], *, all_or_none: bool
    ) -> list[UpsertResult]:
        keys = [str(orjson.loads(record)["Key__c"]) for record in records]
        self._in_flight.append(keys)
        self.together.append([*self._in_flight])
        for _ in range(self._random.randint(0, 20)):
            await asyncio.sleep(0)
        self._in_flight.remove(keys)
        results: list[UpsertResult] = [
            Refusal(code="STRING_TOO_LONG", message="no") if key in self._refused else Written() for key in keys
        ]
        if all_or_none and any(isinstance(result, Refusal) for result in results):
            return [result if isinstance(result, Refusal) else RolledBack() for result in results]
        self.written += [key for key, result in zip(keys, results, strict=True) if isinstance(result, Written)]
        return results

    async def describe(self, object_name: str) -> ObjectDescription:
        raise AssertionError("no permission is missing here")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path}/store.db")
    store.migrate()
    store.runs.begin(RUN, first_position=lambda position, completed: position)
    yield store
    store.close()


def job(concurrency: int, **more: Any) -> Job:
    return Job.model_validate(
        {
            "name": "accounts",
            "connection": "acme",
            "source": "db",
            "table": "t",
            "key": "k",
            "object": "Account",
            "external_id": "Key__c",
            "fields": {"Name": "n"},
            "batch_size": SIZE,
            "concurrency": concurrency,
            **more,
        }
    )


async def export(store: Store, source: Source, crm: Crm, one: Job) -> Any:
    ledger = await asyncio.to_thread(store.runs.claim, RUN, "Account")
    return await export_page(one, source, crm, ledger, seconds=60, should_stop=lambda: False)


@pytest.mark.parametrize("seed", range(20))
async def test_one_parents_records_never_meet_in_two_calls(store: Store, seed: int) -> None:
    rng = random.Random(seed)
    parents = [rng.choice(["A", "B", "C", "D", "E", None]) for _ in range(150)]
    source, crm = Source(parents), Crm(seed, set())
    parent_of = {record.key: record.partition for record in source.records}
    page = await export(store, source, crm, job(4, partition_by="parent"))
    assert page.finished
    assert set(crm.written) == set(parent_of)
    for calls in crm.together:
        assert len(calls) <= 4
        shared = [{parent_of[key] for key in keys} - {None} for keys in calls]
        assert sum(map(len, shared)) == len(set().union(*shared))
    assert max(map(len, crm.together)) > 1, "the lanes were never used"
    for parent in set(parents) - {None}:
        of_parent = [key for key in crm.written if parent_of[key] == parent]
        assert of_parent == sorted(of_parent)


@pytest.mark.parametrize("partition_by", [None, "parent"])
@pytest.mark.parametrize("seed", range(20))
async def test_only_calls_in_flight_land_behind_a_refused_record(
    store: Store, seed: int, partition_by: str | None
) -> None:
    store.settings.create("acme", Settings())
    rng = random.Random(seed)
    source = Source([rng.choice("ABCDEFGH") for _ in range(120)])
    refused = f"k{rng.randint(10, 110):04d}"
    crm, concurrency = Crm(seed, {refused}), rng.choice([2, 3, 5])
    page = await export(store, source, crm, job(concurrency, partition_by=partition_by))
    assert page.held.record_key == refused
    before = {record.key for record in source.records if record.key < refused}
    assert before <= set(crm.written)
    assert refused not in crm.written
    assert len(set(crm.written) - before) <= (concurrency - 1) * SIZE


async def test_a_page_that_fails_ends_after_its_last_call(store: Store) -> None:
    """What is in flight beside the call that fails may write: whoever takes over must not overlap with it."""
    store.settings.create("acme", Settings())
    source, crm = Source([None] * 12), Crm(0, set())
    upsert, answered = crm.upsert, []

    async def fails_first(*arguments: Any, **named: Any) -> list[UpsertResult]:
        if not crm.together:
            crm.together.append([])
            raise CrmError("CONNECTION_FAILED", "no connection")
        await asyncio.sleep(0.05)
        answered.append(await upsert(*arguments, **named))
        return answered[-1]

    crm.upsert = fails_first  # type: ignore[method-assign]
    page = await export(store, source, crm, job(3))
    assert page.trouble.code == "CONNECTION_FAILED"
    assert len(answered) == 2
    assert page.position is None


async def test_a_batch_ends_below_the_size_of_a_request() -> None:
    """Records of 1 MB: five a call, though 200 are allowed."""
    source = Source([None] * 12, body=b"x" * 1_000_000)
    ahead = Ahead(source, None, job(1, batch_size=200), lanes=1)
    stretches: list[Stretch] = []
    while (stretch := await ahead.next(200)) is not None:
        stretches.append(stretch)
    await ahead.close()
    assert [len(stretch.records) for stretch in stretches] == [5, 5, 2]
    assert all(sum(len(record.body) for record in stretch.records) <= MOST_BYTES for stretch in stretches)


async def test_reading_ahead_is_bounded_by_bytes() -> None:
    """Large rows are read by the dozen, not by the thousand."""
    source = Source([None] * 400, body=b"x" * 400_000)
    reads: list[int] = []
    read = source.read

    def watched(after: Position | None, limit: int) -> list[Record]:
        reads.append(limit)
        return read(after, limit)

    source.read = watched  # type: ignore[method-assign]
    ahead = Ahead(source, None, job(1, batch_size=10), lanes=1)
    while await ahead.next(10) is not None:
        pass
    await ahead.close()
    assert set(reads[1:]) == {20}
