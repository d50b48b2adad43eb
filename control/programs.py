"""The commands that run until they are stopped: worker, console, dev, demo."""

import asyncio
import os
import signal
import sys

import click

import worker as worker_process
from control import demo as demonstration
from control import dev as development
from control.processes import CONSOLE_PORT
from crm_export import exports_yaml
from crm_export.errors import ConfigError, CrmExportError
from crm_export.log import configure


class MissingPartError(CrmExportError):
    """A part of the program is not installed; the message says how to install it."""


_config_file = click.option("--config", "config_file", metavar="FILE", help="Configuration (default: exports.yaml).")


@click.command()
@_config_file
@click.pass_context
def worker(context: click.Context, config_file: str | None) -> int:
    """Run a worker, the same as python worker.py."""
    return worker_process.main(config_file or context.obj)


@click.command()
@click.option("--host", metavar="HOST", help="Listen here, instead of console.host.")
@click.option("--port", type=click.IntRange(1, 65535), help="Listen here, instead of console.port.")
@click.option("--hash-password", is_flag=True, help="Ask for a password, print its hash for console.sign_in, and exit.")
@_config_file
@click.pass_context
def console(
    context: click.Context, host: str | None, port: int | None, hash_password: bool, config_file: str | None
) -> int:
    """Run the web console: settings, exports, export errors."""
    try:
        from control.console import serve, sign_in
    except ImportError as error:
        raise MissingPartError(
            f"the console is not installed ({error.name}): pip install '.[console]' in crm-export's folder"
        ) from None
    if hash_password:
        password = _password()
        if not password:
            raise ConfigError("the password is empty")
        click.echo(sign_in.hash_password(password))
        return 0
    config = exports_yaml.load(exports_yaml.find(config_file or context.obj, os.environ), os.environ)
    config = config.model_copy(update={"console": config.console.at(host, port)})
    configure()
    # The server stops at these by itself, and raises them again at its end: then it is done already.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    click.echo(f"console   http://{config.console.host}:{config.console.port}")
    asyncio.run(serve.serve(config))
    return 0


def _password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))


@click.command()
@click.option("--port", default=7233, show_default=True, help="Port of the Temporal server.")
@click.option("--ui-port", default=8233, show_default=True, help="Port of the Temporal UI.")
@click.option("--console-port", default=CONSOLE_PORT, show_default=True, help="Port of the web console.")
@_config_file
@click.pass_context
def dev(context: click.Context, port: int, ui_port: int, console_port: int, config_file: str | None) -> int:
    """Run a Temporal server with its UI, a worker and the web console on this machine, until Ctrl-C."""
    path = exports_yaml.find(config_file or context.obj, os.environ)
    return development.run(exports_yaml.load(path, os.environ), path, port, ui_port, console_port)


@click.command()
@click.option("--script", is_flag=True, help="Play the whole story, check it, and exit.")
def demo(script: bool) -> int:
    """Try it all on this machine: Temporal, a Salesforce stand-in, a worker, the console, 28,298 real airports."""
    return demonstration.run(script=script)


PROGRAMS = (worker, console, dev, demo)
