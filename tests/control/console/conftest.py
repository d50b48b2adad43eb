"""The console as people use it: a process of its own, and a real browser."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Browser, Page, Request, async_playwright, expect

from control.processes import free_port
from tests.control.conftest import CommandLine

NPM = Path(__file__).parent / "npm"
_ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--disable-quic", "--disable-dev-shm-usage"),
)


# Conditions are waited for; a test's own time-out is the bound.
expect.set_options(timeout=30_000)


class Console:
    """``crm-export console`` with one configuration, on a port of its own."""

    def __init__(self, crm_export: CommandLine) -> None:
        self._crm_export = crm_export
        self._process: asyncio.subprocess.Process | None = None
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    async def start(self, **environ: str) -> None:
        assert self._process is None
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "control", "console", "--port", str(self.port)),
            env={**self._crm_export.environ, **environ},
            stdout=asyncio.subprocess.DEVNULL,
        )
        async with httpx.AsyncClient(base_url=self.url) as client:
            while self._process.returncode is None:
                try:
                    if (await client.get("/healthz")).status_code == 200:
                        return
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
        raise AssertionError(f"the console ended with {self._process.returncode}")

    async def kill(self, with_signal: signal.Signals = signal.SIGKILL) -> int:
        assert self._process is not None
        self._process.send_signal(with_signal)
        status = await self._process.wait()
        self._process = None
        return status

    async def stop(self) -> None:
        if self._process is not None:
            await self.kill(signal.SIGTERM)


@pytest.fixture
async def console(crm_export: CommandLine, worker: asyncio.subprocess.Process) -> AsyncIterator[Console]:
    """Set up, a worker, and the console without sign-in: who asks is the machine's user, ada."""
    console = Console(crm_export)
    await console.start()
    yield console
    await console.stop()


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    program = os.environ.get("CRM_EXPORT_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise RuntimeError(
            "Chromium is missing: the console's tests need it. Get it with apt-get install chromium (.ci/run does), "
            "or name yours by CRM_EXPORT_CHROMIUM=/path/to/chromium"
        )
    async with async_playwright() as playwright:
        yield await playwright.chromium.launch(executable_path=program, args=_ARGUMENTS)


Open = Callable[..., Awaitable[Page]]


@pytest.fixture
async def open_page(browser: Browser) -> AsyncIterator[Open]:
    """Open a console's page as a person of their own: ``await open_page(console, "/exports")``.

    Whatever the browser holds against a script, a style or a request to another host fails the test."""
    contexts = []
    complaints: list[str] = []

    async def open_one(console: Console, path: str, **context: object) -> Page:
        contexts.append(await browser.new_context(base_url=console.url, **context))  # type: ignore[arg-type]
        page = await contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda told: complaints.append(told.text) if "Content Security" in told.text else None)
        page.on("request", lambda sent: complaints.append(sent.url) if _is_foreign(sent, console) else None)
        await page.goto(path)
        if await page.locator("#live").count():
            # htmx begins a moment after the page is loaded; what a script presses before that is lost.
            await page.locator("#live[data-htmx-powered]").wait_for(state="attached")
        return page

    yield open_one
    for context in contexts:
        await context.close()
    assert complaints == []


def _is_foreign(sent: Request, console: Console) -> bool:
    """Whether a page of the console takes something from another host."""
    if sent.is_navigation_request() or sent.url.startswith(("data:", console.url)):
        return False
    return sent.frame.url.startswith(console.url)


def npm_package(name: str) -> Path:
    """The folder of a package that the tests take from npm; a missing one is an error, not a skip."""
    folder = NPM / "node_modules" / name
    if not folder.exists():
        raise RuntimeError(f"{name} is missing: make test gets it with npm (apt-get install nodejs npm)")
    return folder


@pytest.fixture
async def provider() -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    """Start npm's oidc-provider for a redirect URI; gives its issuer."""
    npm_package("oidc-provider")
    processes: list[subprocess.Popen[str]] = []

    async def start(redirect_uri: str) -> str:
        port = free_port()
        process = subprocess.Popen(
            ["node", str(NPM / "provider.mjs"), str(port), redirect_uri],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        while await asyncio.to_thread(process.stdout.readline) not in ("ready\n", ""):
            pass
        return f"http://127.0.0.1:{port}"

    yield start
    for process in processes:
        process.terminate()
        await asyncio.to_thread(process.wait)
        assert process.stdout is not None
        process.stdout.close()
