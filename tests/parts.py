"""Hands on the real parts: the simulator's controls, a source's rows."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx

NO_CITY = {
    "kind": "validation",
    "object": "Account",
    "field": "BillingCity",
    "blank": True,
    "message": "An airport needs a city.",
}
"""The rule that most tests use: Salesforce wants a city."""


class Org:
    """The simulator by its controls."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self.url = str(client.base_url).rstrip("/")

    async def clear(self) -> None:
        for name in (await self._client.get("/simulator/rules")).json():
            await self.drop(name)
        await self._client.delete("/simulator/records")

    async def rule(self, name: str, rule: dict[str, Any]) -> None:
        (await self._client.put(f"/simulator/rules/{name}", json=rule)).raise_for_status()

    async def drop(self, name: str) -> None:
        await self._client.delete(f"/simulator/rules/{name}")

    async def expire_sessions(self) -> None:
        await self._client.post("/simulator/expire-sessions")

    async def written(self) -> list[str]:
        """The keys written so far, in order."""
        return [line["key"] for line in (await self._client.get("/simulator/audit")).json()]

    async def calls(self) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = (await self._client.get("/simulator/calls")).json()
        return calls

    @asynccontextmanager
    async def next_call(self) -> AsyncIterator[None]:
        """At the block's end, wait until Salesforce has been called since its beginning."""
        calls = len(await self.calls())
        yield
        while len(await self.calls()) == calls:
            await asyncio.sleep(0.02)

    async def accounts(self) -> dict[str, dict[str, Any]]:
        accounts: dict[str, dict[str, Any]] = (
            await self._client.get("/simulator/records/Account?field=Icao__c")
        ).json()
        return accounts


def put_airports(path: Path, rows: Iterable[tuple[str, str, str | None]], at: str = "2026-01-01 00:00:00") -> None:
    """Insert or replace rows (icao, name, city), changed ``at``."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT OR REPLACE INTO airports (icao, name, city, updated_at) VALUES (?, ?, ?, ?)",
            [(*row, at) for row in rows],
        )


def delete_airport(path: Path, icao: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM airports WHERE icao = ?", (icao,))


def rename_table(path: Path, old: str, new: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"ALTER TABLE {old} RENAME TO {new}")
