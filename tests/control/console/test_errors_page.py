"""The page Export errors, in a browser: filters, search, causes, pages, re-exports, CSV."""

import csv
import io
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from crm_export.model import OrderValue, Position, Refusal, RunRef
from crm_export.store import Store
from tests.control.conftest import CommandLine
from tests.control.console.conftest import Console, Open
from tests.parts import NO_CITY, Org, put_airports
from tests.workflows.test_export import airports

VALIDATION = Refusal(code="FIELD_CUSTOM_VALIDATION_EXCEPTION", message="no city", fields=("BillingCity",))
TOO_LONG = Refusal(code="STRING_TOO_LONG", message="=cmd()", fields=("Name",))


async def refuse(crm_export: CommandLine, refused: dict[str, Refusal], exported: list[str] | None = None) -> None:
    """Errors as an export writes them."""
    store = Store(f"sqlite:///{crm_export.file.with_name('store.db')}")
    run = RunRef(connection=crm_export.connection, job="accounts", run_id="run", workflow_id="export/x")
    store.runs.begin(run, first_position=lambda position, completed: position)
    ledger = store.runs.claim(run, "Account")
    ledger.advance(Position(key=OrderValue.of("")), exported=[], refused=refused)
    ledger.advance(Position(key=OrderValue.of("")), exported=exported or [], refused={})
    store.close()


async def keys(page: Page) -> list[str]:
    return await page.locator("table.errors code.key").all_inner_texts()


async def test_filters_search_causes_and_pages(console: Console, crm_export: CommandLine, open_page: Open) -> None:
    await refuse(crm_export, {f"A{i:03}": VALIDATION for i in range(120)}, exported=["A119"])
    await refuse(crm_export, {"B1": TOO_LONG})
    page = await open_page(console, "/errors")
    causes = page.locator("table.causes tbody tr")
    await expect(causes).to_have_count(2)
    await expect(causes.first).to_contain_text("FIELD_CUSTOM_VALIDATION_EXCEPTION")
    await expect(causes.first).to_contain_text("119")
    assert (await keys(page))[:3] == ["B1", "A118", "A117"]
    assert len(await keys(page)) == 50
    heading = page.locator(".heading h2")
    await expect(heading).to_have_text("Errors 50 of 120, newest first")

    await page.get_by_role("link", name="Older").click()
    assert (await keys(page))[0] == "A069"
    await page.get_by_role("link", name="Older").click()
    assert (await keys(page))[-1] == "A000"
    assert await page.get_by_role("link", name="Older").count() == 0
    await page.get_by_role("link", name="Newer").click()
    assert (await keys(page))[0] == "A069"
    await page.get_by_role("link", name="Newer").click()
    assert (await keys(page))[0] == "B1"
    assert await page.get_by_role("link", name="Newer").count() == 0

    await page.get_by_label("Record key").fill("a01")
    await page.get_by_role("button", name="Filter").click()
    assert await keys(page) == [f"A{i:03}" for i in (101, *range(19, 9, -1))][1:]
    await page.get_by_label("Record key").fill("")
    await page.get_by_label("Code").fill("STRING_TOO_LONG")
    await page.get_by_role("button", name="Filter").click()
    assert await keys(page) == ["B1"]
    await expect(heading).to_have_text("Errors 1 of 1, newest first")
    await page.get_by_label("Code").fill("")
    await page.get_by_label("State").select_option("closed")
    await page.get_by_label("Job").select_option("accounts")
    await page.get_by_role("button", name="Filter").click()
    assert await keys(page) == ["A119"]
    await expect(heading).to_have_text("Errors 1, newest first")
    await expect(page.locator("table.errors")).to_contain_text("by export")
    await page.get_by_label("State").select_option("held")
    await page.get_by_role("button", name="Filter").click()
    await expect(page.get_by_text("No error matches")).to_be_visible()
    await page.get_by_label("State").select_option("all")
    await page.get_by_label("Since").fill("2999-01-01")
    await page.get_by_role("button", name="Filter").click()
    await expect(page.get_by_text("No error matches")).to_be_visible()

    await page.goto("/errors")
    await page.get_by_role("link", name="B1").click()
    for text in (
        "STRING_TOO_LONG",
        "Attempts",
        "1: the first failed",
        "What to do" if TOO_LONG.hint else "Usual cause",
    ):
        await expect(page.locator("main")).to_contain_text(text)

    answer = await page.request.get("/errors.csv?state=all")
    rows = list(csv.DictReader(io.StringIO(await answer.text())))
    assert len(rows) == 121
    assert (rows[-1]["record_key"], rows[-1]["message"], rows[-1]["fields"]) == ("B1", "'=cmd()", "Name")
    assert "attachment" in answer.headers["content-disposition"]


@pytest.mark.usefixtures("worker")
async def test_export_again_one_a_selection_a_cause_and_everything(
    console: Console, crm_export: CommandLine, open_page: Open, org: Org, source_file: Path
) -> None:
    airports(source_file, 12, {1, 2, 3, 4, 5, 6})
    put_airports(source_file, [("A008", "x" * 300, "City")])
    await org.rule("city", NO_CITY)
    await crm_export("settings", crm_export.connection, "pause-on-error", "off", "--yes")
    assert (await crm_export("run", "accounts", "--wait")).status == 0
    page = await open_page(console, "/errors")
    await expect(page.locator("table.errors tbody tr")).to_have_count(7)
    await org.drop("city")

    await page.get_by_role("button", name="Re-export: A001").click()
    await expect(page.locator("table.errors tbody tr")).to_have_count(6)
    for key in ("A002", "A003"):
        await page.get_by_label(f"Choose {key}").check()
    await expect(page.locator("#reexport-chosen")).to_have_text("Re-export chosen (2)")
    # On a phone, too, the page is chosen as a whole.
    await page.set_viewport_size({"width": 380, "height": 800})
    for checked in (True, False):
        await page.get_by_role("checkbox", name="Choose all").set_checked(checked)
        await expect(page.locator("#reexport-chosen")).to_have_text(f"Re-export chosen{' (6)' if checked else ''}")
    await page.set_viewport_size({"width": 1280, "height": 800})
    for key in ("A002", "A003"):
        await page.get_by_label(f"Choose {key}").check()
    # What is chosen stays so when something else is new.
    await crm_export("try", "accounts", "A006")
    await expect(page.locator("table.errors tbody tr")).to_have_count(5)
    await expect(page.locator("#reexport-chosen")).to_have_text("Re-export chosen (2)")
    await page.locator("#reexport-chosen").click()
    await expect(page.locator("table.errors tbody tr")).to_have_count(3)
    await page.get_by_role("button", name="Re-export all: FIELD_CUSTOM_VALIDATION_EXCEPTION of accounts").click()
    await expect(page.locator("table.errors tbody tr")).to_have_count(1)
    assert await keys(page) == ["A008"]
    await expect(page.locator("table.errors td.count")).to_have_text("1")
    await page.get_by_role("button", name="Re-export everything").click()
    await expect(page.locator("table.errors td.count")).to_have_text("2")
    closed = {e["record_key"]: e["closed_by"] for e in (await crm_export("errors", "--all", "--json")).json}
    assert closed == {f"A00{i}": "reexport" for i in range(1, 6)} | {"A006": "operator", "A008": None}
    log = page.locator("#actions tbody tr")
    assert [" ".join((await row.inner_text()).split()[3:]) for row in await log.all()] == [
        f"ada re-export {crm_export.connection}: everything done",
        "ada re-export accounts: FIELD_CUSTOM_VALIDATION_EXCEPTION of accounts done",
        f"ada re-export {crm_export.connection}: 2 chosen errors done",
        f"ada re-export {crm_export.connection}: 1 chosen errors done",
    ]


async def test_nothing_is_exported_again_while_export_to_crm_is_off(
    console: Console, crm_export: CommandLine, open_page: Open
) -> None:
    await refuse(crm_export, {"A1": VALIDATION})
    await crm_export("settings", crm_export.connection, "export-enabled", "off")
    page = await open_page(console, "/errors")
    await page.locator("#reexport-chosen").click()
    await expect(page.locator("#said")).to_contain_text("choose errors first")
    await page.get_by_role("button", name="Re-export: A1").click()
    await expect(page.locator("#said")).to_contain_text("Export to CRM is switched off")
    await expect(page.locator("#actions")).to_contain_text("not done: Export to CRM is switched off")
