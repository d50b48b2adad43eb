"""What an export has done is in the store soon, in order, or no call goes on."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError

from crm_export import journal
from crm_export.errors import StoreError, SupersededError
from crm_export.journal import FIRST_KEYS, Journal
from crm_export.model import Record, Refusal, RunRef, Settings
from crm_export.store import RunLedger, Store

RUN = RunRef(connection="acme", job="accounts", run_id="run", workflow_id="w")
NO = Refusal(code="STRING_TOO_LONG", message="no")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path}/store.db")
    store.migrate()
    store.settings.create("acme", Settings())
    store.runs.begin(RUN, first_position=lambda position, completed: position)
    yield store
    store.close()


@pytest.fixture
def ledger(store: Store) -> RunLedger:
    return store.runs.claim(RUN, "Account")


def records(first: int, count: int) -> list[Record]:
    return [Record(f"k{i:06d}", (f"k{i:06d}",), b"{}") for i in range(first, first + count)]


def position(store: Store) -> str | None:
    state = store.runs.state("acme", "accounts")
    assert state is not None
    return str(state.position) if state.position else None


async def test_the_position_is_stored_while_calls_go_on(
    store: Store, ledger: RunLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_STORE_AFTER", 0.0)
    kept = Journal(ledger)
    kept.add(records(0, 10), {})
    await kept.keep_up()
    while position(store) != "k000009":
        await asyncio.sleep(0.001)
    await kept.flush()


async def test_no_call_starts_once_another_attempt_has_taken_over(
    store: Store, ledger: RunLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there was nothing to store: a process that was stopped for a while asks before it sends."""
    monkeypatch.setattr(journal, "_STORE_AFTER", 0.0)
    monkeypatch.setattr(journal, "_SURE_FOR", 0.0)
    kept = Journal(ledger)
    await asyncio.to_thread(store.runs.claim, RUN, "Account")
    with pytest.raises(SupersededError):
        await kept.keep_up()


async def test_what_could_not_be_stored_is_stored_with_the_next(
    store: Store, ledger: RunLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Journal(ledger)
    kept.add(records(0, 3), {"k000001": NO})
    advance = ledger.advance

    def fails(*_: Any, **__: Any) -> None:
        raise StoreError("the store is full")

    monkeypatch.setattr(ledger, "advance", fails)
    with pytest.raises(StoreError):
        await kept.flush()
    assert position(store) is None
    monkeypatch.setattr(ledger, "advance", advance)
    kept.add(records(3, 2), {"k000004": NO})
    await kept.flush()
    assert position(store) == "k000004"
    assert [error.record_key for error in store.errors.list(connections=["acme"])] == ["k000001", "k000004"]
    assert ledger.counts.exported == 3
    assert kept.refused_by_code == {"STRING_TOO_LONG": 2}


async def test_what_could_not_be_committed_is_counted_once(store: Store, ledger: RunLedger) -> None:
    kept = Journal(ledger)
    kept.add(records(0, 10), {"k000001": NO})
    failures = [OperationalError("COMMIT", {}, Exception("server closed the connection unexpectedly"))]

    @event.listens_for(store.database.engine, "commit")
    def fails(_: Connection) -> None:
        if failures:
            raise failures.pop()

    with pytest.raises(StoreError):
        await kept.flush()
    assert position(store) is None
    await kept.flush()
    state = store.runs.state("acme", "accounts")
    assert state is not None
    assert (state.counts.exported, state.counts.refused) == (9, 1)


async def test_a_held_record_is_stored_after_all_that_came_before_it(store: Store, ledger: RunLedger) -> None:
    """Not with the page's end: a process that dies in between would lose what was left out."""
    kept = Journal(ledger)
    *before, held = records(0, 4)
    kept.add(before, {"k000001": NO})
    await kept.hold(held, NO)
    assert position(store) == "k000002"
    assert [error.record_key for error in store.errors.list(connections=["acme"])] == ["k000001", "k000003"]


async def test_a_storm_is_stored_in_bulk_and_told_small(store: Store, ledger: RunLedger) -> None:
    """Every one of 6,000 records refused: every row is there, and the page's report names a few."""
    writes: list[int] = []
    advance = ledger.advance

    def counted(*arguments: Any, **named: Any) -> None:
        writes.append(len(named["refused"]))
        advance(*arguments, **named)

    ledger.advance = counted  # type: ignore[method-assign]
    kept = Journal(ledger)
    for start in range(0, 6_000, 200):
        some = records(start, 200)
        kept.add(some, {record.key: NO for record in some})
        await kept.keep_up()
    await kept.flush()
    assert store.errors.count_open("acme") == 6_000
    assert kept.refused_by_code == {"STRING_TOO_LONG": 6_000}
    assert len(kept.first_keys) == FIRST_KEYS
    assert sum(writes) == 6_000
    assert len(writes) < 15, "half a write a batch is no bulk"


async def test_calls_go_on_while_many_are_stored_but_not_without_end(store: Store, ledger: RunLedger) -> None:
    """A storm's write takes as long as the calls that it is about: waited for, it would double the time."""
    advance, may_go_on = ledger.advance, threading.Event()

    def slow(*arguments: Any, **named: Any) -> None:
        may_go_on.wait()
        advance(*arguments, **named)

    ledger.advance = slow  # type: ignore[method-assign]
    kept = Journal(ledger)
    many = records(0, 12_000)
    kept.add(many[:6_000], {record.key: NO for record in many[:6_000]})
    await kept.keep_up()
    kept.add(many[6_000:], {record.key: NO for record in many[6_000:]})
    waiting = asyncio.create_task(kept.keep_up())
    await asyncio.sleep(0.1)
    assert not waiting.done()
    may_go_on.set()
    await waiting
    await kept.flush()
    assert store.errors.count_open("acme") == 12_000
