"""A page of the re-export that is cut short, and begun anew from the same place, repeats nothing."""

from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest

from crm_export.config import Job
from crm_export.model import Refusal, RunRef, Settings, UpsertResult, Written
from crm_export.reexport import reexport_page
from crm_export.salesforce import ObjectDescription
from crm_export.store import Store
from tests.crm_export.test_lanes import SIZE, Source, job

RUN = RunRef(connection="acme", job="accounts", run_id="run", workflow_id="w")
NO = Refusal(code="STRING_TOO_LONG", message="no")


class KilledError(Exception):
    """The worker is gone in the midst of its work."""


class Crm:
    """Refuses every third record; the process dies at the call ``dies_at``, once its answer is on the way."""

    def __init__(self, dies_at: int) -> None:
        self._dies_at = dies_at
        self.calls = 0
        self.sent: list[str] = []

    async def upsert(
        self, object_name: str, external_id: str, records: Sequence[bytes], *, all_or_none: bool
    ) -> list[UpsertResult]:
        self.calls += 1
        keys = [str(orjson.loads(record)["Key__c"]) for record in records]
        self.sent += keys
        if self.calls == self._dies_at:
            raise KilledError
        return [NO if int(key[1:]) % 3 == 0 else Written() for key in keys]

    async def describe(self, object_name: str) -> ObjectDescription:
        raise AssertionError("no permission is missing here")


async def test_an_attempt_after_a_kill_repeats_one_call_and_counts_no_attempt_twice(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/store.db")
    store.migrate()
    store.settings.create("acme", Settings())
    source, crm = Source([None] * 1_000), Crm(dies_at=120)
    store.runs.begin(RUN, first_position=lambda position, completed: None)
    refused = {record.key: NO for record in source.records}
    store.runs.claim(RUN, "Account").advance(source.records[-1].position, exported=(), refused=refused)

    def known(_: str) -> tuple[Job, Source]:
        return job(1), source

    async def attempt() -> None:
        until = store.errors.last_id("acme")
        await reexport_page(
            "acme", "this run", known, crm, store, after=0, until=until, should_stop=lambda: False, rows=1_000
        )

    with pytest.raises(KilledError):
        await attempt()
    await attempt()
    twice = [key for key in set(crm.sent) if crm.sent.count(key) > 1]
    assert len(twice) <= 200, "more than the call whose answer was lost"
    rows = store.errors.list(connections=["acme"], closed_too=True)
    assert {row.attempts for row in rows if row.state == "open"} == {2}
    assert sum(row.state == "closed" for row in rows) == sum(int(r.key[1:]) % 3 != 0 for r in source.records)
    store.close()


async def test_errors_of_two_jobs_that_lie_mixed_take_a_call_each(tmp_path: Path) -> None:
    """A call an error would spend the daily API limit."""
    store = Store(f"sqlite:///{tmp_path}/store.db")
    store.migrate()
    store.settings.create("acme", Settings())
    source, crm = Source([None] * 40), Crm(dies_at=0)
    for name in ("accounts", "leads"):
        of_job = RUN.model_copy(update={"job": name})
        store.runs.begin(of_job, first_position=lambda position, completed: None)
    for record in source.records:
        for name in ("accounts", "leads"):
            ledger = store.runs.claim(RUN.model_copy(update={"job": name}), "Account")
            ledger.advance(record.position, exported=(), refused={record.key: NO})
    until = store.errors.last_id("acme")
    page = await reexport_page(
        "acme", "this run", lambda _: (job(1), source), crm, store, after=0, until=until, should_stop=lambda: False
    )
    assert (page.exported, page.refused, page.after, page.finished) == (52, 28, until, True)
    assert crm.calls == 2 * 40 / SIZE
    store.close()


async def test_a_page_is_bounded_whatever_is_open(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/store.db")
    store.migrate()
    store.settings.create("acme", Settings())
    source, crm = Source([None] * 1_000), Crm(dies_at=0)
    store.runs.begin(RUN, first_position=lambda position, completed: None)
    refused = {record.key: NO for record in source.records}
    store.runs.claim(RUN, "Account").advance(source.records[-1].position, exported=(), refused=refused)
    page = await reexport_page(
        "acme",
        "this run",
        lambda _: (job(1), source),
        crm,
        store,
        after=0,
        until=store.errors.last_id("acme"),
        should_stop=lambda: False,
        rows=400,
    )
    assert (page.exported + page.refused, page.finished) == (400, False)
    assert len(page.model_dump_json()) < 1_000
    store.close()
