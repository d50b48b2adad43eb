"""Who is told of a change: who has ended is passed over, any other failure is tried again."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from activities import reexport
from activities.reexport import ReexportActivities
from activities.requests import ReexportReleased, ReexportRequest, SettingRequest
from activities.settings import SettingsActivities
from crm_export.clients import Clients
from crm_export.model import JobTrouble, OrderValue, Position, ReexportPage, Refusal, RunRef, Settings
from crm_export.store import Store
from tests.parts import Org
from tests.workflows.conftest import config_of

OFF = SettingRequest(connection="acme", setting="pause_on_error", value=False, by="Ada")


class Temporal:
    """A client of a server on which three exports run, by its list; a signal to some of them fails."""

    def __init__(self, failing: dict[str, RPCStatusCode]) -> None:
        self.failing = failing
        self.signalled: list[str] = []

    async def list_workflows(self, query: str) -> AsyncIterator[Any]:
        for job in ("a", "b", "c"):
            yield SimpleNamespace(id=f"export/acme/{job}")

    def get_workflow_handle(self, workflow_id: str) -> Any:
        async def signal(name: str, *args: Any) -> None:
            if workflow_id in self.failing:
                raise RPCError("no", self.failing[workflow_id], b"")
            self.signalled.append(workflow_id)

        return SimpleNamespace(signal=signal)


@pytest.fixture
def clients(org: Org, source_file: Path, tmp_path: Path) -> Iterator[Clients]:
    """Each of three jobs has a run that holds a record."""
    store = Store(f"sqlite:///{tmp_path}/store.db")
    store.migrate()
    store.settings.create("acme", Settings())
    for job in ("a", "b", "c"):
        run = RunRef(connection="acme", job=job, run_id="1", workflow_id=f"export/acme/{job}")
        store.runs.begin(run, first_position=lambda last, completed: None)
        ledger = store.runs.claim(run, "Account")
        ledger.hold("K1", Position(key=OrderValue.of("K1")), Refusal(code="X", message="m"))
    yield Clients(config_of(org, source_file, tmp_path / "store.db", "acme"), store)
    store.close()


def environment(temporal: Temporal) -> ActivityEnvironment:
    client: Any = temporal
    return ActivityEnvironment(client)


async def test_an_export_that_has_ended_is_passed_over_and_named_by_nothing(clients: Clients) -> None:
    temporal = Temporal({"export/acme/b": RPCStatusCode.NOT_FOUND})
    told = await environment(temporal).run(SettingsActivities(clients).tell_exports, OFF)
    assert told.told == ("export/acme/a", "export/acme/c")
    assert told.released == ("a K1", "c K1")


async def test_exports_that_could_not_be_told_are_told_again(clients: Clients) -> None:
    temporal = Temporal({"export/acme/b": RPCStatusCode.UNAVAILABLE})
    with pytest.raises(RPCError):
        await environment(temporal).run(SettingsActivities(clients).tell_exports, OFF)
    temporal.failing.clear()
    told = await environment(temporal).run(SettingsActivities(clients).tell_exports, OFF)
    assert told.released == ("a K1", "b K1", "c K1")


async def test_paused_runs_are_told_until_each_has_heard(clients: Clients) -> None:
    released = ReexportReleased(connection="acme", jobs=("a", "b", "no-such-job"))
    temporal = Temporal({"export/acme/a": RPCStatusCode.NOT_FOUND, "export/acme/b": RPCStatusCode.UNAVAILABLE})
    with pytest.raises(RPCError):
        await environment(temporal).run(ReexportActivities(clients).tell_paused_runs, released)
    del temporal.failing["export/acme/b"]
    await environment(temporal).run(ReexportActivities(clients).tell_paused_runs, released)
    assert temporal.signalled == ["export/acme/b"]


async def test_what_a_page_did_before_its_trouble_is_kept(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that raises instead would forget its counts, and the paused runs that it released."""
    page = ReexportPage(after=1, exported=1, released=("a",), trouble=JobTrouble(code="OUT", message="m"))

    async def half_a_page(*args: Any, **more: Any) -> ReexportPage:
        return page

    monkeypatch.setattr(reexport, "reexport_page", half_a_page)
    request = ReexportRequest(connection="acme", run_id="1", until=9, patient=True)
    assert await environment(Temporal({})).run(ReexportActivities(clients).reexport_page, request) == page
