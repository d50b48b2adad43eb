"""The command line: what each command does, prints and exits with; wrong use is one clear line."""

import asyncio
import json
import signal
import sqlite3
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import click
import pytest
from temporalio.client import Client, ScheduleOverlapPolicy

from control.acknowledgement import ACKNOWLEDGEMENT
from control.cli import cli
from control.processes import Processes, free_port, temporal_command
from crm_export.store import Store
from tests.control.conftest import CommandLine
from tests.parts import NO_CITY, Org, put_airports
from tests.workflows.test_export import airports


@pytest.mark.usefixtures("worker")
async def test_the_story_by_hand(crm_export: CommandLine, org: Org, source_file: Path) -> None:
    airports(source_file, 35, {7, 17, 20})
    await org.rule("city", NO_CITY)
    paused = await crm_export("run", "accounts", "--wait")
    assert paused.status == 3
    assert "paused at FIELD_CUSTOM_VALIDATION_EXCEPTION · Account A007" in paused.out

    [status] = (await crm_export("status", "accounts", "--json")).json
    assert (status["state"], status["exported"], status["open_errors"]) == ("paused", 7, 1)
    held = status["held"]
    assert (held["key"], held["code"], held["fields"]) == ("A007", "FIELD_CUSTOM_VALIDATION_EXCEPTION", ["BillingCity"])
    assert held["hint"]
    while held["next_attempt_at"] is None:
        [status] = (await crm_export("status", "accounts", "--json")).json
        held = status["held"]
    assert status["workflow_id"].startswith(f"export/{crm_export.connection}/accounts-")
    assert status["run_id"] in status["ui_url"]
    assert "held     A007" in (await crm_export("status")).out

    again = await crm_export("run", "accounts")
    assert (again.status, again.err) == (
        1,
        "crm-export: accounts is being exported already: see crm-export status accounts\n",
    )

    put_airports(source_file, [("A007", "Airport 7", "Mended")])
    assert (await crm_export("retry", "accounts")).out == "accounts: trying A007 now\n"
    while status["held"] is None or status["held"]["key"] != "A017":
        [status] = (await crm_export("status", "--json")).json
    assert (await crm_export("skip", "accounts")).out == "accounts: left A017 in ExportErrors and carries on\n"
    while status["held"] is None or status["held"]["key"] != "A020":
        [status] = (await crm_export("status", "--json")).json

    refused = await crm_export("settings", crm_export.connection, "pause-on-error", "off")
    assert refused.status == 2
    assert "Data inconsistency acknowledgement" in refused.err
    assert ACKNOWLEDGEMENT in refused.err
    assert "Records held now, which would be left out: 1 (accounts A020)" in refused.err
    [settings] = (await crm_export("settings", "--json")).json
    assert settings["pause_on_error"] is True

    changed = await crm_export("settings", crm_export.connection, "pause-on-error", "off", "--yes")
    assert changed.status == 0
    assert "released: accounts A020" in changed.out
    while status["state"] != "idle":
        [status] = (await crm_export("status", "--json")).json
    assert (status["exported"], status["failed"], status["held"]) == (33, 2, None)
    errors = (await crm_export("errors", "--json")).json
    assert {(e["record_key"], e["state"]) for e in errors} == {("A017", "open"), ("A020", "open")}
    assert "A017" in (await crm_export("errors", "accounts", "--code", "FIELD_CUSTOM_VALIDATION_EXCEPTION")).out

    tried = await crm_export("try", "accounts", "A017")
    assert tried.status == 1
    assert "refused: FIELD_CUSTOM_VALIDATION_EXCEPTION" in tried.out
    assert "usual cause: a validation rule said no" in tried.out
    await org.drop("city")
    assert (await crm_export("try", "accounts", "A017", "--json")).json["status"] == 201
    done = await crm_export("reexport", "--wait")
    assert "1 exported, 0 refused again, 0 gone" in done.out
    closed = {e["record_key"]: e["closed_by"] for e in (await crm_export("errors", "--all", "--json")).json}
    assert closed == {"A007": "export", "A017": "operator", "A020": "reexport"}
    assert (await crm_export("errors")).out == "no open errors\n"
    assert (await crm_export("errors", "--code", "NOPE")).out == "no errors match\n"
    finished = await crm_export("run", "accounts", "--wait")
    assert (finished.status, "every record was exported" in finished.out) == (0, True)


@pytest.mark.usefixtures("worker")
async def test_status_of_a_blocked_run_says_why_and_since_when(
    crm_export: CommandLine, org: Org, source_file: Path
) -> None:
    airports(source_file, 5, set())
    await org.rule("down", {"kind": "outage"})
    await crm_export("run", "accounts")
    while (status := (await crm_export("status", "--json")).json[0])["state"] != "blocked":
        pass
    assert status["blocked"]["code"] == "SERVER_UNAVAILABLE"
    assert status["blocked"]["message"].startswith("SERVER_UNAVAILABLE · Service unavailable")
    assert status["blocked"]["since"]
    told = (await crm_export("status")).out
    for line in ("  blocked  since ", "  SERVER_UNAVAILABLE: Service unavailable\n", "  to do    ", "  next     "):
        assert line in told
    assert (await crm_export("retry", "accounts")).status == 0
    await org.drop("down")
    while status["state"] != "idle":
        [status] = (await crm_export("status", "--json")).json
    assert status["exported"] == 5


async def test_a_worker_waits_for_a_server_that_is_not_up_yet(
    crm_export: CommandLine, org: Org, source_file: Path, tmp_path: Path
) -> None:
    assert (await crm_export("setup")).status == 0
    port = free_port()
    address = {"TEMPORAL_ADDRESS": f"127.0.0.1:{port}"}
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        "worker.py",
        env={**crm_export.environ, **address},
        stderr=asyncio.subprocess.PIPE,
    )
    assert worker.stderr is not None
    assert b"cannot reach Temporal" in await worker.stderr.readline()
    airports(source_file, 5, set())
    with Processes(tmp_path) as processes:
        processes.start("temporal", temporal_command(port, free_port(), None))
        await asyncio.to_thread(processes.wait_for, "temporal", port)
        assert (await crm_export("setup", **address)).status == 0
        assert (await crm_export("run", "accounts", "--wait", **address)).status == 0
    # What the SDK has to say of a server that is gone is a line like the others.
    while "temporalio.core" not in (line := json.loads(await worker.stderr.readline()))["logger"]:
        pass
    assert line["level"] == "warning"
    worker.terminate()
    assert await worker.wait() == 0


async def test_without_a_worker_nothing_is_asked_for_that_happens_later(
    crm_export: CommandLine, org: Org, tmp_path: Path
) -> None:
    address = {"TEMPORAL_ADDRESS": f"127.0.0.1:{(port := free_port())}"}
    with Processes(tmp_path) as processes:
        processes.start("temporal", temporal_command(port, free_port(), None))
        await asyncio.to_thread(processes.wait_for, "temporal", port)
        assert (await crm_export("setup", **address)).status == 0
        refused = await crm_export("settings", crm_export.connection, "pause-on-error", "off", "--yes", **address)
        told = "crm-export: no worker runs, so nothing was changed: start one (crm-export worker), then ask again"
        assert (refused.status, refused.err.splitlines()[-1]) == (1, told)
        status = (await crm_export("status", **address)).out
        assert status.startswith(
            "no worker runs: nothing is exported until one does (crm-export worker)\naccounts  idle"
        )
        worker_environ = {**crm_export.environ, **address}
        worker = await asyncio.create_subprocess_exec(sys.executable, "worker.py", env=worker_environ, stderr=-3)
        # An update of its own comes after whatever was sent before.
        changed = await crm_export("settings", crm_export.connection, "daily-api-limit", "7", **address)
        assert changed.status == 0, changed.err
        [settings] = (await crm_export("settings", "--json", **address)).json
        assert (settings["daily_api_limit"], settings["pause_on_error"]) == (7, True)
        worker.terminate()
        await worker.wait()


async def test_what_a_worker_that_died_has_not_answered_is_said_to_be_asked_for(
    crm_export: CommandLine, worker: asyncio.subprocess.Process, org: Org, source_file: Path
) -> None:
    airports(source_file, 5, {2})
    await org.rule("city", NO_CITY)
    assert (await crm_export("run", "accounts", "--wait")).status == 3
    worker.kill()
    await worker.wait()
    skipped = await crm_export("skip", "accounts")
    assert (skipped.status, skipped.out) == (1, "")
    assert skipped.err.startswith("crm-export: asked for, but no worker answered for export/")
    assert "it happens as soon as one runs (crm-export worker); see crm-export status" in skipped.err
    store = Store(f"sqlite:///{crm_export.file.with_name('store.db')}")
    assert store.actions.last([crm_export.connection], 1)[0].outcome == "asked for, not answered yet"
    store.close()


async def test_ctrl_c_ends_the_waiting_and_says_that_the_run_goes_on(crm_export: CommandLine, temporal: Client) -> None:
    # No worker takes them: both are waited for.
    assert (await crm_export("setup")).status == 0
    store = Store(f"sqlite:///{crm_export.file.with_name('store.db')}")
    for action, arguments, told in (
        ("re-export", ["reexport"], f"the re-export of {crm_export.connection} goes on: crm-export errors"),
        ("run", ["run", "accounts"], "accounts goes on: crm-export status accounts"),
    ):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "control", *arguments, "--wait"), env=crm_export.environ, stderr=-1, stdout=-1
        )
        # It is started, and waited for from now on.
        while [(one.action, one.outcome) for one in store.actions.last([crm_export.connection], 1)] != [
            (action, "done")
        ]:
            await asyncio.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
        assert (process.returncode, err.decode().splitlines()[-1]) == (1, f"crm-export: no longer waiting; {told}")
    store.close()
    async for run in temporal.list_workflows(f'ExportConnection="{crm_export.connection}"'):
        await temporal.get_workflow_handle(run.id).terminate()


@pytest.mark.usefixtures("worker")
async def test_export_to_crm_switched_off(crm_export: CommandLine) -> None:
    off = await crm_export("settings", crm_export.connection, "export-enabled", "off")
    assert off.status == 0
    for arguments in (("run", "accounts"), ("reexport",)):
        refused = await crm_export(*arguments)
        assert (refused.status, "switched off" in refused.err) == (1, True)
    shown = (await crm_export("settings")).out
    assert "Pause on export error" not in shown
    assert "Daily CRM API limit    100,000 (0 used today)" in shown
    assert "export_enabled: on → off" in shown


async def test_sigterm_ends_a_run_at_the_next_batch_and_another_worker_goes_on(
    crm_export: CommandLine, worker: asyncio.subprocess.Process, org: Org, source_file: Path
) -> None:
    keys = airports(source_file, 100, set())
    await org.rule("slow", {"kind": "slow", "seconds": 0.3})
    await crm_export("run", "accounts")
    while not await org.written():
        await asyncio.sleep(0.02)
    worker.terminate()
    assert await worker.wait() == 0
    assert 0 < len(await org.written()) < 100
    await org.drop("slow")
    process = await asyncio.create_subprocess_exec(sys.executable, "worker.py", env=crm_export.environ, stderr=-3)
    while len(await org.written()) < 100:
        await asyncio.sleep(0.05)
    assert await org.written() == keys
    process.terminate()
    await process.wait()


@pytest.mark.usefixtures("worker")
async def test_a_paused_run_that_cannot_reach_the_crm_says_so(
    crm_export: CommandLine, org: Org, source_file: Path
) -> None:
    airports(source_file, 5, {2})
    await org.rule("city", NO_CITY)
    assert (await crm_export("run", "accounts", "--wait")).status == 3
    assert (await crm_export("status", "--json")).json[0]["blocked"] is None
    await org.rule("down", {"kind": "outage"})
    await crm_export("retry", "accounts")
    while (status := (await crm_export("status", "--json")).json[0])["blocked"] is None:
        pass
    assert (status["state"], status["blocked"]["code"]) == ("paused", "SERVER_UNAVAILABLE")


@pytest.mark.usefixtures("worker")
async def test_the_inbox_starts_a_reexport(
    crm_export: CommandLine, temporal: Client, org: Org, source_file: Path
) -> None:
    airports(source_file, 5, {2})
    await org.rule("city", NO_CITY)
    await crm_export("settings", crm_export.connection, "pause-on-error", "off", "--yes")
    assert (await crm_export("run", "accounts", "--wait")).status == 0
    await org.drop("city")
    inbox = temporal.get_workflow_handle(f"export-errors/{crm_export.connection}")
    assert await inbox.execute_update("reexport") == 1
    while (await crm_export("errors")).out != "no open errors\n":
        pass


async def test_schedules_are_daily_skip_what_overlaps_and_catch_up_a_day(
    crm_export: CommandLine, temporal: Client
) -> None:
    crm_export.edit("    key: icao", '    key: icao\n    schedule: "*/15 * * * *"')
    assert (await crm_export("setup")).status == 0
    for schedule_id, minutes in (
        (f"CRMExport_ExportError/{crm_export.connection}", {0}),
        (f"export/{crm_export.connection}/accounts", {0, 15, 30, 45}),
    ):
        described = await temporal.get_schedule_handle(schedule_id).describe()
        assert described.schedule.policy.overlap is ScheduleOverlapPolicy.SKIP
        assert described.schedule.policy.catchup_window == timedelta(days=1)
        assert {moment.minute for moment in described.info.next_action_times} == minutes


async def test_setup_may_be_repeated_and_removes_schedules_of_jobs_that_are_gone(crm_export: CommandLine) -> None:
    first = await crm_export("setup")
    assert first.status == 0
    assert f"schedule export/{crm_export.connection}/accounts" in first.out
    crm_export.edit("  accounts:", "  airports:")
    again = await crm_export("setup")
    assert again.status == 0
    assert f"removed schedule export/{crm_export.connection}/accounts" in again.out


async def test_setup_says_in_one_line_that_a_newer_version_has_been_here(crm_export: CommandLine) -> None:
    assert (await crm_export("setup")).status == 0
    with closing(sqlite3.connect(crm_export.file.with_name("store.db"))) as store, store:
        store.execute("UPDATE alembic_version SET version_num = '9999'")
    refused = await crm_export("setup")
    assert (refused.status, len(refused.err.splitlines())) == (1, 1)
    assert "was set up by a newer crm-export: install that one" in refused.err


async def test_setup_says_in_one_line_what_temporal_refuses(crm_export: CommandLine) -> None:
    crm_export.edit("  accounts:", f"  {'a' * 1_000}:")
    refused = await crm_export("setup")
    assert (refused.status, len(refused.err.splitlines())) == (1, 1)
    assert refused.err.startswith("crm-export: Temporal refused: ")


async def test_a_reexport_that_is_terminated_is_one_clear_line(crm_export: CommandLine, temporal: Client) -> None:
    assert (await crm_export("setup")).status == 0
    waiting = asyncio.create_task(crm_export("reexport", "--wait"))
    query = f'ExportConnection="{crm_export.connection}" AND WorkflowType="CRMExport_ExportError"'
    while not (found := [run async for run in temporal.list_workflows(query)]):
        await asyncio.sleep(0.05)
    # No worker takes it; that the command waits for it already is what its name in the history says.
    handle = temporal.get_workflow_handle(found[0].id)
    while not [
        e async for e in handle.fetch_history_events() if e.HasField("workflow_execution_signaled_event_attributes")
    ]:
        await asyncio.sleep(0.05)
    await handle.terminate()
    answer = await waiting
    told = f"crm-export: the re-export {handle.id} was terminated: crm-export reexport starts another\n"
    assert (answer.status, answer.err) == (1, told)


async def test_check_says_what_is_wrong_with_each_job(crm_export: CommandLine, source_file: Path) -> None:
    airports(source_file, 2, set())
    checked = await crm_export("check")
    assert (checked.status, checked.out) == (0, "ok  accounts\n")
    assert checked.err.endswith("store.db is not set up yet: run crm-export setup\n")
    assert (await crm_export("setup")).status == 0
    assert (await crm_export("check")).err == ""
    crm_export.edit("Icao__c", "Iaco__c")
    crm_export.edit("BillingCity: city", "BillingCiti: town")
    checked = await crm_export("check", "accounts")
    assert checked.status == 1
    assert checked.out.splitlines() == [
        "accounts: source warehouse, table airports has no column town",
        "accounts: Account has no field Iaco__c (did you mean Icao__c?)",
        "accounts: Account has no field BillingCiti (did you mean BillingCity?)",
    ]


async def test_check_says_that_the_store_cannot_be_there(crm_export: CommandLine, source_file: Path) -> None:
    airports(source_file, 2, set())
    folder = crm_export.file.parent
    crm_export.edit(f"{folder}/store.db", f"{folder}/nope/store.db")
    checked = await crm_export("check")
    told = f"store sqlite:///{folder}/nope/store.db: there is no folder {folder}/nope: create it"
    assert (checked.status, checked.out) == (1, f"accounts: {told}\n")
    assert (await crm_export("check", "--json")).json == [{"job": "accounts", "problems": [told]}]


async def test_try_shows_a_request_without_sending_it(crm_export: CommandLine, org: Org, source_file: Path) -> None:
    put_airports(source_file, [("A/1", "One", "City")])
    tried = await crm_export("try", "accounts", "A/1", "--dry-run", "--json")
    assert (tried.status, tried.json["path"]) == (0, "/services/data/v66.0/sobjects/Account/Icao__c/A%2F1")
    assert tried.json["request"] == {"Name": "One", "BillingCity": "City"}
    assert await org.written() == []
    missing = await crm_export("try", "accounts", "NOPE")
    assert (missing.status, missing.err) == (
        1,
        "crm-export: source warehouse has no record NOPE for job accounts\n",
    )


@pytest.mark.parametrize(
    ("arguments", "environ", "status", "told"),
    [
        (("run", "nope"), {}, 2, "there is no job nope; there is: accounts"),
        (("reexport", "nope"), {}, 2, "there is no connection nope"),
        (("settings", "nope", "pause-on-error", "on"), {}, 2, "there is no connection nope"),
        (("--config", "none.yaml", "status"), {}, 2, "none.yaml: no such file: copy exports.example.yaml"),
        (("status", "--config", "none.yaml"), {}, 2, "none.yaml: no such file"),
        (("status",), {"TEMPORAL_ADDRESS": "127.0.0.1:9"}, 1, "does not exist: run crm-export setup"),
        (("setup",), {"TEMPORAL_ADDRESS": "127.0.0.1:9"}, 1, "reach Temporal at 127.0.0.1:9 (connection refused)"),
        (("setup",), {"TEMPORAL_ADDRESS": "http://x y"}, 2, "(http://x y: an address is HOST:PORT alone)"),
        (("setup",), {"TEMPORAL_ADDRESS": "x:99999"}, 2, "cannot be used (x:99999: invalid target URL"),
        (("setup",), {"TEMPORAL_PROFILE": "nope"}, 2, "(Profile 'nope' not found): see TEMPORAL_ADDRESS"),
        (("setup",), {"TEMPORAL_CONFIG_FILE": "Makefile"}, 2, "cannot be used (TOML parse error at line "),
        (("setup",), {"TEMPORAL_TLS_CLIENT_CERT_PATH": "/none.pem"}, 2, "(cannot read /none.pem: No such file"),
        (("check",), {"SECRET": "wrong"}, 1, "invalid_client: Salesforce refused the sign-in"),
    ],
)  # fmt: skip
async def test_wrong_use_is_one_clear_line(
    crm_export: CommandLine, arguments: tuple[str, ...], environ: dict[str, str], status: int, told: str
) -> None:
    answer = await crm_export(*arguments, **environ)
    printed = (answer.err or answer.out).strip()
    assert answer.status == status
    assert told in printed
    assert "Traceback" not in answer.out + answer.err
    assert len(printed.splitlines()) == 1
    assert not crm_export.file.with_name("store.db").exists()


async def test_what_is_not_there_is_named(crm_export: CommandLine) -> None:
    assert (await crm_export("setup")).status == 0
    for arguments, told in (
        (("retry", "accounts"), "accounts has never run"),
        (("skip", "accounts"), "accounts is not paused"),
        (("settings", crm_export.connection, "pause-on-error", "maybe"), "on or off, not maybe"),
        (("settings", crm_export.connection, "daily-api-limit", "0"), "1 or more"),
        (("settings", crm_export.connection, "daily-api-limit", "²"), "1 or more"),
        (("settings", crm_export.connection, "daily-api-limit", "9" * 5_000), "1 or more"),
        (("settings", crm_export.connection, "export-batch-size", "30"), "one of 25, 50, 100, 200"),
        (("settings", crm_export.connection, "pause-on-error"), "the new value is missing"),
    ):
        answer = await crm_export(*arguments)
        assert told in answer.err
        assert len(answer.err.splitlines()) == 1
        assert answer.status in (1, 2)
    crm_export.edit("source.db", "gone.db")
    assert "SQLite file that does not exist" in (await crm_export("check")).out


def test_every_command_says_what_it_does_and_is_in_the_readme() -> None:
    readme = (Path(__file__).parent.parent.parent / "README.md").read_text()
    for name, command in cli.commands.items():
        assert command.help, name
        assert f"crm-export {name}" in readme, f"{name} is not in the README"
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.opts}"
