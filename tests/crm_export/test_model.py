"""The heart against a model of ten lines, whatever is done to it and in which order (Hypothesis, stateful).

Page, held record, release, skip, toggles, re-export, rows that change, attempts that are cut off: after each step
the CRM, the table, position and counts are what the model says.
"""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import orjson
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import event

from crm_export.config import Job
from crm_export.errors import SupersededError
from crm_export.export import export_page
from crm_export.held import export_held_record
from crm_export.model import PageResult, Position, Record, Refusal, RolledBack, RunRef, Settings, UpsertResult, Written
from crm_export.reexport import reexport_page
from crm_export.salesforce import ObjectDescription
from crm_export.store import Store
from tests.crm_export.test_export import job as job_of

FINE, BAD, TOXIC = "fine", "bad", "toxic"
"""What the CRM makes of a row: takes it, refuses it, or refuses every record of its call."""
KEYS = [f"k{i:02d}" for i in range(12)]
Row = tuple[int, str]
Result = TypeVar("Result")


@dataclass
class Model:
    """The contract in ten lines."""

    rows: dict[str, Row] = field(default_factory=dict)
    crm: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    position: str = ""
    held: str | None = None
    pause: bool = True
    pause_of_run: bool | None = None
    counts: dict[str, int] = field(default_factory=lambda: {"exported": 0, "refused": 0, "gone": 0})

    @property
    def pauses(self) -> bool:
        return self.pause if self.pause_of_run is None else self.pause_of_run

    def page(self) -> None:
        for key in sorted(key for key in self.rows if key > self.position) if self.held is None else []:
            if not self.try_record(key) and self.pauses:
                self.held = key
                return
            self.pass_by(key, "exported" if key not in self.errors else "refused")

    def try_record(self, key: str) -> bool:
        version, kind = self.rows[key]
        if kind != FINE:
            self.errors[key] = self.errors.get(key, 0) + 1
            return False
        self.crm[key] = version
        self.errors.pop(key, None)
        return True

    def pass_by(self, key: str, became: str) -> None:
        self.position, self.held = key, None
        self.counts[became] += 1


@dataclass
class Rows:
    """The source."""

    rows: dict[str, Row]

    def read(self, after: Position | None, limit: int) -> list[Record]:
        behind = str(after.key.python()) if after else ""
        return [self._record(key) for key in sorted(self.rows) if key > behind][:limit]

    def read_keys(self, keys: Sequence[str]) -> dict[str, Record]:
        return {key: self._record(key) for key in keys if key in self.rows}

    def _record(self, key: str) -> Record:
        version, kind = self.rows[key]
        return Record(key, (key,), orjson.dumps({"Key__c": key, "version": version, "kind": kind}))


@dataclass
class Crm:
    """Keeps versions, in the order of their writes; ``meanwhile`` is done once, while a call is under way."""

    kept: dict[str, int] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)
    meanwhile: Callable[[], Coroutine[Any, Any, object]] | None = None

    async def upsert(
        self, object_name: str, external_id: str, records: Sequence[bytes], *, all_or_none: bool
    ) -> list[UpsertResult]:
        sent = [orjson.loads(record) for record in records]
        refused = {one["Key__c"]: Refusal(code="STRING_TOO_LONG", message="no") for one in sent if one["kind"] == BAD}
        if any(one["kind"] == TOXIC for one in sent):
            threw = Refusal(code="CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", message="threw")
            refused |= {one["Key__c"]: threw for one in sent if one["kind"] != BAD}
        results: list[UpsertResult] = []
        for one in sent:
            key = one["Key__c"]
            if key in refused:
                results.append(refused[key])
            elif refused and all_or_none:
                results.append(RolledBack())
            else:
                self.kept[key] = one["version"]
                self.written.append(key)
                results.append(Written())
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        return results

    async def describe(self, object_name: str) -> ObjectDescription:
        raise AssertionError("no permission is missing here")


@cache
def _empty_store() -> Path:
    file = Path(tempfile.mkdtemp()) / "store.db"
    store = Store(f"sqlite:///{file}")
    store.migrate()
    store.close()
    return file


def _without_waiting_for_the_disk(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA synchronous = OFF")


class Heart(RuleBasedStateMachine):
    """One job's exports; ``model`` says what should have become of them."""

    keys, kinds = st.sampled_from(KEYS), st.sampled_from([FINE, FINE, FINE, BAD, TOXIC])

    @initialize(concurrency=st.sampled_from([1, 1, 3]), kinds=st.lists(kinds, max_size=len(KEYS)))
    def begin(self, concurrency: int, kinds: list[str]) -> None:
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        shutil.copy(_empty_store(), f"{self.folder.name}/store.db")
        self.store = Store(f"sqlite:///{self.folder.name}/store.db")
        event.listen(self.store.database.engine, "connect", _without_waiting_for_the_disk)
        self.store.settings.create("acme", Settings())
        self.model = Model({key: (1, kind) for key, kind in zip(KEYS, kinds, strict=False)})
        self.source, self.crm = Rows(self.model.rows), Crm()
        self.job: Job = job_of(concurrency).model_copy(update={"batch_size": 4})
        self.runs = self.reexports = 0
        self._new_run()

    def _new_run(self) -> None:
        self.runs += 1
        self.run_ref = RunRef(connection="acme", job="accounts", run_id=f"run {self.runs}", workflow_id="w")
        self.store.runs.begin(self.run_ref, first_position=lambda last, completed: None if completed else last)

    # What may be done, in any order

    @rule(key=keys, kind=kinds)
    def change_row(self, key: str, kind: str) -> None:
        self.model.rows[key] = (self.model.rows.get(key, (0, ""))[0] + 1, kind)

    @precondition(lambda self: self.model.held)
    @rule(kind=kinds)
    def change_held_row(self, kind: str) -> None:
        self.change_row(str(self.model.held), kind)

    @rule(key=keys)
    def delete_row(self, key: str) -> None:
        self.model.rows.pop(key, None)

    @precondition(lambda self: self.model.held)
    @rule()
    def delete_held_row(self) -> None:
        self.delete_row(str(self.model.held))

    @rule(on=st.booleans())
    def set_pause(self, on: bool) -> None:
        self.store.settings.change("acme", "pause_on_error", on, "test")
        self.model.pause, self.model.pause_of_run = on, None

    @rule(on=st.sampled_from([True, False, None]))
    def set_pause_of_run(self, on: bool | None) -> None:
        self.store.runs.set_pause_on_error(self.run_ref, on)
        self.model.pause_of_run = on

    @rule()
    def page(self) -> None:
        before = len(self.crm.written)
        result = self._run(self._export_page())
        expected = sorted(key for key in self.model.rows if key > self.model.position and self.model.held is None)
        self._model_page()
        assert (result.held.record_key if result.held else None) == self.model.held
        assert result.finished == (self.model.held is None)
        written = self.crm.written[before:]
        if self.model.pauses and self.job.concurrency == 1:
            # In order, and not one record behind the held one.
            assert written == [key for key in expected if self.model.rows[key][1] == FINE and key <= self._end]

    def _model_page(self) -> None:
        """With more than one call in flight, those behind a held record may have landed."""
        self.model.page()
        if self.model.held and self.job.concurrency > 1:
            landed = {key: version for key, version in self.crm.kept.items() if key > self.model.held}
            for key in landed.keys() & self.model.rows.keys():
                assert self.model.crm.get(key, 0) <= landed[key] <= self.model.rows[key][0]
            self.model.crm |= landed

    @precondition(lambda self: self.model.held is None)
    @rule()
    def page_that_another_attempt_takes_over(self) -> None:
        """As after a kill, or a worker that was stopped for a while: the older attempt may not write a word more."""
        ledger = self._claim()
        self.crm.meanwhile = self._export_page
        with contextlib.suppress(SupersededError):
            self._run(export_page(self.job, self.source, self.crm, ledger, seconds=60, should_stop=lambda: False))
        self.crm.meanwhile = None
        self._model_page()

    @precondition(lambda self: self.model.held is None)
    @rule(on=st.booleans())
    def page_while_the_setting_changes(self, on: bool) -> None:
        """In the midst of the first call: what that call finds is decided by the setting as it is then."""
        before = len(self.crm.written)

        async def change() -> None:
            self.set_pause(on)

        self.crm.meanwhile = change
        result = self._run(self._export_page())
        changed, self.crm.meanwhile = self.crm.meanwhile is None, None
        assert on or not changed or result.held is None
        self._adopt(before)

    def _adopt(self, before: int) -> None:
        """Take over where the engine stands, once that is right."""
        state = self.store.runs.state("acme", "accounts")
        assert state is not None
        position = str(state.position) if state.position else ""
        held = state.held.record_key if state.held else None
        errors = {row.record_key: row.attempts for row in self.store.errors.list(connections=["acme"])}
        for key, (version, kind) in self.model.rows.items():
            if self.model.position < key <= position:
                assert (self.crm.kept.get(key) == version) if kind == FINE else (key in errors)
        assert held is None or self.model.rows[held][1] != FINE
        if held and self.job.concurrency == 1:
            assert all(key < held for key in self.crm.written[before:])
        self.model.position, self.model.held, self.model.errors = position, held, errors
        self.model.crm, self.model.counts = dict(self.crm.kept), state.counts.model_dump()

    @precondition(lambda self: self.model.held)
    @rule()
    def attempt(self) -> None:
        key = str(self.model.held)
        self._run(export_held_record(self.job, self.source, self.crm, self._claim()))
        self._attempted(key)

    @precondition(lambda self: self.model.held)
    @rule(before=kinds, kind=kinds)
    def attempt_while_the_row_changes(self, before: str, kind: str) -> None:
        key = str(self.model.held)
        self.change_row(key, before)
        version, _ = self.model.rows[key]

        async def change() -> None:
            self.change_row(key, kind)

        self.crm.meanwhile = change if self.model.pauses else None
        self._run(export_held_record(self.job, self.source, self.crm, self._claim()))
        if not self.model.pauses or before == FINE:
            self.model.crm |= {key: version} if before == FINE and self.model.pauses else {}
            self._attempted(key)
        else:
            # It was refused as it was; its new version is for the next attempt.
            self.model.errors[key] = self.model.errors.get(key, 0) + 1

    def _attempted(self, key: str) -> None:
        if not self.model.pauses:
            self.model.pass_by(key, "refused")
        elif key not in self.model.rows:
            self.model.errors.pop(key, None)
            self.model.pass_by(key, "gone")
        elif self.model.try_record(key):
            self.model.pass_by(key, "exported")

    @precondition(lambda self: self.model.held)
    @rule()
    def skip(self) -> None:
        self._claim().let_go(None)
        self.model.pass_by(str(self.model.held), "refused")

    @rule()
    def reexport(self) -> None:
        self.reexports += 1
        self._run(
            reexport_page(
                "acme",
                f"reexport {self.reexports}",
                lambda _: (self.job, self.source),
                self.crm,
                self.store,
                after=0,
                until=self.store.errors.last_id("acme"),
                should_stop=lambda: False,
            )
        )
        for key in list(self.model.errors):
            if key not in self.model.rows:
                del self.model.errors[key]
            else:
                self.model.try_record(key)

    @rule(completed=st.booleans())
    def end_run(self, completed: bool) -> None:
        """At its end, or cancelled: then the next one carries on, before a record that was held."""
        self.store.runs.finish(self.run_ref, completed=completed)
        self._new_run()
        self.model.held = self.model.pause_of_run = None
        self.model.position = "" if completed else self.model.position
        self.model.counts = dict.fromkeys(self.model.counts, 0)

    # What must hold after each

    @invariant()
    def as_the_model_says(self) -> None:
        if not hasattr(self, "store"):
            return
        state = self.store.runs.state("acme", "accounts")
        assert state is not None
        assert (str(state.position) if state.position else "") == self.model.position
        assert (state.held.record_key if state.held else None) == self.model.held
        assert state.counts.model_dump() == self.model.counts
        open_rows = self.store.errors.list(connections=["acme"])
        assert {row.record_key: row.attempts for row in open_rows} == self.model.errors
        assert [row.record_key for row in self.store.errors.held("acme")] in ([], [self.model.held])
        for key in self.crm.kept.keys() | self.model.crm.keys():
            assert self.crm.kept.get(key) == self.model.crm.get(key), key

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.runner.close()
            self.store.close()
            self.folder.cleanup()

    def _claim(self) -> Any:
        return self.store.runs.claim(self.run_ref, "Account")

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.runner.run(work)

    async def _export_page(self) -> PageResult:
        ledger = self._claim()
        return await export_page(self.job, self.source, self.crm, ledger, seconds=60, should_stop=lambda: False)

    @property
    def _end(self) -> str:
        """The last key that may have been written by the present run: calls in flight apart."""
        return self.model.held or "~"


# The same examples each time: a test that fails fails for everybody.
Heart.TestCase.settings = settings(
    max_examples=120, stateful_step_count=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
TestHeart = Heart.TestCase
