"""``crm-export dev``: Temporal with its UI, a worker and the console on one machine, for your configuration."""

import asyncio
import os
import signal
import threading
from pathlib import Path

import click

from control.processes import (
    ProcessError,
    Processes,
    console_command,
    is_free,
    only_one,
    temporal_command,
    worker_command,
)
from control.setup import setup
from crm_export.config import Config

FOLDER = Path(".crm-export")
"""Temporal's database and the logs; kept, so that exports survive a restart."""


def run(config: Config, config_file: Path, port: int, ui_port: int, console_port: int) -> int:
    """Run until Ctrl-C. Raises ProcessError where a port is taken or a program does not start."""
    with only_one("dev", FOLDER):
        return _run(config, config_file, port, ui_port, console_port)


def _run(config: Config, config_file: Path, port: int, ui_port: int, console_port: int) -> int:
    for option, wanted in (("--port", port), ("--ui-port", ui_port), ("--console-port", console_port)):
        if not is_free(wanted):
            raise ProcessError(f"port {wanted} is taken: stop what listens there, or choose another {option}")
    FOLDER.mkdir(exist_ok=True)
    os.environ["TEMPORAL_ADDRESS"] = f"127.0.0.1:{port}"
    os.environ["TEMPORAL_UI_URL"] = f"http://127.0.0.1:{ui_port}"
    with Processes(FOLDER) as processes:
        processes.start("temporal", temporal_command(port, ui_port, FOLDER / "temporal.db"))
        processes.wait_for("temporal", port)
        asyncio.run(_set_up(config))
        processes.start("worker", worker_command(config_file))
        processes.start("console", console_command(config_file, console_port))
        processes.wait_for("console", console_port)
        click.echo(f"Console   http://127.0.0.1:{console_port}")
        click.echo(f"Temporal  127.0.0.1:{port}, UI http://127.0.0.1:{ui_port}")
        if (port, ui_port) != (7233, 8233):
            click.echo(
                f"commands  export {temporal_variables(port, ui_port)}  (in the terminal that they are given in)"
            )
        click.echo(f"logs      {FOLDER}/worker.log, {FOLDER}/console.log, {FOLDER}/temporal.log")
        click.echo("Ctrl-C stops; what is under way goes on at the next start")
        wait_for_stop(processes, "dev")
        click.echo("stopping")
    return 0


def temporal_variables(port: int, ui_port: int) -> str:
    """What another terminal needs to find this Temporal, and its UI where that is not at its usual place."""
    ui = "" if ui_port == 8233 else f" TEMPORAL_UI_URL=http://127.0.0.1:{ui_port}"
    return f"TEMPORAL_ADDRESS=127.0.0.1:{port}{ui}"


async def _set_up(config: Config) -> None:
    async for line in setup(config):
        click.echo(f"ok        {line}")


def wait_for_stop(processes: Processes, command: str) -> None:
    """Wait for Ctrl-C or SIGTERM, and say which program ended before."""
    stop = threading.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda *_: stop.set())
    said: set[str] = set()
    while not stop.wait(1):
        for name, status in processes.ended():
            if name not in said:
                log = processes.log(name)
                click.echo(f"{name} has ended (exit {status}): see {log}; Ctrl-C, then crm-export {command} again")
                said.add(name)
