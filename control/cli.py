"""``crm-export``: the command line. Exit status: 0 done, 1 failed, 2 wrong use or configuration, 3 the run paused."""

import asyncio
import getpass
import json
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import wraps
from typing import Any, NoReturn

import click
from pydantic import BaseModel

from activities.requests import SettingsTold
from activities.temporal import TemporalUnreachableError
from control import printing, programs
from control.asking import waiting
from control.checks import check_job, check_store, try_record
from control.codec_server import codec_server
from control.exports import Exports, exports
from control.setup import setup as set_up
from crm_export import exports_yaml
from crm_export.config import Config, Job
from crm_export.errors import ConfigError, CrmExportError
from crm_export.model import BATCH_SIZES, MOST_CALLS

PAUSED = 3
WRONG_USE = 2
FAILED = 1
_POLL_SECONDS = 0.3
_MOST_DIGITS = 20
_NOT_STARTED = "not started"
"""So begins the outcome of a run that found another under way, or Export to CRM switched off: nothing was done."""


_SETTINGS: dict[str, Callable[..., Awaitable[SettingsTold]]] = {
    "pause-on-error": Exports.set_pause_on_error,
    "export-enabled": Exports.set_export_enabled,
    "daily-api-limit": Exports.set_daily_api_limit,
    "export-batch-size": Exports.set_export_batch_size,
}


class UsageError(CrmExportError):
    """The command cannot be understood with this configuration."""


def _config(function: Callable[..., int]) -> Callable[..., Any]:
    """Give a command the option ``--config``, which may also stand before the command."""

    @click.option("--config", "config_file", metavar="FILE", help="Configuration (default: exports.yaml).")
    @click.pass_obj
    @wraps(function)
    def command(file: str | None, /, *args: Any, config_file: str | None, **kwargs: Any) -> int:
        path = exports_yaml.find(config_file or file, os.environ)
        return function(exports_yaml.load(path, os.environ), *args, **kwargs)

    return command


_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--config", "config_file", metavar="FILE", help="Configuration (default: exports.yaml).")
@click.version_option(package_name="crm-export")
@click.pass_context
def cli(context: click.Context, config_file: str | None) -> None:
    """Exports records from a database to Salesforce: pauses at the record that Salesforce refuses, or leaves it out,
    logs it in ExportErrors, and exports it again every day."""
    context.obj = config_file


@cli.command()
@click.argument("job", required=False)
@_json
@_config
def check(config: Config, job: str | None, as_json: bool) -> int:
    """Validate the configuration, store, source and Salesforce mapping of one job or all."""
    jobs = _jobs(config, job)
    store, hint = check_store(config)
    found = {one.name: [*store, *asyncio.run(check_job(config, one))] for one in jobs}
    if as_json:
        _print_json([{"job": name, "problems": problems} for name, problems in found.items()])
    else:
        printing.problems(found)
        if hint and not any(found.values()):
            click.echo(hint, err=True)
    return FAILED if any(found.values()) else 0


@cli.command()
@_json
@_config
def setup(config: Config, as_json: bool) -> int:
    """Create or migrate tables, search attributes, entity workflows and Schedules. Safe to repeat."""

    async def run() -> list[str]:
        return [line async for line in set_up(config)]

    lines = asyncio.run(run())
    if as_json:
        _print_json(lines)
    else:
        for line in lines:
            click.echo(f"ok  {line}")
    return 0


@cli.command()
@click.argument("job")
@click.option("--wait", is_flag=True, help="Wait for the end; exit status 3 when the run pauses.")
@click.option("--full", is_flag=True, help="Start before the first record, whatever was exported before.")
@_json
@_config
def run(config: Config, job: str, wait: bool, full: bool, as_json: bool) -> int:
    """Start a run of JOB now."""
    [one] = _jobs(config, job)

    async def start(facade: Exports) -> int:
        running = await facade.run(one, full=full, by=getpass.getuser())
        if not wait:
            _print(as_json, {"job": job, "workflow_id": running.handle.id}, f"{job} started: {running.handle.id}")
            return 0
        with waiting(f"{job} goes on: crm-export status {job}"), printing.RunBar(job, quiet=as_json) as bar:
            while True:
                progress = await facade.progress(one, running.handle)
                bar.show(progress)
                if progress.state.held or progress.ended:
                    break
                await asyncio.sleep(_POLL_SECONDS)
        if progress.state.held and not progress.ended:
            [status] = await facade.status([one])
            _print(as_json, status, f"paused at {progress.state.held}\n{printing.what_to_do(job)}")
            return PAUSED
        if progress.ended != "completed":
            _print(as_json, {"job": job, "ended": progress.ended}, f"{job}: the run was {progress.ended}")
            return FAILED
        result = await facade.result(running.handle)
        _print(as_json, result, f"{job}: {result.outcome} ({progress.state.counts})")
        return FAILED if result.outcome.startswith(_NOT_STARTED) else 0

    return _with_exports(config, start)


@cli.command()
@click.argument("job", required=False)
@_json
@_config
def status(config: Config, job: str | None, as_json: bool) -> int:
    """Show the state of each job, what it waits for, and its Temporal UI address."""

    async def show(facade: Exports) -> int:
        found = await facade.status(_jobs(config, job))
        if as_json:
            _print_json(found)
        else:
            if await facade.has_worker() is False:
                click.echo(printing.NO_WORKER)
            printing.statuses(found)
        return 0

    return _with_exports(config, show)


@cli.command()
@click.argument("job", required=False)
@click.option("--all", "closed_too", is_flag=True, help="Closed rows too.")
@click.option("--code", metavar="CODE", help="Only rows with this CRM error code.")
@_json
@_config
def errors(config: Config, job: str | None, closed_too: bool, code: str | None, as_json: bool) -> int:
    """Show the ExportErrors table: open and held rows."""
    if job is not None:
        _jobs(config, job)

    async def show(facade: Exports) -> int:
        found = await facade.errors(job=job, code=code, closed_too=closed_too)
        if as_json:
            _print_json(found)
        else:
            printing.errors(found, narrowed=closed_too or code is not None)
        return 0

    return _with_exports(config, show)


@cli.command()
@click.argument("connection", required=False)
@click.option("--wait", is_flag=True, help="Wait for the end.")
@_json
@_config
def reexport(config: Config, connection: str | None, wait: bool, as_json: bool) -> int:
    """Run the daily re-export CRMExport_ExportError now, for one connection or all."""

    names = _connections(config, connection)

    async def start(facade: Exports) -> int:
        shown = []
        exit_status = 0
        for name in names:
            running = await facade.reexport(name, getpass.getuser())
            word = "started" if running.started else "is under way"
            if not wait:
                shown.append({"connection": name, "workflow_id": running.handle.id, "started": running.started})
                _say(as_json, f"re-export of {name} {word}: {running.handle.id}")
                continue
            with waiting(f"the re-export of {name} goes on: crm-export errors"):
                result = await facade.reexport_result(running.handle)
            shown.append({"connection": name, "workflow_id": running.handle.id, **result.model_dump()})
            _say(as_json, f"re-export of {name}: {result.outcome}")
            exit_status = FAILED if result.not_tried else exit_status
        if as_json:
            _print_json(shown)
        return exit_status

    return _with_exports(config, start)


@cli.command()
@click.argument("connection", required=False)
@click.argument("setting", required=False, type=click.Choice(list(_SETTINGS)))
@click.argument("value", required=False)
@click.option("--yes", is_flag=True, help="Acknowledge that data may become inconsistent.")
@_json
@_config
def settings(
    config: Config, connection: str | None, setting: str | None, value: str | None, yes: bool, as_json: bool
) -> int:
    """Show the settings, or change one: CONNECTION pause-on-error on|off."""
    names = _connections(config, connection)
    if setting is not None and value is None:
        raise UsageError(f"settings {connection} {setting}: the new value is missing")
    wanted = _setting_value(setting, value) if setting is not None and value is not None else None

    async def show(facade: Exports) -> int:
        found = [{"connection": name, **(await facade.settings(name)).model_dump()} for name in names]
        if as_json:
            _print_json(found)
        else:
            for name in names:
                calls, changes = await facade.calls_today(name), await facade.changes(name)
                printing.settings(name, await facade.settings(name), calls, changes)
        return 0

    async def change(facade: Exports) -> int:
        [name] = names
        if setting == "pause-on-error" and wanted is False and not await _acknowledged(facade, name, yes):
            return WRONG_USE
        told = await _SETTINGS[str(setting)](facade, name, wanted, getpass.getuser())
        released = f", released: {', '.join(told.released)}" if told.released else ""
        _print(
            as_json,
            told,
            f"{name}: {setting} is {value}; {printing.counted(len(told.told), 'running export')} told{released}",
        )
        return 0

    return _with_exports(config, show if setting is None else change)


@cli.command()
@click.argument("job")
@_json
@_config
def retry(config: Config, job: str, as_json: bool) -> int:
    """Try the held record of JOB now, or what blocks it."""
    [one] = _jobs(config, job)

    async def ask(facade: Exports) -> int:
        key = await facade.retry(one, getpass.getuser())
        _print(as_json, {"job": job, "record_key": key}, f"{job}: trying {key or 'again'} now")
        return 0

    return _with_exports(config, ask)


@cli.command()
@click.argument("job")
@_json
@_config
def skip(config: Config, job: str, as_json: bool) -> int:
    """Leave the held record of JOB in ExportErrors and carry on after it."""
    [one] = _jobs(config, job)

    async def ask(facade: Exports) -> int:
        key = await facade.skip(one, getpass.getuser())
        _print(as_json, {"job": job, "record_key": key}, f"{job}: left {key} in ExportErrors and carries on")
        return 0

    return _with_exports(config, ask)


@cli.command(name="try")
@click.argument("job")
@click.argument("key")
@click.option("--dry-run", is_flag=True, help="Show the request, and send nothing.")
@_json
@_config
def try_(config: Config, job: str, key: str, dry_run: bool, as_json: bool) -> int:
    """Export the one record KEY of JOB from this machine, and show request, response, code and hint."""
    [one] = _jobs(config, job)
    exchange = asyncio.run(try_record(config, one, key, dry_run=dry_run))
    if as_json:
        _print_json(exchange)
    else:
        printing.exchange(exchange)
    return FAILED if exchange.code else 0


for program in programs.PROGRAMS:
    cli.add_command(program)


cli.add_command(codec_server)


def _jobs(config: Config, name: str | None) -> list[Job]:
    if name is None:
        return list(config.jobs.values())
    if name not in config.jobs:
        raise UsageError(f"there is no job {name}; there is: {', '.join(config.jobs) or 'none'}")
    return [config.jobs[name]]


def _connections(config: Config, name: str | None) -> list[str]:
    if name is None:
        return list(config.connections)
    if name not in config.connections:
        raise UsageError(f"there is no connection {name}; there is: {', '.join(config.connections) or 'none'}")
    return [name]


def _setting_value(setting: str, value: str) -> bool | int:
    if setting == "daily-api-limit":
        # Python refuses to read a number of thousands of digits.
        if not value.isdecimal() or len(value) > _MOST_DIGITS or int(value) < 1:
            raise UsageError(f"{setting} is a number of calls, 1 or more and at most {MOST_CALLS:,}, not {value}")
        return int(value)
    if setting == "export-batch-size":
        if value not in map(str, BATCH_SIZES):
            raise UsageError(f"{setting} is one of {', '.join(map(str, BATCH_SIZES))}, not {value}")
        return int(value)
    if value not in ("on", "off"):
        raise UsageError(f"{setting} is on or off, not {value}")
    return value == "on"


async def _acknowledged(facade: Exports, connection: str, yes: bool) -> bool:
    """The data inconsistency acknowledgement; without a terminal it takes ``--yes``."""
    held = await facade.held(connection)
    click.echo(printing.acknowledgement(connection, held), err=True)
    if yes:
        return True
    if not sys.stdin.isatty():
        click.echo("crm-export: nothing is changed: confirm with --yes", err=True)
        return False
    return click.confirm("Switch pause on export error off?", default=False, err=True)


def _with_exports(config: Config, command: Callable[[Exports], Coroutine[Any, Any, int]]) -> int:
    async def run() -> int:
        async with exports(config) as facade:
            return await command(facade)

    return asyncio.run(run())


def _say(as_json: bool, text: str) -> None:
    if not as_json:
        click.echo(text)


def _print(as_json: bool, shown: BaseModel | dict[str, Any], text: str) -> None:
    if as_json:
        _print_json(shown)
    else:
        click.echo(text)


def _print_json(shown: BaseModel | Sequence[Any] | dict[str, Any]) -> None:
    def plain(value: Any) -> Any:
        return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)

    click.echo(json.dumps(shown, default=plain, ensure_ascii=False))


def _status_of(arguments: Sequence[str] | None) -> int:
    try:
        return int(cli.main(args=arguments, prog_name="crm-export", standalone_mode=False) or 0)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.Abort:
        click.echo("crm-export: stopped", err=True)
        return FAILED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (ConfigError, UsageError) as error:
        click.echo(f"crm-export: {error}", err=True)
        return WRONG_USE
    except (CrmExportError, TemporalUnreachableError) as error:
        click.echo(f"crm-export: {error}", err=True)
        return FAILED


def main() -> NoReturn:
    """The command's entry point."""
    status = _status_of(None)
    sys.stdout.flush()
    sys.stderr.flush()
    # The Temporal SDK can abort a process that ends right after its last call (sdk-python issue 300).
    os._exit(status)
