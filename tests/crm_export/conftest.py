"""The two databases that sources and the store are tested on."""

from pathlib import Path

import pytest


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        file = tmp_path / "database.db"
        file.touch()
        return f"sqlite:///{file}"
    return str(request.getfixturevalue("postgresql_url"))
