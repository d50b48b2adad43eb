"""Settings > CRM > General, in a browser: the dialog, the hidden setting, the change log, two people at once."""

import asyncio
import json
from pathlib import Path

from playwright.async_api import Page, expect
from temporalio.client import Client

from control.acknowledgement import ACKNOWLEDGEMENT
from crm_export.store import Store
from tests.control.conftest import CommandLine
from tests.control.console.conftest import Console, Open
from tests.parts import NO_CITY, Org
from tests.workflows.test_export import airports


async def settings_page(open_page: Open, console: Console, crm_export: CommandLine) -> Page:
    return await open_page(console, f"/settings/{crm_export.connection}")


async def test_close_changes_nothing_and_ok_releases_the_held_record(
    console: Console, crm_export: CommandLine, open_page: Open, org: Org, source_file: Path, temporal: Client
) -> None:
    airports(source_file, 15, {7})
    await org.rule("city", NO_CITY)
    assert (await crm_export("run", "accounts", "--wait")).status == 3
    page = await settings_page(open_page, console, crm_export)
    switch, dialog = page.locator("#pause_on_error"), page.get_by_role("dialog")

    await switch.click()
    await expect(dialog).to_contain_text("Data inconsistency acknowledgement")
    await expect(dialog).to_contain_text("1 record is held now and will be skipped: accounts A007")
    # The one open error is the held record, and is not counted twice.
    await expect(dialog).to_contain_text("0 more errors are open.")
    await expect(dialog).to_contain_text(ACKNOWLEDGEMENT)
    await expect(dialog.get_by_role("link")).to_have_attribute("href", "/permissions")
    await expect(dialog.get_by_role("button", name="Close")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(dialog).to_have_count(0)
    await expect(switch).to_have_attribute("aria-checked", "true")
    await expect(page.get_by_text("Nobody has changed anything yet")).to_be_visible()
    assert (await crm_export("settings", "--json")).json[0]["pause_on_error"] is True
    assert (await crm_export("status", "--json")).json[0]["held"]["key"] == "A007"

    await switch.click()
    await expect(dialog).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)

    # Without the acknowledgement it is not taken, whoever asks.
    headers = {
        "X-CSRF-Token": json.loads(await page.get_attribute("body", "hx-headers:inherited") or "")["X-CSRF-Token"]
    }
    path = f"/settings/{crm_export.connection}/pause_on_error"
    assert (await page.request.post(path, form={"on": "false"}, headers=headers)).status == 422

    await switch.click()
    await dialog.get_by_role("button", name="Ok").click()
    await expect(switch).to_have_attribute("aria-checked", "false")
    await expect(page.get_by_role("status")).to_contain_text("released: accounts A007")
    await expect(page.locator("#changes tbody tr")).to_have_count(1)
    for text in ("ada", "Pause on export error", "on", "off"):
        await expect(page.locator("#changes tbody tr")).to_contain_text(text)
    while (await crm_export("status", "--json")).json[0]["state"] != "idle":
        pass
    assert len(await org.accounts()) == 14
    # The update in Temporal's history bears the name.
    history = await temporal.get_workflow_handle(f"crm-settings/{crm_export.connection}").fetch_history()
    updates = [e for e in history.events if e.HasField("workflow_execution_update_accepted_event_attributes")]
    [payload] = [e.workflow_execution_update_accepted_event_attributes.accepted_request for e in updates]
    assert (payload.input.name, payload.input.args.payloads[1].data) == ("set_pause_on_error", b'"ada"')

    await switch.click()
    await expect(switch).to_have_attribute("aria-checked", "true")
    await expect(dialog).to_have_count(0)


async def test_the_pause_setting_is_shown_only_while_export_to_crm_is_on(
    console: Console, crm_export: CommandLine, open_page: Open
) -> None:
    page = await settings_page(open_page, console, crm_export)
    await expect(page.get_by_role("switch", name="Pause on export error")).to_be_visible()
    await page.get_by_role("switch", name="Export to CRM").click()
    await expect(page.get_by_role("switch", name="Export to CRM")).to_have_attribute("aria-checked", "false")
    await expect(page.get_by_role("switch", name="Pause on export error")).to_have_count(0)
    exports = await open_page(console, "/exports")
    off = exports.get_by_text(f"Export to CRM is off for {crm_export.connection}: its exports do not start.")
    await expect(off).to_be_visible()
    await page.get_by_role("switch", name="Export to CRM").click()
    await expect(page.get_by_role("switch", name="Pause on export error")).to_be_visible()
    await expect(off).to_have_count(0)


async def test_the_limit_and_the_batch_size(console: Console, crm_export: CommandLine, open_page: Open) -> None:
    page = await settings_page(open_page, console, crm_export)
    await expect(page.get_by_text("0 used today of 100,000")).to_be_visible()
    await page.get_by_label("Daily CRM API limit").fill("0")
    await page.get_by_role("button", name="Save").click()
    assert await page.evaluate("document.getElementById('daily_api_limit').validity.rangeUnderflow")
    await page.get_by_label("Daily CRM API limit").fill("5000")
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator("#changes")).to_contain_text("5000")
    await page.get_by_label("Export batch size").select_option("50")
    await expect(page.locator("#changes tbody tr")).to_have_count(2)
    await expect(page.get_by_label("Export batch size")).to_have_value("50")
    settings = (await crm_export("settings", "--json")).json[0]
    assert (settings["daily_api_limit"], settings["export_batch_size"]) == (5000, 50)


async def test_a_limit_that_is_used_up_says_until_when_it_blocks(
    console: Console, crm_export: CommandLine, open_page: Open
) -> None:
    assert (await crm_export("settings", crm_export.connection, "daily-api-limit", "1")).status == 0
    page = await settings_page(open_page, console, crm_export)
    await expect(page.get_by_text("0 used today of 1")).to_be_visible()
    await expect(page.locator(".used-up")).to_have_count(0)
    store = Store(f"sqlite:///{crm_export.file.with_name('store.db')}")
    store.api_usage.spend(crm_export.connection)
    store.close()
    await expect(page.locator(".used-up")).to_have_text("Used up: exports are blocked until 00:00 UTC.")


async def test_what_one_types_is_not_lost_when_another_changes_something(
    console: Console, crm_export: CommandLine, open_page: Open
) -> None:
    page = await settings_page(open_page, console, crm_export)
    await page.get_by_label("Daily CRM API limit").fill("7")
    await crm_export("settings", crm_export.connection, "export-batch-size", "25")
    await expect(page.get_by_label("Export batch size")).to_have_value("25")
    await expect(page.get_by_label("Daily CRM API limit")).to_have_value("7")


async def test_two_people_at_once_end_in_one_state_that_both_see(
    console: Console, crm_export: CommandLine, open_page: Open
) -> None:
    ada, bob = [await settings_page(open_page, console, crm_export) for _ in range(2)]
    for page in (ada, bob):
        await page.get_by_role("switch", name="Export to CRM").click(trial=True)
    await asyncio.gather(*(page.get_by_role("switch", name="Export to CRM").click() for page in (ada, bob)))
    # Both wanted it off: it is, once.
    for page in (ada, bob):
        await expect(page.get_by_role("switch", name="Export to CRM")).to_have_attribute("aria-checked", "false")
        await expect(page.locator("#changes tbody tr")).to_have_count(1)
