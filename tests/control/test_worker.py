"""The worker as a program."""

import asyncio
import sys

import httpx
import pytest

from control.processes import free_port
from tests.control.conftest import CommandLine


async def test_it_serves_its_metrics_where_it_is_told_to(crm_export: CommandLine) -> None:
    assert (await crm_export("setup")).status == 0
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "worker.py",
        env={**crm_export.environ, "CRM_EXPORT_METRICS": f"127.0.0.1:{port}"},
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with httpx.AsyncClient() as client:
        told = ""
        while "temporal_worker_task_slots_available" not in told:
            try:
                told = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
            except httpx.HTTPError:
                await asyncio.sleep(0.05)
    process.terminate()
    assert await process.wait() == 0


async def test_an_address_that_cannot_serve_them_is_one_clear_line(crm_export: CommandLine) -> None:
    for address in ("nowhere", "127.0.0.1:70000"):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "worker.py",
            env={**crm_export.environ, "CRM_EXPORT_METRICS": address},
            stderr=asyncio.subprocess.PIPE,
        )
        _, err = await process.communicate()
        assert process.returncode == 2
        assert err.decode().startswith(f"crm-export: CRM_EXPORT_METRICS={address}: no metrics can be served there")
        assert len(err.decode().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("prod.yaml",), "Got unexpected extra argument (prod.yaml)"),
        (("--config",), "Option '--config' requires an argument"),
        (("--config=none.yaml",), "crm-export: none.yaml: no such file"),
        (("--configuration", "x.yaml"), "No such option"),
    ],
)
async def test_an_argument_that_it_does_not_know_is_an_error(
    crm_export: CommandLine, arguments: tuple[str, ...], told: str
) -> None:
    status, err = await _ended(crm_export, *arguments)
    assert (status, told in err.splitlines()[-1]) == (2, True), err


async def test_a_store_that_it_cannot_use_is_one_clear_line(crm_export: CommandLine) -> None:
    crm_export.edit("store: sqlite:///", "store: mysql://me:geheim@db/")
    status, err = await _ended(crm_export)
    assert (status, len(err.splitlines())) == (1, 1), err
    assert "is not supported: use sqlite:///… or postgresql://…" in err
    assert "geheim" not in err


async def _ended(crm_export: CommandLine, *arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "worker.py", *arguments), env=crm_export.environ, stderr=asyncio.subprocess.PIPE
    )
    _, err = await process.communicate()
    return process.returncode, err.decode()
