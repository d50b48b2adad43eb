"""With ``--keep`` the org survives a ``kill -9``: whole calls, rules, deletions."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.parts import NO_CITY
from tests.salesforce_simulator.test_simulator import COLLECTION, body, codes


@asynccontextmanager
async def killed_at_the_end(file: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A simulator that keeps what it does in ``file``, signed in to."""
    command = [sys.executable, "-m", "salesforce_simulator", "--keep", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        async with httpx.AsyncClient(base_url=process.stdout.readline().split()[-1]) as client:
            form = {"grant_type": "client_credentials", "client_id": "demo", "client_secret": "demo"}
            token = (await client.post("/services/oauth2/token", data=form)).json()
            client.headers["Authorization"] = f"Bearer {token['access_token']}"
            yield client
        process.kill()


@pytest.mark.parametrize("torn", [b"", b'{"call":9,"writes":[{"seq":'])
async def test_what_was_answered_is_there_after_a_kill(tmp_path: Path, torn: bytes) -> None:
    file = tmp_path / "org.jsonl"
    async with killed_at_the_end(file) as client:
        await client.put("/simulator/rules/city", json=NO_CITY)
        await client.patch(COLLECTION, json=body(("A", "x"), ("B", "y")))
        await client.patch(COLLECTION, json=body(("A", "z"), ("C", None), all_or_none=True))
        await client.delete("/services/data/v66.0/sobjects/Account/Icao__c/B")
        before = (await client.get("/simulator/records/Account")).json()
        audit = (await client.get("/simulator/audit")).json()
    with file.open("ab") as kept:
        kept.write(torn)
    async with killed_at_the_end(file) as client:
        assert (await client.get("/simulator/records/Account")).json() == before
        assert before.keys() == {"A"}
        assert (await client.get("/simulator/audit")).json() == audit
        assert "city" in (await client.get("/simulator/rules")).json()
        answer = (await client.patch(COLLECTION, json=body(("A", "z"), ("D", "w"), ("E", None)))).json()
        assert codes(answer) == ["ok", "ok", "FIELD_CUSTOM_VALIDATION_EXCEPTION"]
        assert [line["created"] for line in answer[:2]] == [False, True]
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[-1]["refused"] == [{"object": "Account", "key": "E", "code": "FIELD_CUSTOM_VALIDATION_EXCEPTION"}]
