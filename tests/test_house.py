"""The arrows of the house run one way, and the words of the docs are those of the code."""

import ast
import itertools
import re
import tomllib
from pathlib import Path

import pytest

ROOMS = ("worker", "control", "workflows", "activities", "crm_export", "salesforce_simulator")
MAY_IMPORT = {
    "worker": {"workflows", "activities", "crm_export"},
    "control": {"worker", "workflows", "activities", "crm_export"},
    "workflows": {"activities", "crm_export"},
    "activities": {"crm_export"},
    "crm_export": set(),
    "salesforce_simulator": set(),
}
ROOT = Path(__file__).parent.parent


def files(room: str) -> list[Path]:
    return [ROOT / f"{room}.py"] if room == "worker" else sorted((ROOT / room).rglob("*.py"))


def imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_imports_only_what_stands_below_it(room: str) -> None:
    for file in files(room):
        for module in imports(file):
            top = module.split(".")[0]
            if top in ROOMS and top != room:
                assert top in MAY_IMPORT[room], f"{file.relative_to(ROOT)} imports {module}"


def test_the_engine_knows_no_temporal() -> None:
    for file in (*files("crm_export"), *files("salesforce_simulator")):
        assert not any(module.split(".")[0] == "temporalio" for module in imports(file)), file


def test_workflows_do_no_io() -> None:
    forbidden = {"httpx", "sqlalchemy", "os", "pathlib", "time", "random", "socket", "subprocess", "threading"}
    for file in files("workflows"):
        assert not {module.split(".")[0] for module in imports(file)} & forbidden, file


def test_no_file_is_two_rooms() -> None:
    for room in ROOMS:
        for file in files(room):
            assert len(file.read_text().splitlines()) <= 420, f"{file.relative_to(ROOT)} is perhaps two rooms"


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    reasons = (ROOT / "docs" / "dependencies.md").read_text().lower()
    for line in itertools.chain(project["dependencies"], *project["optional-dependencies"].values()):
        name = re.split(r"[\[<>=]", line)[0].lower()
        assert f"`{name}`" in reasons, f"{name} has no reason in docs/dependencies.md"
