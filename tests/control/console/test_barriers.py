"""axe-core finds nothing serious on any page, in the light and in the dark; nothing is wider than a phone."""

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.control.conftest import CommandLine
from tests.control.console.conftest import Console, Open, npm_package
from tests.control.console.test_errors_page import TOO_LONG, refuse
from tests.parts import NO_CITY, Org
from tests.workflows.test_export import airports


async def barriers(page: Page) -> list[str]:
    """What axe-core holds against the page as it is shown now."""
    found: dict[str, Any] = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{page.url}: {violation['id']} ({violation['impact']}): {violation['nodes'][0]['html']}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical", "moderate")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page(
    console: Console, crm_export: CommandLine, open_page: Open, org: Org, source_file: Path, scheme: str
) -> None:
    airports(source_file, 25, {7})
    await org.rule("city", NO_CITY)
    await refuse(crm_export, {"x" * 60: TOO_LONG})
    assert (await crm_export("run", "accounts", "--wait")).status == 3
    # The script is handed to the browser's debugger: the page itself would not let it in.
    axe = (npm_package("axe-core") / "axe.min.js").read_text()
    page = await open_page(console, "/exports", color_scheme=scheme, reduced_motion="reduce")
    await expect(page.locator("#job-accounts")).to_contain_text("A007")
    await expect(page.locator("#job-accounts")).to_contain_text("in 59 min")
    found = []
    settings = f"/settings/{crm_export.connection}"
    for path in ("/exports", "/errors", "/errors?state=closed", settings, "/permissions", "/exports/nowhere"):
        await page.goto(path)
        await page.evaluate(axe)
        found += await barriers(page)
        if path == settings:
            await page.get_by_role("switch", name="Pause on export error").click()
            await expect(page.get_by_role("dialog")).to_be_visible()
            found += await barriers(page)
        await page.set_viewport_size({"width": 380, "height": 800})
        found += await barriers(page)
        assert await page.evaluate("document.documentElement.scrollWidth") <= 380, path
        await page.set_viewport_size({"width": 1280, "height": 800})
    assert found == []


async def test_it_is_used_by_keyboard(console: Console, crm_export: CommandLine, open_page: Open) -> None:
    page = await open_page(console, f"/settings/{crm_export.connection}")
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.textContent") == "Skip to content"
    await page.keyboard.press("Enter")
    for _ in range(2):
        await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.id") == "pause_on_error"
    await page.keyboard.press("Space")
    await expect(page.get_by_role("dialog")).to_be_visible()
    # The focus stays in the dialog; Close is the first that it meets after the link.
    await page.get_by_role("button", name="Close").focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await expect(page.locator("#pause_on_error")).to_be_focused()
