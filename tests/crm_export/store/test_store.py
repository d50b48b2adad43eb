"""The store, on SQLite and PostgreSQL: one transaction for a position and its errors, and nothing twice."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from crm_export.errors import CrmError, StoreError, SupersededError
from crm_export.model import (
    ClosedBy,
    ErrorFilter,
    ExportError,
    OrderValue,
    Position,
    ReexportOnly,
    Refusal,
    RunRef,
    Settings,
)
from crm_export.store import RunLedger, Store
from crm_export.store.schema import metadata

RUN = RunRef(connection="acme", job="accounts", run_id="run-1", workflow_id="export/acme/accounts")
NO = Refusal(code="NO", message="no", fields=("Name",), hint="mend it")


def at(key: str) -> Position:
    return Position(key=OrderValue.of(key))


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url)
    store.migrate()
    store.settings.create("acme", Settings())
    yield store
    store.close()


@pytest.fixture
def ledger(store: Store) -> RunLedger:
    begin(store)
    return store.runs.claim(RUN, "Account")


def begin(store: Store, run: RunRef = RUN) -> None:
    store.runs.begin(run, first_position=lambda position, completed: position)


def errors(store: Store) -> dict[str, ExportError]:
    return {error.record_key: error for error in store.errors.list(connections=["acme"], closed_too=True)}


def test_migrations_build_the_tables_and_may_be_repeated(store: Store) -> None:
    store.migrate()
    store.require_migrated()
    with store.database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_store_that_is_not_set_up_says_so(tmp_path: Path, database_url: str) -> None:
    for url in (database_url, f"sqlite:///{tmp_path}/none.db"):
        store = Store(url)
        with pytest.raises(StoreError, match="run crm-export setup"):
            store.require_migrated()
        store.close()
    assert not (tmp_path / "none.db").exists()


def test_errors_name_the_store_and_hold_no_password() -> None:
    for url in ("postgresql://me:hunter2@127.0.0.1:9/db", "mysql://me:hunter2@host/db", "nonsense"):
        with pytest.raises(StoreError) as raised:
            Store(url).require_migrated()
        assert "hunter2" not in str(raised.value)
        assert "\n" not in str(raised.value)


def test_the_position_and_the_errors_move_together(store: Store, ledger: RunLedger) -> None:
    ledger.advance(at("b"), exported=["a"], refused={"b": NO})
    state = store.runs.state("acme", "accounts")
    assert state is not None
    assert (state.position, state.counts.exported, state.counts.refused) == (at("b"), 1, 1)
    error = errors(store)["b"]
    assert (error.state, error.attempts, error.fields, error.hint) == ("open", 1, ("Name",), "mend it")


def test_a_repeated_failure_counts_up_and_a_success_closes_one_row(store: Store, ledger: RunLedger) -> None:
    ledger.advance(at("b"), exported=[], refused={"b": NO, "c": NO})
    ledger.advance(at("b"), exported=[], refused={"b": Refusal(code="OTHER", message="else")})
    assert (errors(store)["b"].attempts, errors(store)["b"].code) == (2, "OTHER")
    ledger.advance(at("b"), exported=["b"], refused={})
    assert (errors(store)["b"].state, errors(store)["b"].closed_by) == ("closed", "export")
    assert errors(store)["c"].state == "open"
    ledger.advance(at("b"), exported=[], refused={"b": NO})
    rows = [e for e in store.errors.list(connections=["acme"], closed_too=True) if e.record_key == "b"]
    assert [row.state for row in rows] == ["closed", "open"]


def test_holding_and_letting_go(store: Store, ledger: RunLedger) -> None:
    ledger.advance(at("b"), exported=["a", "b"], refused={})
    ledger.hold("c", at("c"), NO)
    ledger.refused_again(NO)
    state = store.runs.state("acme", "accounts")
    assert state is not None
    assert state.held is not None
    assert (state.position, state.held.record_key, state.held.attempts) == (at("b"), "c", 2)
    assert errors(store)["c"].state == "held"
    ledger.let_go(None)
    state = store.runs.state("acme", "accounts")
    assert state is not None
    assert (state.position, state.held, state.counts.refused) == (at("c"), None, 1)
    assert errors(store)["c"].state == "open"


def test_an_attempt_that_was_taken_over_writes_nothing_more(store: Store, ledger: RunLedger) -> None:
    store.runs.claim(RUN, "Account")
    for write in (
        lambda: ledger.advance(at("z"), exported=["z"], refused={"y": NO}),
        lambda: ledger.hold("z", at("z"), NO),
        ledger.read_pause_on_error,
    ):
        with pytest.raises(SupersededError):
            write()
    assert errors(store) == {}
    begin(store, RUN.model_copy(update={"run_id": "run-2"}))
    with pytest.raises(SupersededError):
        store.runs.claim(RUN, "Account")


def test_beginning_a_run_twice_changes_nothing_and_a_new_one_opens_what_was_held(
    store: Store, ledger: RunLedger
) -> None:
    ledger.advance(at("a"), exported=["a"], refused={})
    ledger.hold("b", at("b"), NO)
    begin(store)
    state = store.runs.state("acme", "accounts")
    assert state is not None
    assert (state.counts.exported, state.held is not None) == (1, True)
    begin(store, RUN.model_copy(update={"run_id": "run-2"}))
    state = store.runs.state("acme", "accounts")
    assert state is not None
    assert (state.position, state.counts.exported, state.held) == (at("a"), 0, None)
    assert errors(store)["b"].state == "open"


def test_a_full_export_begins_before_the_first_row_once(store: Store, ledger: RunLedger) -> None:
    ledger.advance(at("m"), exported=["m"], refused={})
    store.runs.request_full("acme", "accounts", True)
    for run_id, position in (("run-2", None), ("run-3", None)):
        begin(store, RUN.model_copy(update={"run_id": run_id}))
        state = store.runs.state("acme", "accounts")
        assert state is not None
        assert state.position == position


def test_the_setting_of_a_run_counts_until_the_connections_changes(store: Store, ledger: RunLedger) -> None:
    assert ledger.read_pause_on_error() is True
    store.runs.set_pause_on_error(RUN, False)
    assert ledger.read_pause_on_error() is False
    store.settings.change("acme", "pause_on_error", True, "Ada")
    assert ledger.read_pause_on_error() is True
    store.settings.change("acme", "pause_on_error", False, "Ada")
    ledger.advance(at("a"), exported=["a"], refused={})
    assert ledger.pause_on_error is False
    assert [(change.old, change.new, change.by) for change in store.settings.changes("acme")] == [("on", "off", "Ada")]


def test_first_settings_are_stored_once(store: Store) -> None:
    assert store.settings.create("acme", Settings(pause_on_error=False)).pause_on_error is True
    with pytest.raises(StoreError, match="run crm-export setup"):
        store.settings.get("other")


def test_a_reexport_pages_through_what_is_open_and_tries_nothing_twice(store: Store, ledger: RunLedger) -> None:
    ledger.advance(at("z"), exported=[], refused={f"k{i}": NO for i in range(5)})
    until = store.errors.last_id("acme")
    ledger.advance(at("z"), exported=[], refused={"later": NO})
    first = store.errors.due("acme", "re-1", 0, until, 3)
    assert [error.record_key for error in first] == ["k0", "k1", "k2"]
    store.errors.settle("re-1", exported=[first[0].id], gone=[first[1].id], refused={first[2].id: NO})
    # An attempt after a kill sees only what was not settled.
    assert [error.record_key for error in store.errors.due("acme", "re-1", 0, until, 9)] == ["k3", "k4"]
    found = errors(store)
    assert (found["k0"].closed_by, found["k1"].closed_by, found["k2"].attempts) == ("reexport", "gone", 2)
    [cause] = store.errors.causes("acme", 10, 2)
    assert (cause.code, cause.count, cause.first_keys) == ("NO", 4, ("k2", "k3"))
    assert store.errors.count_open("acme") == store.errors.count_open("acme", "accounts") == 4


def test_many_keys_are_closed_at_once(store: Store, ledger: RunLedger) -> None:
    keys = [f"k{i}" for i in range(2_500)]
    ledger.advance(at("z"), exported=[], refused=dict.fromkeys(keys, NO))
    ledger.advance(at("z"), exported=keys, refused={})
    assert store.errors.count_open("acme") == 0
    assert errors(store)["k7"].closed_by is ClosedBy.EXPORT


def test_the_daily_limit_is_exact_whoever_calls(store: Store) -> None:
    store.settings.change("acme", "daily_api_limit", 25, "Ada")
    for _ in range(25):
        store.api_usage.spend("acme")
    with pytest.raises(CrmError) as raised:
        store.api_usage.spend("acme")
    assert raised.value.code == "DAILY_API_LIMIT"
    assert raised.value.retry_after is not None
    assert store.api_usage.used("acme") == 25


def test_writers_at_a_time_wait_for_each_other(store: Store, ledger: RunLedger) -> None:
    def change(number: int) -> None:
        store.settings.change("acme", "daily_api_limit", number, "Ada")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(1, 65)))
    assert len(store.settings.changes("acme", most=100)) == 64


def test_lists_of_errors_are_filtered_and_paged(store: Store, ledger: RunLedger) -> None:
    ledger.advance(at("z"), exported=[], refused={f"k{i}": NO for i in range(5)})
    ledger.advance(at("z"), exported=["k4"], refused={"K3x": Refusal(code="OTHER", message="else")})
    ledger.hold("held", at("zz"), NO)

    def keys(before: int | None = None, limit: int = 9, **wanted: Any) -> list[str]:
        found = store.error_pages.newest(ErrorFilter(connection="acme", **wanted), limit, before)
        return [error.record_key for error in found]

    assert keys() == ["held", "K3x", "k3", "k2", "k1", "k0"]
    assert keys(state="held") == ["held"]
    assert keys(state="closed") == ["k4"]
    assert keys(state="open", code="NO") == ["k3", "k2", "k1", "k0"]
    assert keys(key="K3") == ["K3x", "k3"]
    assert keys(key="%") == keys(job="leads") == []
    assert len(keys(state="all")) == 7
    assert keys(since=datetime.now(UTC) - timedelta(hours=1)) == keys()
    assert keys(since=datetime.now(UTC) + timedelta(hours=1)) == []

    wanted = ErrorFilter(connection="acme")
    first = store.error_pages.newest(wanted, 2)
    second = store.error_pages.newest(wanted, 2, before=first[-1].id)
    assert [error.record_key for error in second] == ["k3", "k2"]
    assert store.error_pages.newer(wanted, 2, after=second[0].id) == first
    assert [error.record_key for error in store.error_pages.every(wanted)] == keys()[::-1]
    assert store.error_pages.one("acme", first[0].id) == first[0]
    assert store.error_pages.one("other", first[0].id) is None


def test_a_reexport_may_be_of_chosen_rows_or_of_a_cause(store: Store, ledger: RunLedger) -> None:
    ledger.advance(at("z"), exported=[], refused={"a": NO, "b": Refusal(code="OTHER", message="else"), "c": NO})
    ids = {key: error.id for key, error in errors(store).items()}

    def due(only: ReexportOnly) -> list[str]:
        return [error.record_key for error in store.errors.due("acme", "re", 0, max(ids.values()), 9, only)]

    assert due(ReexportOnly(ids=(ids["a"], ids["b"]))) == ["a", "b"]
    assert due(ReexportOnly(job="accounts", code="NO")) == ["a", "c"]
    assert due(ReexportOnly(job="leads")) == []


def test_all_jobs_states_are_read_at_once(store: Store, ledger: RunLedger) -> None:
    ledger.advance(at("b"), exported=["a", "b"], refused={})
    ledger.hold("c", at("c"), NO)
    assert store.runs.states(["acme", "other"]) == {("acme", "accounts"): store.runs.state("acme", "accounts")}


def test_what_is_asked_for_is_written_before_it_is_done(store: Store) -> None:
    row = store.actions.begin("acme", "accounts", "skip", "A007", "Ada")
    [action] = store.actions.last(["acme"])
    assert (action.by, action.target, action.outcome) == ("Ada", "A007", None)
    store.actions.end(row, "done")
    store.actions.end(store.actions.begin("acme", None, "re-export", "everything", "Bob"), "done")
    assert [(action.action, action.outcome) for action in store.actions.last(["acme"])] == [
        ("re-export", "done"),
        ("skip", "done"),
    ]
    assert store.actions.last(["other"]) == []


def test_the_session_key_is_made_once(store: Store) -> None:
    with ThreadPoolExecutor(4) as pool:
        keys = set(pool.map(lambda _: store.session_key.get(), range(8)))
    assert len(keys) == 1
    assert len(keys.pop()) == 64
