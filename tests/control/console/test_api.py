"""The API keeps to what it says: schemathesis sends what the OpenAPI document allows, and what it does not."""

import asyncio
import os
import sys
from pathlib import Path

import httpx

from tests.control.conftest import CommandLine
from tests.control.console.conftest import Console
from tests.control.console.test_errors_page import TOO_LONG, refuse

EXAMPLES = 12
"""A call; each call has four sorts of them."""


async def test_it_keeps_to_its_openapi(console: Console, crm_export: CommandLine, tmp_path: Path) -> None:
    await refuse(crm_export, {f"A{i}": TOO_LONG for i in range(5)})
    hooks = tmp_path / "schemathesis.toml"
    hooks.write_text(f'[parameters]\n"path.connection" = "{crm_export.connection}"\n"path.job" = "accounts"\n')
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(hooks)),
        *("run", f"{console.url}/api/openapi.json", "--checks", "all"),
        *("--max-examples", str(EXAMPLES), "--seed", "1", "--generation-database", "none", "--no-color"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        cwd=tmp_path,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()[-6_000:]


async def test_what_one_does_by_it(console: Console, crm_export: CommandLine) -> None:
    connection = f"/api/connections/{crm_export.connection}"
    await refuse(crm_export, {f"A{i}": TOO_LONG for i in range(5)})
    async with httpx.AsyncClient(base_url=console.url) as client:
        [job] = (await client.get("/api/jobs")).json()
        assert (job["job"], job["state"], job["open_errors"]) == ("accounts", "idle", 5)
        assert (await client.get("/api/jobs/accounts")).json()["open_errors"] == 5
        page = (await client.get(f"{connection}/errors", params={"limit": 2})).json()
        assert [error["record_key"] for error in page["errors"]] == ["A4", "A3"]
        rest = (await client.get(f"{connection}/errors", params={"before": page["next"]})).json()
        assert ([error["record_key"] for error in rest["errors"]], rest["next"]) == (["A2", "A1", "A0"], None)
        [cause] = (await client.get(f"{connection}/causes")).json()
        assert (cause["code"], cause["count"]) == ("STRING_TOO_LONG", 5)
        assert (await client.get(f"{connection}/acknowledgement")).json()["open_errors"] == 5

        off = {"pause_on_error": False}
        refused = await client.patch(f"{connection}/settings", json=off)
        assert (refused.status_code, "acknowledged" in refused.json()["error"]) == (409, True)
        settings = (await client.patch(f"{connection}/settings", json={**off, "acknowledged": True})).json()
        assert (settings["pause_on_error"], settings["calls_today"]) == (False, 0)
        assert [change["by"] for change in (await client.get(f"{connection}/changes")).json()] == ["ada"]

        # Rows of records that the source has not are closed as gone.
        assert (await client.post(f"{connection}/reexport", json={"ids": [1]})).json()["started"] is True
        while (await client.get(f"{connection}/errors/1")).json()["closed_by"] != "gone":
            pass
        assert (await client.get("/api/nowhere")).json() == {"error": "Not Found"}
        assert (await client.get("/api/jobs/none")).json() == {"error": "there is no job none"}
