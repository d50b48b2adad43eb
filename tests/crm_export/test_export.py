"""The heart against a model of ten lines: whatever the CRM refuses, the page does what the contract says."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson
import pytest

from crm_export.config import Job
from crm_export.export import export_page
from crm_export.held import export_held_record
from crm_export.model import (
    HeldFate,
    PageResult,
    Position,
    Record,
    Refusal,
    RolledBack,
    RunRef,
    Settings,
    UpsertResult,
    Written,
)
from crm_export.salesforce import ObjectDescription
from crm_export.store import Store

RUN = RunRef(connection="acme", job="accounts", run_id="run", workflow_id="w")


class FakeSource:
    """Records k000, k001, … in order."""

    def __init__(self, count: int) -> None:
        self.keys = [f"k{i:03d}" for i in range(count)]

    def read(self, after: Position | None, limit: int) -> list[Record]:
        behind = str(after.key.python()) if after else ""
        return [self._record(key) for key in self.keys if key > behind][:limit]

    def read_keys(self, keys: Sequence[str]) -> dict[str, Record]:
        return {key: self._record(key) for key in keys if key in self.keys}

    def _record(self, key: str) -> Record:
        return Record(key, (key,), orjson.dumps({"Key__c": key}))


class FakeCrm:
    """Refuses ``bad`` records by themselves; a call with a record of ``toxic`` or longer than ``limit`` as a whole."""

    def __init__(self, bad: set[str], toxic: set[str], limit: int) -> None:
        self.bad, self.toxic, self.limit = bad, toxic, limit
        self.reason = Refusal(code="STRING_TOO_LONG", message="no")
        self.written: list[str] = []
        self.calls = 0

    async def upsert(
        self, object_name: str, external_id: str, records: Sequence[bytes], *, all_or_none: bool
    ) -> list[UpsertResult]:
        self.calls += 1
        keys = [str(orjson.loads(record)["Key__c"]) for record in records]
        alone: dict[str, Refusal] = dict.fromkeys(self.bad, self.reason)
        if len(keys) > self.limit or any(key in self.toxic and key not in alone for key in keys):
            threw = Refusal(code="CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", message="threw")
            return [alone.get(key, threw) for key in keys]
        failed = all_or_none and any(key in alone for key in keys)
        results: list[UpsertResult] = []
        for key in keys:
            results.append(alone.get(key) or (RolledBack() if failed else Written()))
            if isinstance(results[-1], Written):
                self.written.append(key)
        return results

    async def describe(self, object_name: str) -> ObjectDescription:
        raise AssertionError("no permission is missing here")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path}/store.db")
    store.migrate()
    yield store
    store.close()


def job(concurrency: int) -> Job:
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
            "batch_size": 8,
            "concurrency": concurrency,
        }
    )


@pytest.mark.parametrize("seed", range(40))
async def test_pages_do_what_the_contract_says(store: Store, seed: int) -> None:
    rng = random.Random(seed)
    source = FakeSource(rng.randint(0, 60))
    bad = {key for key in source.keys if rng.random() < 0.1}
    toxic = {key for key in source.keys if rng.random() < 0.05}
    crm = FakeCrm(bad, toxic, limit=rng.choice([1, 3, 8]))
    pause, one = rng.random() < 0.6, job(rng.choice([1, 1, 3]))
    store.settings.create("acme", Settings(pause_on_error=pause))
    store.runs.begin(RUN, first_position=lambda position, completed: position)
    refused = [key for key in source.keys if key in bad | toxic]

    async def page() -> PageResult:
        ledger = store.runs.claim(RUN, "Account")
        return await export_page(one, source, crm, ledger, seconds=60, should_stop=lambda: False)

    if pause:
        for key in refused:
            result = await page()
            assert result.held is not None
            assert result.held.record_key == key
            before = [k for k in source.keys if k < key and k not in bad | toxic]
            if one.concurrency == 1:
                assert crm.written == before
            else:
                assert set(crm.written) >= set(before)
            # Still refused: one more attempt counts. Then the operator lets go.
            assert isinstance(await export_held_record(one, source, crm, store.runs.claim(RUN, "Account")), Refusal)
            assert store.errors.held("acme")[0].attempts == 2
            store.runs.claim(RUN, "Account").let_go(None)
    result = await page()
    assert result.finished
    assert result.held is None
    assert set(crm.written) == set(source.keys) - bad - toxic
    assert [error.record_key for error in store.errors.list(connections=["acme"])] == refused
    assert (result.counts.exported, result.counts.refused) == (len(source.keys) - len(refused), len(refused))


async def test_a_held_record_that_the_setting_releases_is_left_out(store: Store) -> None:
    source, crm, one = FakeSource(3), FakeCrm({"k001"}, set(), 8), job(1)
    store.settings.create("acme", Settings())
    store.runs.begin(RUN, first_position=lambda position, completed: position)
    ledger = store.runs.claim(RUN, "Account")
    await export_page(one, source, crm, ledger, seconds=60, should_stop=lambda: False)
    store.settings.change("acme", "pause_on_error", False, "test")
    calls = crm.calls
    assert await export_held_record(one, source, crm, store.runs.claim(RUN, "Account")) is HeldFate.LEFT_OUT
    assert crm.calls == calls


async def test_a_page_that_is_asked_to_stop_keeps_what_it_did(store: Store) -> None:
    source, crm, one = FakeSource(40), FakeCrm(set(), set(), 8), job(1)
    store.settings.create("acme", Settings())
    store.runs.begin(RUN, first_position=lambda position, completed: position)
    ledger = store.runs.claim(RUN, "Account")
    result = await export_page(one, source, crm, ledger, seconds=60, should_stop=lambda: crm.calls >= 2)
    assert (result.counts.exported, result.finished) == (16, False)
    assert crm.written == source.keys[:16]
