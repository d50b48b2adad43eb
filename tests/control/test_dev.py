"""``dev`` and ``demo``: one a folder, and what becomes of the programs that they run."""

from pathlib import Path

import pytest

from control import demo
from control.processes import ProcessError, only_one


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
