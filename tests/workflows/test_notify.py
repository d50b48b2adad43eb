"""People are told, once for each change, by the connection's webhook."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import CancelledError

from activities.requests import ErrorReport
from tests.parts import NO_CITY
from tests.workflows.conftest import Exporting
from tests.workflows.test_export import airports
from workflows.export_errors import ExportErrors


@pytest.fixture
async def webhook() -> AsyncIterator[tuple[str, list[str]]]:
    """Where people are told: its URL, and what it was told. Told of a job ``gone``, it is gone for that call."""
    told: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        told.append(json.loads(await reader.readexactly(length))["text"])
        status = b"404 Not Found" if " gone of " in told[-1] else b"200 OK"
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook", told
    server.close()
    await server.wait_closed()


@pytest.fixture
def connection_settings(webhook: tuple[str, list[str]]) -> dict[str, Any]:
    return {"notify": webhook[0]}


async def test_people_are_told_by_webhook(
    exporting: Exporting, source_file: Path, webhook: tuple[str, list[str]]
) -> None:
    _, told = webhook
    airports(source_file, 5, {2})
    await exporting.org.rule("city", NO_CITY)
    handle = await exporting.start()
    while not told:
        await asyncio.sleep(0.05)
    assert told[0].startswith("FIELD_CUSTOM_VALIDATION_EXCEPTION · Account A002: An airport needs a city.")
    await handle.signal("skip_record")
    await handle.result()
    while f"accounts of {exporting.connection} is no longer paused" not in told:
        await asyncio.sleep(0.05)


async def test_a_webhook_that_is_gone_ends_nothing_and_its_url_stays_secret(
    exporting: Exporting, webhook: tuple[str, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    url, told = webhook
    await exporting.start_entities()
    inbox = exporting.inbox
    await inbox.signal(ExportErrors.report, ErrorReport(connection=exporting.connection, job="gone", blocked="OUT · m"))
    await inbox.signal(ExportErrors.report, ErrorReport(connection=exporting.connection, job="here", blocked="OUT · m"))
    while "here of" not in (told or [""])[-1]:
        await asyncio.sleep(0.05)
    assert len([text for text in told if " gone of " in text]) == 5
    assert set((await inbox.query(ExportErrors.summary)).blocked) == {"gone", "here"}
    assert "the webhook did not take it (HTTP 404)" in caplog.text
    history = (await inbox.fetch_history()).to_json()
    for place in (history, caplog.text):
        assert url not in place


async def test_an_inbox_that_is_cancelled_while_it_tells_people_ends(
    exporting: Exporting, webhook: tuple[str, list[str]]
) -> None:
    await exporting.start_entities()
    inbox = exporting.inbox
    await inbox.signal(ExportErrors.report, ErrorReport(connection=exporting.connection, job="gone", blocked="OUT · m"))
    while not webhook[1]:
        await asyncio.sleep(0.05)
    await inbox.cancel()
    with pytest.raises(WorkflowFailureError) as ended:
        await inbox.result()
    assert isinstance(ended.value.cause, CancelledError)


async def test_no_blocked_run_is_forgotten_over_many_continue_as_news(
    exporting: Exporting, webhook: tuple[str, list[str]]
) -> None:
    """Unlike what was refused, what is blocked is in no table; each is told once."""
    await exporting.start_entities()
    inbox, jobs = exporting.client.get_workflow_handle(exporting.inbox.id), [f"job{number}" for number in range(50)]
    for job in jobs:
        await inbox.signal("report", ErrorReport(connection=exporting.connection, job=job, blocked="OUT · m"))
        await asyncio.sleep(0.02)
    while len(told := webhook[1]) < len(jobs):
        await asyncio.sleep(0.05)
    assert sorted(told) == sorted(f"OUT · m · {job} of {exporting.connection} is blocked" for job in jobs)
    assert (await exporting.inbox.query(ExportErrors.summary)).blocked.keys() == set(jobs)
    runs = [run async for run in exporting.client.list_workflows(f'WorkflowId="{inbox.id}"')]
    assert len(runs) >= 3
