"""``crm-export demo``: the whole product on one machine, with real records and a Salesforce stand-in.

28,298 airports go to Salesforce as Accounts. Salesforce demands a city, and 2,825 airports have none.
"""

import asyncio
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Set
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import click
import httpx

from activities.temporal import ui_url
from control import printing
from control.dev import temporal_variables, wait_for_stop
from control.exports import Exports, exports
from control.processes import (
    CONSOLE_PORT,
    Processes,
    console_command,
    free_port,
    only_one,
    temporal_command,
    worker_command,
)
from control.setup import setup
from crm_export import exports_yaml
from crm_export.clients import Clients
from crm_export.config import Config, Job
from crm_export.errors import CrmExportError
from crm_export.model import HeldRecord, JsonValue

FOLDER = Path(".crm-export-demo")
CONNECTION, JOB = "acme", "accounts"
NEEDS_CITY = {
    "kind": "validation",
    "object": "Account",
    "field": "BillingCity",
    "blank": True,
    "message": "An account needs a billing city.",
}
_READ = 5_000
_STEP_SECONDS = 300
T = TypeVar("T")

_CONFIG = """\
store: sqlite:///{folder}/store.db
connections:
  acme:
    crm: salesforce
    login_url: {salesforce}
    auth: {{flow: client_credentials, client_id: demo, client_secret: demo}}
sources:
  warehouse: {{url: "sqlite:///{folder}/warehouse.db"}}
jobs:
  accounts:
    connection: acme
    source: warehouse
    table: airports
    key: icao
    cursor: updated_at
    object: Account
    external_id: Icao__c
    fields:
      Name: name
      BillingCity: city
      BillingState: subd
      BillingCountry: country
      BillingLatitude: lat
      BillingLongitude: lon
      Iata__c: iata
      Elevation__c: elevation
      Timezone__c: tz
    heartbeat: 5s
    retry: {{initial: {initial}, maximum: {maximum}}}
"""


class DemoError(CrmExportError):
    """The story did not go as it must."""


@dataclass(frozen=True)
class Stage:
    """Where the demo plays."""

    folder: Path
    config_file: Path
    config: Config
    salesforce: str
    temporal_port: int
    ui_port: int
    console_port: int

    @property
    def job(self) -> Job:
        return self.config.jobs[JOB]

    @property
    def warehouse(self) -> Path:
        return self.folder / "warehouse.db"


def run(*, script: bool) -> int:
    """Play the story by itself (``script``), or set the stage and wait for Ctrl-C."""
    if script:
        folder = Path(tempfile.mkdtemp(prefix="crm-export-demo-"))
        with Processes(folder) as processes:
            asyncio.run(_story(_set_stage(folder, processes, script=True)))
        shutil.rmtree(folder)
        return 0
    folder = FOLDER.absolute()
    with only_one("demo", folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        with Processes(folder) as processes:
            stage = _set_stage(folder, processes, script=False)
            asyncio.run(_until_paused(stage))
            _invite(stage)
            wait_for_stop(processes, "demo")
            click.echo("stopping")
    return 0


def _set_stage(folder: Path, processes: Processes, *, script: bool) -> Stage:
    port = free_port(None if script else 7233)
    ui_port = free_port(None if script else 8233)
    console_port = free_port(None if script else CONSOLE_PORT)
    salesforce_port = free_port(None if script else 8090)
    salesforce = f"http://127.0.0.1:{salesforce_port}"
    config_file = folder / "exports.yaml"
    initial, maximum = ("1s", "2s") if script else ("5s", "30s")
    config_file.write_text(
        _CONFIG.format(folder=folder, salesforce=salesforce, initial=initial, maximum=maximum), encoding="utf-8"
    )
    stage = Stage(
        folder=folder,
        config_file=config_file,
        config=exports_yaml.load(config_file, os.environ),
        salesforce=salesforce,
        temporal_port=port,
        ui_port=ui_port,
        console_port=console_port,
    )
    # This process and its worker talk to the demo's own server, whatever the machine is set up for.
    for name in [name for name in os.environ if name.startswith("TEMPORAL_")]:
        del os.environ[name]
    os.environ["TEMPORAL_CONFIG_FILE"] = str(folder / "no-profile.toml")
    os.environ["TEMPORAL_ADDRESS"] = f"127.0.0.1:{port}"
    os.environ["TEMPORAL_UI_URL"] = f"http://127.0.0.1:{ui_port}"
    click.echo(f"{_load_airports(stage.warehouse):,} airports are in {stage.warehouse}")
    processes.start("temporal", temporal_command(port, ui_port, None))
    processes.start("salesforce", [sys.executable, "-m", "salesforce_simulator", "--port", str(salesforce_port)])
    processes.wait_for("salesforce", salesforce_port)
    processes.wait_for("temporal", port)
    asyncio.run(_switch_rule(stage, on=True))
    asyncio.run(_set_up(stage.config))
    processes.start("worker", worker_command(config_file))
    processes.start("console", console_command(config_file, console_port))
    processes.wait_for("console", console_port)
    click.echo(f"Temporal, its UI (http://127.0.0.1:{ui_port}), a Salesforce stand-in and a worker are running")
    click.echo(f"the console is at http://127.0.0.1:{console_port}")
    return stage


async def _set_up(config: Config) -> None:
    async for _ in setup(config):
        pass


def _load_airports(path: Path) -> int:
    """A warehouse with real records: in the order of their codes, each a millisecond after the one before."""
    try:
        import airportsdata
    except ImportError:
        raise DemoError("the demo's records are missing: pip install '.[demo]' in crm-export's folder") from None
    airports: Mapping[str, Mapping[str, Any]] = airportsdata.load()
    columns = ("icao", "iata", "name", "city", "subd", "country", "elevation", "lat", "lon", "tz")
    began = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        (*(airports[icao][column] or None for column in columns), _text(began + timedelta(milliseconds=i)))
        for i, icao in enumerate(sorted(airports))
    ]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "CREATE TABLE airports (icao TEXT PRIMARY KEY, iata TEXT, name TEXT, city TEXT, subd TEXT, country TEXT, "
            "elevation REAL, lat REAL, lon REAL, tz TEXT, updated_at TEXT NOT NULL)"
        )
        connection.execute("CREATE INDEX airports_in_order ON airports (updated_at, icao)")
        connection.executemany(f"INSERT INTO airports VALUES ({', '.join('?' * 11)})", rows)
    return len(rows)


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")


# The story


async def _until_paused(stage: Stage) -> None:
    async with exports(stage.config) as facade:
        await facade.run(stage.job, by="demo")
        click.echo(f"paused at {await _held(facade, stage, after=None)}")


def _invite(stage: Stage) -> None:
    query = quote('ExportState="Paused" AND ExecutionStatus="Running"')
    workflows = f"http://127.0.0.1:{stage.ui_port}/namespaces/default/workflows?query={query}"
    click.echo(
        f"""
Where to look
  http://127.0.0.1:{stage.console_port}
  the console: the held record with its buttons, the errors, the settings
  {workflows}
  the run's tab Pending Activities says why it is stuck; User Metadata says what to do

What to try, in another terminal in this folder
  export CRM_EXPORT_CONFIG={stage.config_file} {temporal_variables(stage.temporal_port, stage.ui_port)}
  export PATH={Path(sys.executable).parent}:$PATH
  crm-export status                                            where it stands
  crm-export try accounts 00AL                                 any one record, request and answer
  sqlite3 {stage.warehouse} "UPDATE airports SET city = 'Springfield' WHERE icao = '…'"
                                                               mend the held record: the run carries on by itself
  crm-export skip accounts                                     leave it in ExportErrors, carry on after it
  crm-export settings acme pause-on-error off                  never pause: the rest goes to ExportErrors
  curl -X DELETE {stage.salesforce}/simulator/rules/city       the admin relaxes the rule in Salesforce
  crm-export reexport --wait                                   what runs every day: every error is closed
  crm-export errors

Ctrl-C stops everything."""
    )


async def _story(stage: Stage) -> None:
    async with exports(stage.config) as facade, httpx.AsyncClient(base_url=stage.salesforce) as salesforce:
        click.echo("\n1. The export pauses at the first airport that Salesforce refuses")
        running = await facade.run(stage.job, by="demo")
        first = await _held(facade, stage, after=None)
        await _check_exact(stage, salesforce, first)
        click.echo(f"   paused at {first}")
        click.echo(f"   {ui_url(running.handle.id, None, 'default')}")

        click.echo("2. The record is mended in the source; the run carries on by itself, and pauses at the next")
        _mend(stage.warehouse, first.record_key)
        second = await _held(facade, stage, after=first.record_key)
        await _check_exact(stage, salesforce, second, mended={first.record_key})
        click.echo(f"   {first.record_key} went through; paused at {second}")

        click.echo("3. The owner switches pause on export error off; the run ends with the rest in ExportErrors")
        click.echo(_indented(printing.acknowledgement(CONNECTION, await facade.held(CONNECTION))))
        told = await facade.set_pause_on_error(CONNECTION, False, "demo")
        click.echo(f"   released: {', '.join(told.released)}")
        result = await facade.result(running.handle)
        open_errors = len(await facade.errors(job=None, code=None, closed_too=False))
        click.echo(f"   {result.outcome}")
        _check(open_errors == result.refused > 0, f"{result.refused} left out, {open_errors} open errors")

        click.echo("4. The admin relaxes the rule; the daily re-export closes every row")
        await _switch_rule(stage, on=False)
        again = await facade.reexport(CONNECTION, "demo")
        click.echo(f"   {(await facade.reexport_result(again.handle)).outcome}")
        open_errors = len(await facade.errors(job=None, code=None, closed_too=False))

        click.echo("5. Source and CRM, record by record")
        equal, records = await _compared(stage)
        click.echo(f"   {equal:,} of {records:,} equal, {open_errors} open errors")
        _check(equal == records and open_errors == 0, "source and CRM differ")


async def _held(facade: Exports, stage: Stage, after: str | None) -> HeldRecord:
    """The record that the run holds, once it is another than ``after``."""

    async def held() -> HeldRecord | None:
        state = await facade.state(stage.job)
        return state.held if state and state.held and state.held.record_key != after else None

    return await _until(held)


async def _until(found: Callable[[], Awaitable[T | None]]) -> T:
    for _ in range(_STEP_SECONDS * 10):
        if (value := await found()) is not None:
            return value
        await asyncio.sleep(0.1)
    raise DemoError(f"nothing happened for {_STEP_SECONDS} s: see the logs")


async def _check_exact(
    stage: Stage, salesforce: httpx.AsyncClient, held: HeldRecord, mended: Set[str] = frozenset()
) -> None:
    """Every record before the held one is in the CRM, and none behind it; ``mended`` are now last in the order."""
    written = {line["key"] for line in (await salesforce.get("/simulator/audit")).json()}
    assert held.position.cursor is not None
    with closing(sqlite3.connect(stage.warehouse)) as connection:
        before = {
            key
            for (key,) in connection.execute(
                "SELECT icao FROM airports WHERE (updated_at, icao) < (?, ?)",
                (held.position.cursor.value, held.position.key.value),
            )
        }
    _check(written == before | mended, f"paused at {held.record_key}, but not exactly")


def _mend(warehouse: Path, icao: str) -> None:
    with closing(sqlite3.connect(warehouse)) as connection, connection:
        connection.execute(
            "UPDATE airports SET city = 'Springfield', updated_at = ? WHERE icao = ?", (_text(datetime.now(UTC)), icao)
        )


async def _switch_rule(stage: Stage, *, on: bool) -> None:
    async with httpx.AsyncClient(base_url=stage.salesforce) as salesforce:
        rule = "/simulator/rules/city"
        answer = await (salesforce.put(rule, json=NEEDS_CITY) if on else salesforce.delete(rule))
        answer.raise_for_status()


async def _compared(stage: Stage) -> tuple[int, int]:
    """How many source records the CRM, asked by SOQL, holds exactly so, and how many there are."""
    job, clients = stage.job, Clients(stage.config, None)
    try:
        crm = clients.crm(CONNECTION)
        fields = [job.external_id, *job.fields]
        query = f"SELECT {', '.join(fields)} FROM {job.object}"
        in_crm: dict[str, Any] = {str(record[job.external_id]): record async for record in crm.query(query)}
        equal = records = 0
        position = None
        while page := await asyncio.to_thread(clients.source(job).read, position, _READ):
            records += len(page)
            equal += sum(_is_same(record.values, in_crm.get(record.key)) for record in page)
            position = page[-1].position
        return equal, records
    finally:
        await clients.close()


def _is_same(sent: Any, kept: dict[str, JsonValue] | None) -> bool:
    return kept is not None and all(kept.get(field) == value for field, value in sent.items())


def _check(holds: bool, problem: str) -> None:
    if not holds:
        raise DemoError(f"the demo failed: {problem}")


def _indented(text: str) -> str:
    return "\n".join(f"   | {line}" for line in text.splitlines())
