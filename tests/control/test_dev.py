"""``dev`` and ``demo``: one a folder, and what becomes of the programs that they run."""

import asyncio
import sys
from pathlib import Path

import pytest

from control import demo
from control.dev import temporal_variables
from control.processes import ProcessError, only_one
from tests.control.conftest import CommandLine


def test_a_second_demo_leaves_the_first_ones_folder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    demo.FOLDER.mkdir()
    (demo.FOLDER / "store.db").touch()
    with (
        only_one("demo", demo.FOLDER),
        pytest.raises(ProcessError, match="a demo runs in this folder already: stop it with Ctrl-C, or start this"),
    ):
        demo.run(script=False)
    assert (demo.FOLDER / "store.db").exists()


def test_a_second_dev_is_refused(tmp_path: Path) -> None:
    with only_one("dev", tmp_path / "one"):
        with pytest.raises(ProcessError, match="a dev runs in this folder already"), only_one("dev", tmp_path / "one"):
            pass
        with only_one("dev", tmp_path / "another"):
            pass
    with only_one("dev", tmp_path / "one"):
        pass


async def test_a_program_that_ended_is_named_with_its_log(tmp_path: Path) -> None:
    script = """if True:
        import os, signal, sys
        from pathlib import Path
        from control.dev import wait_for_stop
        from control.processes import Processes
        with Processes(Path(sys.argv[1])) as processes:
            os.kill(processes.start("worker", ["sleep", "60"]), signal.SIGKILL)
            processes.start("console", ["sleep", "60"])
            wait_for_stop(processes, "dev")
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-c", script, str(tmp_path)), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    said = (await process.stdout.readline()).decode()
    log = tmp_path / "worker.log"
    assert said == f"worker has ended (exit -9): see {log}; Ctrl-C, then crm-export dev again\n"
    await asyncio.sleep(1.5)
    process.terminate()
    # It is said once.
    assert await process.stdout.read() == b""
    await process.wait()


async def test_an_empty_password_is_not_hashed(crm_export: CommandLine) -> None:
    answer = await crm_export("console", "--hash-password")
    assert (answer.status, answer.out, answer.err) == (2, "", "crm-export: the password is empty\n")


def test_what_another_terminal_needs_names_the_ui_where_it_is_not_at_its_usual_place() -> None:
    assert temporal_variables(7233, 8233) == "TEMPORAL_ADDRESS=127.0.0.1:7233"
    assert temporal_variables(4001, 4002) == "TEMPORAL_ADDRESS=127.0.0.1:4001 TEMPORAL_UI_URL=http://127.0.0.1:4002"
