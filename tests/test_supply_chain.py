"""What is installed is what was looked at, and no secret shows where it should not."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr

from crm_export.config import Config, SourceConfig
from crm_export.salesforce import AccessToken, ClientCredentials, JwtBearer, RefreshToken, Salesforce
from crm_export.salesforce.auth import Session
from crm_export.sources import Database as SourceDatabase
from crm_export.store import Store

ROOT = Path(__file__).parent.parent
LOCK = (ROOT / "requirements.lock").read_text()
SECRET = "Never-To-Be-Told"


def pinned(text: str) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, re.M)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def test_the_lock_pins_each_package_as_the_constraints_do_with_hashes() -> None:
    constraints = pinned((ROOT / "constraints.txt").read_text())
    locked = pinned(LOCK)
    assert locked
    assert {name: constraints.get(name) for name in locked} == locked, "make lock"
    for entry in re.split(r"\n(?=\w)", LOCK.strip()):
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry.splitlines()[0]


def test_the_lock_has_what_the_image_needs_and_names_no_place_to_get_it_from() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[\[<>=]", line)[0].lower() for line in project["dependencies"]}
    assert wanted <= pinned(LOCK).keys(), "make lock"
    assert not re.search(r"^\s*(--(?!hash)|-[a-z]\b|https?:|/)", LOCK, re.M)


def test_the_image_runs_as_an_ordinary_user_on_a_read_only_root() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    last_stage = dockerfile.rsplit("\nFROM ", 1)[1]
    assert re.search(r"^USER [1-9]\d+$", last_stage, re.M)
    assert "--require-hashes" in dockerfile
    assert not re.search(r"^(ARG|ENV) .*(SECRET|TOKEN|PASSWORD|KEY)", dockerfile, re.M | re.I)
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for name in ("setup", "worker", "cli"):
        assert services[name]["read_only"] is True
        assert services[name]["cap_drop"] == ["ALL"]


def test_what_may_hold_a_secret_stays_out_of_the_image() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {"exports.yaml", ".env*", "*.pem", "*.key", "*.db", ".git"} <= set(ignored)


@pytest.mark.parametrize(
    "thing",
    [
        ClientCredentials("id", SECRET),
        JwtBearer("id", "user", SECRET),
        RefreshToken("id", SECRET, SECRET),
        AccessToken(SECRET, "https://acme.my.salesforce.com"),
        Session(SECRET, "https://acme.my.salesforce.com"),
        Salesforce("https://acme.my.salesforce.com", "66.0", ClientCredentials("id", SECRET)),
        SourceDatabase(SourceConfig(name="db", url=SecretStr(f"postgresql://user:{SECRET}@host/db"))),
        Store(f"postgresql://user:{SECRET}@host/db").database.url,
        Store(f"postgresql://user:{SECRET}@host/db").database.engine,
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_no_secret_shows_in_a_repr(thing: object) -> None:
    assert SECRET not in repr(thing) + str(thing)


def test_the_store_s_password_shows_in_no_repr_of_the_configuration() -> None:
    config = Config.model_validate(
        {"store": f"postgresql://user:{SECRET}@host/db", "connections": {}, "sources": {}, "jobs": {}}
    )
    assert SECRET not in repr(config) + str(config)
