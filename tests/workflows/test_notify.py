"""People are told, once for each change, by the connection's webhook."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.parts import NO_CITY
from tests.workflows.conftest import Exporting
from tests.workflows.test_export import airports


@pytest.fixture
async def webhook() -> AsyncIterator[tuple[str, list[str]]]:
    """Where people are told: its URL, and what it was told."""
    told: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        told.append(json.loads(await reader.readexactly(length))["text"])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
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
    while f"accounts of {exporting.connection} carries on" not in told:
        await asyncio.sleep(0.05)
