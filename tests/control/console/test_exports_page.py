"""The page Exports, in a browser: the held record and its buttons, what blocks, and all of it by itself."""

import asyncio
import re
from pathlib import Path

from playwright.async_api import expect
from temporalio.client import Client

from control.processes import Processes, free_port, temporal_command
from tests.control.conftest import CommandLine
from tests.control.console.conftest import Console, Open
from tests.parts import NO_CITY, Org, put_airports
from tests.workflows.test_export import airports

SCRIPT = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


async def test_run_hold_retry_and_skip(
    console: Console, crm_export: CommandLine, open_page: Open, org: Org, source_file: Path, temporal: Client
) -> None:
    airports(source_file, 25, {7, 17})
    await org.rule("city", NO_CITY)
    page = await open_page(console, "/exports")
    await expect(page.get_by_text("never ran")).to_be_visible()
    await page.get_by_role("button", name="Run now: accounts").click()
    card = page.locator("#job-accounts")
    for text in ("A007", "FIELD_CUSTOM_VALIDATION_EXCEPTION", NO_CITY["message"], "BillingCity", "7 of 25 exported"):
        await expect(card).to_contain_text(str(text))
    for term in ("Usual cause", "What to do", "Held since", "Next attempt"):
        await expect(card).to_contain_text(term)
    await expect(card).to_contain_text("in 59 min")
    await expect(card.get_by_role("link", name="Open in Temporal")).to_have_attribute(
        "href", re.compile("/workflows/export%2F")
    )

    put_airports(source_file, [("A007", "Airport 7", "Mended")])
    await page.get_by_role("button", name="Retry now: accounts").click()
    await expect(page.get_by_role("status")).to_contain_text("accounts: trying A007 now")
    await expect(card).to_contain_text("A017")
    await page.get_by_role("button", name="Skip this record: A017 of accounts").click()
    await expect(card).to_contain_text("24 of 25 exported, 1 left out")
    await expect(card).to_contain_text("idle")
    await expect(page.locator(".summary")).to_have_text("No job needs attention. 1 export error is open.")
    await expect(page.locator(".summary a")).to_have_attribute("href", f"/errors?connection={crm_export.connection}")

    log = page.locator("#actions tbody tr")
    await expect(log).to_have_count(3)
    assert [" ".join((await row.inner_text()).split()[3:]) for row in await log.all()] == [
        "ada skip accounts: A017 done",
        "ada retry accounts done",
        "ada run accounts done",
    ]
    # What was asked stands in Temporal's history, with the name.
    assert await asked_in_temporal(crm_export, temporal) == {
        ("asked_by", b'"ada"'),
        ("retry_now", b'"ada"'),
        ("skip_record", b'"ada"'),
    }


async def asked_in_temporal(crm_export: CommandLine, temporal: Client) -> set[tuple[str, bytes]]:
    """The signals and updates of the run, over all its executions, with their last argument."""
    workflow_id = (await crm_export("status", "--json")).json[0]["workflow_id"]
    found = set()
    async for run in temporal.list_workflows(f'WorkflowId="{workflow_id}"'):
        for event in (await temporal.get_workflow_handle(run.id, run_id=run.run_id).fetch_history()).events:
            update = event.workflow_execution_update_accepted_event_attributes.accepted_request.input
            signal = event.workflow_execution_signaled_event_attributes
            if update.name or signal.signal_name:
                payloads = (update.args if update.name else signal.input).payloads
                found.add((update.name or signal.signal_name, payloads[-1].data))
    return found


async def test_the_held_records_own_page_says_that_an_export_waits_and_has_the_buttons(
    console: Console, crm_export: CommandLine, open_page: Open, org: Org, source_file: Path
) -> None:
    airports(source_file, 25, {7, 17})
    await org.rule("city", NO_CITY)
    assert (await crm_export("run", "accounts", "--wait")).status == 3
    page = await open_page(console, "/errors")
    await page.get_by_role("link", name="A007").click()
    await expect(page.locator("main")).to_contain_text("The export accounts waits for this record: see Exports.")
    await page.get_by_role("button", name="Retry now: accounts").click()
    await expect(page.locator("#said")).to_contain_text("accounts: trying A007 now")
    await page.get_by_role("button", name="Skip this record: A007 of accounts").click()
    await expect(page.locator("#said")).to_contain_text("accounts: left A007 in ExportErrors and carries on")
    await page.get_by_role("link", name="see Exports").click()
    await expect(page.locator("#job-accounts")).to_contain_text("A017")


async def test_a_stale_page_skips_no_other_record(
    console: Console, crm_export: CommandLine, open_page: Open, org: Org, source_file: Path
) -> None:
    airports(source_file, 25, {7, 17})
    await org.rule("city", NO_CITY)
    assert (await crm_export("run", "accounts", "--wait")).status == 3
    page = await open_page(console, "/exports")
    await page.route("**/live**", lambda route: route.abort())
    await page.evaluate("window.stale = true")
    await crm_export("skip", "accounts")
    while (await crm_export("status", "--json")).json[0]["held"] is None:
        pass
    await page.get_by_role("button", name="Skip this record: A007 of accounts").click()
    await expect(page.locator("#said")).to_contain_text("holds record A017, not A007")
    assert (await crm_export("status", "--json")).json[0]["held"]["key"] == "A017"


async def test_a_blocked_job_says_why_and_carries_on(
    console: Console, crm_export: CommandLine, open_page: Open, org: Org, source_file: Path
) -> None:
    airports(source_file, 5, set())
    await org.rule("down", {"kind": "outage"})
    await crm_export("run", "accounts")
    page = await open_page(console, "/exports")
    card = page.locator("#job-accounts.blocked")
    why = card.locator("dl > div").filter(has_text="Why")
    await expect(why).to_contain_text("SERVER_UNAVAILABLE")
    assert (await why.inner_text()).count("SERVER_UNAVAILABLE") == 1
    await expect(card).to_contain_text("What to do")
    await expect(card).to_contain_text("No record is at fault")
    await org.drop("down")
    await page.get_by_role("button", name="Retry now: accounts").click()
    await expect(page.locator("#job-accounts")).to_contain_text("5 of 5 exported")


async def test_what_salesforce_says_is_text(
    console: Console, crm_export: CommandLine, open_page: Open, org: Org, source_file: Path
) -> None:
    put_airports(source_file, [("<b>k</b>", "Airport", None)])
    await org.rule("city", {**NO_CITY, "message": SCRIPT})
    assert (await crm_export("run", "accounts", "--wait")).status == 3
    page = await open_page(console, "/exports")
    for path in ("/exports", "/errors"):
        await page.goto(path)
        await expect(page.locator(".crm").first).to_have_text(SCRIPT)
        await expect(page.locator("code.key").first).to_have_text("<b>k</b>")
        assert await page.locator("main script, main img, main b").count() == 0
    await page.locator("table.errors a").click()
    await expect(page.locator(".crm")).to_have_text(SCRIPT)
    assert "taken" not in await page.title()
    await page.goto("/exports")
    await page.get_by_role("button", name="Skip").click()
    await expect(page.locator("#said")).to_contain_text("<b>k</b>")


async def test_the_page_goes_on_when_the_console_is_restarted(
    console: Console, crm_export: CommandLine, open_page: Open, org: Org, source_file: Path
) -> None:
    airports(source_file, 25, {7, 17})
    await org.rule("city", NO_CITY)
    assert (await crm_export("run", "accounts", "--wait")).status == 3
    page = await open_page(console, "/exports")
    await expect(page.locator("#job-accounts")).to_contain_text("A007")
    await page.evaluate("window.before = true")
    await console.kill()
    await expect(page.get_by_text("The console does not answer")).to_be_visible()
    await crm_export("skip", "accounts")
    await console.start()
    await expect(page.locator("#job-accounts")).to_contain_text("A017")
    await expect(page.get_by_text("The console does not answer")).to_be_hidden()
    await page.get_by_role("button", name="Skip this record: A017 of accounts").click()
    await expect(page.locator("#job-accounts")).to_contain_text("23 of 25 exported, 2 left out")
    assert await page.evaluate("window.before"), "the page was loaded again"


async def test_the_page_goes_on_when_temporal_is_restarted(
    crm_export: CommandLine, open_page: Open, tmp_path: Path, source_file: Path, org: Org
) -> None:
    port, database = free_port(), tmp_path / "temporal.db"
    crm_export.environ["TEMPORAL_ADDRESS"] = f"127.0.0.1:{port}"
    airports(source_file, 10, {7})
    await org.rule("city", NO_CITY)
    console = Console(crm_export)
    with Processes(tmp_path) as processes:
        processes.start("temporal", temporal_command(port, free_port(), database))
        await asyncio.to_thread(processes.wait_for, "temporal", port)
        assert (await crm_export("setup")).status == 0
        await console.start()
        page = await open_page(console, "/exports")
        await expect(page.get_by_text("never ran")).to_be_visible()
        no_worker = page.get_by_text("No worker runs: nothing is exported until one does")
        await expect(no_worker).to_be_visible()
        await expect(page.locator(".summary")).to_have_text("")
        await asyncio.to_thread(processes.stop, "temporal")
        await expect(page.locator("#live [role=alert]")).to_be_visible()
        await expect(no_worker).to_have_count(0)
        await expect(page.locator(".summary")).to_have_text("")
        await page.get_by_role("button", name="Run now: accounts").click()
        await expect(page.locator("#said")).to_contain_text("Temporal")
        processes.start("temporal", temporal_command(port, free_port(), database))
        await asyncio.to_thread(processes.wait_for, "temporal", port)
        await expect(page.locator("#live [role=alert]")).to_have_count(0)
        await page.get_by_role("button", name="Run now: accounts").click()
        await expect(page.locator("#job-accounts")).to_contain_text("running")
        await console.stop()
