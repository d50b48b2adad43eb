"""Signing in: passwords, roles, sessions, and what a foreign page cannot do."""

import asyncio
import base64
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Page, expect

from control.console import sign_in as sign_in_room
from control.console.people import NotAllowedError, NotSignedInError, Person, Role
from control.console.sign_in import SessionSignIn, hash_password, person_of
from crm_export.config import ConsoleConfig, Oidc
from tests.control.conftest import CommandLine
from tests.control.console.conftest import Console, Open

USERS = """
console:
  sign_in:
    users:
      ada: {{password_hash: "{ada}", role: operator}}
      vic: {{password_hash: "{vic}", role: viewer}}
"""


@pytest.fixture
async def guarded(crm_export: CommandLine) -> AsyncIterator[Console]:
    """A console with two users, each with their name backwards for a password; there is no worker."""
    users = USERS.format(ada=hash_password("ada"[::-1] + "!"), vic=hash_password("vic"[::-1] + "!"))
    crm_export.file.write_text(crm_export.file.read_text() + users)
    assert (await crm_export("setup")).status == 0
    console = Console(crm_export)
    await console.start()
    yield console
    await console.stop()


async def sign_in(page: Page, name: str, password: str | None = None) -> None:
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("Password").fill(password or f"{name[::-1]}!")
    await page.get_by_role("button", name="Sign in").click()


async def token(page: Page) -> str:
    headers: dict[str, str] = json.loads(await page.get_attribute("body", "hx-headers:inherited") or "{}")
    return headers["X-CSRF-Token"]


async def test_a_password_lets_in_and_leads_to_where_one_wanted(
    guarded: Console, crm_export: CommandLine, open_page: Open
) -> None:
    page = await open_page(guarded, "/errors?state=closed")
    await expect(page).to_have_title("Sign in · crm-export")
    await sign_in(page, "ada", "wrong")
    await expect(page.get_by_role("alert")).to_contain_text("name or password is wrong")
    await sign_in(page, "nobody", "wrong")
    await expect(page.get_by_role("alert")).to_contain_text("name or password is wrong")
    await sign_in(page, "ada")
    await expect(page).to_have_url(f"{guarded.url}/errors?state=closed")
    await expect(page.get_by_text("ada operator")).to_be_visible()
    [cookie] = await page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["secure"]) == (True, "Lax", False)
    await page.get_by_role("button", name="Sign out").click()
    await expect(page).to_have_title("Sign in · crm-export")
    await page.goto("/settings")
    await expect(page).to_have_title("Sign in · crm-export")


async def test_a_viewer_sees_all_and_changes_nothing(
    guarded: Console, crm_export: CommandLine, open_page: Open
) -> None:
    page = await open_page(guarded, "/exports")
    await sign_in(page, "vic")
    await expect(page.get_by_text("vic viewer")).to_be_visible()
    await expect(page.get_by_role("rowheader", name="accounts")).to_be_visible()
    assert await page.locator("main button:not(form.filters button)").count() == 0
    await page.goto(f"/settings/{crm_export.connection}")
    for control in await page.locator("main button, main input:not([type=hidden]), main select").all():
        assert await control.is_disabled()
    await page.goto("/errors")
    assert await page.get_by_role("button", name="Re-export").count() == 0
    headers = {"X-CSRF-Token": await token(page)}
    for path, form in changes(crm_export.connection):
        refused = await page.request.post(path, form=form, headers=headers)
        assert (refused.status, "role operator" in await refused.text()) == (403, True), path
    settings = f"/api/connections/{crm_export.connection}/settings"
    refused = await page.request.patch(settings, data={"daily_api_limit": 5}, headers=headers)
    assert (refused.status, (await refused.json())["error"]) == (
        403,
        "vic may look, and change nothing: that takes the role operator",
    )
    assert (await page.request.get(settings)).status == 200


def changes(connection: str) -> list[tuple[str, dict[str, str | float | bool]]]:
    return [
        ("/exports/accounts/run", {}),
        ("/exports/accounts/retry", {}),
        ("/exports/accounts/skip", {"record_key": "A1"}),
        (f"/errors/{connection}/reexport", {"scope": "everything"}),
        (f"/settings/{connection}/export_enabled", {"on": "false"}),
        (f"/settings/{connection}/pause_on_error", {"on": "false", "acknowledged": "true"}),
        (f"/settings/{connection}/daily_api_limit", {"calls": "5"}),
        (f"/settings/{connection}/export_batch_size", {"records": "25"}),
    ]


async def test_a_change_that_no_page_of_ours_asks_for_is_refused(
    guarded: Console, crm_export: CommandLine, open_page: Open
) -> None:
    page = await open_page(guarded, "/exports")
    await sign_in(page, "ada")
    await expect(page.get_by_text("ada operator")).to_be_visible()
    right = await token(page)
    for path, form in changes(crm_export.connection):
        for headers in (
            {},
            {"X-CSRF-Token": "wrong"},
            {"X-CSRF-Token": right, "Origin": "http://evil.example"},
            {"X-CSRF-Token": right, "Sec-Fetch-Site": "cross-site"},
        ):
            refused = await page.request.post(path, form=form, headers=headers)
            assert refused.status == 403, (path, headers)
    api = f"/api/connections/{crm_export.connection}/settings"
    refused = await page.request.patch(api, data={"daily_api_limit": 5})
    assert refused.status == 403
    # A page of ours that asks is heard: what is wrong now is only that nobody works.
    heard = await page.request.post(
        "/exports/accounts/skip", form={"record_key": "A1"}, headers={"X-CSRF-Token": right}
    )
    assert (heard.status, "not paused" in await heard.text()) == (409, True)
    assert (await crm_export("settings", "--json")).json[0]["daily_api_limit"] == 100_000
    refused = await page.request.post("/sign-out")
    assert refused.status == 403
    await page.goto("/exports")
    await expect(page.get_by_text("ada operator")).to_be_visible()


async def test_a_page_that_stays_open_after_the_session_ended_leads_to_sign_in(
    guarded: Console, open_page: Open
) -> None:
    page = await open_page(guarded, "/exports?state=idle")
    await sign_in(page, "ada")
    await expect(page.get_by_text("ada operator")).to_be_visible()
    await page.context.clear_cookies()
    await expect(page).to_have_title("Sign in · crm-export")
    await sign_in(page, "ada")
    await expect(page).to_have_url(f"{guarded.url}/exports?state=idle")


async def test_sessions_outlive_a_restart_and_end_with_the_password(
    guarded: Console, crm_export: CommandLine, open_page: Open
) -> None:
    page = await open_page(guarded, "/exports")
    await sign_in(page, "ada")
    await expect(page.get_by_text("ada operator")).to_be_visible()
    await guarded.kill()
    await guarded.start()
    await page.goto("/exports")
    await expect(page.get_by_text("ada operator")).to_be_visible()
    await guarded.kill()
    known = crm_export.file.read_text().split('password_hash: "')[1].split('"')[0]
    crm_export.edit(known, hash_password("another"))
    await guarded.start()
    # The page asks again by itself.
    await expect(page).to_have_title("Sign in · crm-export")


async def test_programs_sign_in_with_each_call(guarded: Console, crm_export: CommandLine) -> None:
    path = f"/api/connections/{crm_export.connection}/settings"
    async with httpx.AsyncClient(base_url=guarded.url) as client:
        assert (await client.get(path)).status_code == 401
        for authorization in ("Bearer x", "Basic ???", f"Basic {base64.b64encode(b'ada:wrong').decode()}"):
            assert (await client.get(path, headers={"Authorization": authorization})).status_code == 401
        for _ in range(2):
            assert (await client.get(path, auth=("vic", "civ!"))).status_code == 200
        assert (await client.patch(path, auth=("vic", "civ!"), json={"daily_api_limit": 5})).status_code == 403
        plain = {"content": '{"daily_api_limit": 5}', "headers": {"Content-Type": "text/plain"}}
        assert (await client.patch(path, auth=("ada", "ada!"), **plain)).status_code == 403  # type: ignore[arg-type]
        foreign = {"Origin": "http://evil.example"}
        answer = await client.patch(path, auth=("ada", "ada!"), json={"daily_api_limit": 5}, headers=foreign)
        assert answer.status_code == 403
        # With nobody to answer in Temporal, the change itself takes too long to be waited for here.
        skip = await client.post("/api/jobs/accounts/skip", auth=("ada", "ada!"), json={"record_key": "A1"})
        assert (skip.status_code, "not paused" in skip.json()["error"]) == (409, True)


async def test_wrong_passwords_make_a_name_wait(guarded: Console) -> None:
    async with httpx.AsyncClient(base_url=guarded.url) as client:
        told = [(await client.get("/api/jobs", auth=("ada", "wrong"))).json()["error"] for _ in range(6)]
        assert told[:5] == ["name or password is wrong"] * 5
        assert "too many wrong passwords: wait" in told[5]
        assert "too many" in (await client.get("/api/jobs", auth=("ada", "ada!"))).json()["error"]
        assert (await client.get("/api/jobs", auth=("vic", "civ!"))).status_code == 200


async def test_every_answer_is_guarded(guarded: Console) -> None:
    async with httpx.AsyncClient(base_url=guarded.url) as client:
        for path in ("/sign-in", "/exports", "/static/console.js", "/api/jobs", "/nowhere"):
            headers = (await client.get(path)).headers
            assert "script-src 'self'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert "server" not in headers
        assert (await client.get("/sign-in")).headers["cache-control"] == "no-store"
        assert (await client.get("/sign-in", headers={"Host": "evil.example"})).status_code == 421
        assert (await client.get("/healthz", headers={"Host": "10.0.0.7"})).text == "ok\n"
        assert (await client.get("/readyz")).text == "ready\n"
        for to in ("https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)"):
            assert 'name="to" value="/exports"' in (await client.get("/sign-in", params={"to": to})).text


async def test_it_listens_elsewhere_only_with_sign_in(crm_export: CommandLine) -> None:
    refused = await crm_export("console", "--host", "0.0.0.0")
    assert (refused.status, refused.err) == (
        2,
        "crm-export: console: to listen on 0.0.0.0, others than this machine's people need console.sign_in\n",
    )
    crm_export.file.write_text(crm_export.file.read_text() + USERS.format(ada="$argon2id$x", vic="$argon2id$x"))
    refused = await crm_export("console", "--host", "0.0.0.0")
    assert (refused.status, "console.public_url is needed" in refused.err) == (2, True)
    refused = await crm_export("console")
    assert (refused.status, "run crm-export setup" in refused.err) == (1, True)


async def test_a_taken_port_is_one_line(guarded: Console, crm_export: CommandLine) -> None:
    refused = await crm_export("console", "--port", str(guarded.port))
    assert refused.status == 1
    assert refused.err.splitlines()[-1].startswith(f"crm-export: the console cannot listen on 127.0.0.1:{guarded.port}")
    assert "Traceback" not in refused.err


async def test_behind_tls_cookies_are_secure(crm_export: CommandLine) -> None:
    users = USERS.format(ada=hash_password("ada"), vic=hash_password("vic"))
    crm_export.file.write_text(
        crm_export.file.read_text() + users + "  host: 0.0.0.0\n  public_url: https://crm.example.com\n"
    )
    assert (await crm_export("setup")).status == 0
    console = Console(crm_export)
    await console.start()
    async with httpx.AsyncClient(base_url=console.url, headers={"Host": "crm.example.com"}) as client:
        answer = await client.get("/sign-in")
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-crm-export=")
        for part in ("httponly", "samesite=lax", "secure", "path=/"):
            assert part in cookie.lower()
        assert answer.headers["strict-transport-security"]
        assert (await client.get("/sign-in", headers={"Host": "127.0.0.1"})).status_code == 421
    await console.stop()


async def test_a_hash_is_made_for_the_configuration(crm_export: CommandLine) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "control", "console", "--hash-password"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate(b"geheim\n")
    assert out.decode().startswith("$argon2id$")


OIDC = {"issuer": "http://127.0.0.1:1", "client_id": "x", "client_secret": "y"}


@pytest.mark.parametrize(
    ("roles", "claims", "role"),
    [
        ({"operator": ["admins"]}, {"email": "a@x", "groups": ["staff", "admins"]}, Role.OPERATOR),
        ({"operator": ["admins"], "viewer": ["*"]}, {"email": "a@x", "groups": []}, Role.VIEWER),
        ({"operator": ["admins"], "viewer": ["*"]}, {"email": "a@x"}, Role.VIEWER),
        ({"claim": "role", "viewer": ["reader"]}, {"email": "a@x", "role": "reader"}, Role.VIEWER),
        ({"operator": ["admins"]}, {"email": "a@x", "groups": "administrators"}, None),
        ({}, {"email": "a@x", "groups": ["*"]}, None),
    ],
)
def test_roles_come_from_a_claim(roles: dict[str, Any], claims: dict[str, Any], role: Role | None) -> None:
    oidc = Oidc.model_validate({**OIDC, "roles": roles})
    if role is None:
        with pytest.raises(NotAllowedError, match="a@x has no role"):
            person_of(claims, oidc)
    else:
        assert person_of(claims, oidc) == Person("a@x", role)


OIDC_CONFIG = """
console:
  sign_in:
    oidc:
      issuer: {issuer}
      client_id: crm-export
      client_secret: ${{OIDC_SECRET:-geheim}}
      roles: {{claim: groups, operator: [crm-admins], viewer: [crm-readers]}}
"""


async def test_open_id_connect(
    crm_export: CommandLine, open_page: Open, provider: Callable[[str], Awaitable[str]], tmp_path: Path
) -> None:
    console = Console(crm_export)
    issuer = await provider(f"{console.url}/sign-in/callback")
    crm_export.file.write_text(crm_export.file.read_text() + OIDC_CONFIG.format(issuer=issuer))
    assert (await crm_export("setup")).status == 0
    await console.start()
    for login, shown in (("ada", "ada@example.com operator"), ("vic", "vic@example.com viewer"), ("eve", None)):
        page = await open_page(console, "/errors?state=all")
        await page.get_by_role("link", name="Sign in with your organisation").click()
        await page.locator("input[name=login]").fill(login)
        await page.locator("input[name=password]").fill("any")
        await page.locator("button[type=submit]").click()
        await page.get_by_role("button", name="Continue").click()
        if shown is None:
            await expect(page.get_by_role("alert")).to_contain_text("eve@example.com has no role in this console")
            await page.goto("/exports")
            await expect(page).to_have_title("Sign in · crm-export")
        else:
            await expect(page.get_by_text(shown)).to_be_visible()
            await expect(page).to_have_url(f"{console.url}/errors?state=all")
    # An answer that nobody asked for, or a provider that is gone, signs nobody in.
    async with httpx.AsyncClient(base_url=console.url) as client:
        assert (await client.get("/sign-in/callback?code=x&state=y")).status_code == 401
    await console.stop()


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many passwords are hashed at a time, one number for each."""
    at_once, seen = 0, list[int]()

    def is_password(known: str, given: str) -> bool:
        nonlocal at_once
        at_once += 1
        seen.append(at_once)
        time.sleep(0.01)
        at_once -= 1
        return given == "right"

    monkeypatch.setattr(sign_in_room, "_is_password", is_password)
    return seen


def passwords() -> SessionSignIn:
    user = {"password_hash": "$argon2id$x", "role": "operator"}
    return SessionSignIn(ConsoleConfig.model_validate({"sign_in": {"users": {"ada": user}}}))


async def test_wrong_passwords_at_once_are_slowed_as_those_one_after_the_other(hashes: list[int]) -> None:
    sign_in = passwords()
    tried = await asyncio.gather(*(sign_in._checked("ada", "wrong") for _ in range(40)), return_exceptions=True)
    assert all(isinstance(one, NotSignedInError) for one in tried)
    assert len(hashes) == 5
    assert sum("too many wrong passwords" in str(one) for one in tried) == 35
    with pytest.raises(NotSignedInError, match="too many wrong passwords"):
        await sign_in._checked("ada", "right")


async def test_right_passwords_at_once_all_let_in_and_take_few_threads(hashes: list[int]) -> None:
    sign_in = passwords()
    assert {one.name for one in await asyncio.gather(*(sign_in._checked("ada", "right") for _ in range(20)))} == {"ada"}
    assert len(hashes) == 20
    assert max(hashes) <= 2
