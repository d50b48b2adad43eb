"""exports.yaml: what it may say, and one clear line for everything that is wrong with it."""

import re
from datetime import timedelta
from pathlib import Path

import pytest

from crm_export import exports_yaml
from crm_export.config import Config
from crm_export.errors import ConfigError

GOOD = """\
store: sqlite:///crm-export.db
connections:
  acme:
    crm: salesforce
    login_url: https://acme.my.salesforce.com
    auth:
      flow: client_credentials
      client_id: ${CLIENT_ID}
      client_secret: ${CLIENT_SECRET:-geheim}
    notify: https://hooks.example.com/SECRET
sources:
  warehouse:
    url: ${URL:-postgresql://me:hunter2@db/warehouse}
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
    schedule: "*/15 * * * *"
    retry: {initial: 10s, maximum: 1h}
"""
ENVIRON = {"CLIENT_ID": "the-id"}


def load(tmp_path: Path, text: str = GOOD, environ: dict[str, str] | None = None) -> Config:
    file = tmp_path / "exports.yaml"
    file.write_text(text, encoding="utf-8")
    return exports_yaml.load(file, ENVIRON if environ is None else environ)


def test_it_is_read_with_the_environment_and_the_defaults(tmp_path: Path) -> None:
    config = load(tmp_path)
    job, connection = config.jobs["accounts"], config.connections["acme"]
    assert (job.name, job.batch_size, job.concurrency) == ("accounts", 200, 1)
    assert (job.retry.initial, job.retry.maximum) == (timedelta(seconds=10), timedelta(hours=1))
    assert job.columns == ("icao", "updated_at", "name")
    assert (connection.api_version, connection.blocked_after) == ("66.0", timedelta(minutes=2))
    assert connection.reexport_schedule == "0 3 * * *"
    assert connection.first_settings.pause_on_error is True
    assert repr(connection.credentials()) == "ClientCredentials(client_id='the-id')"


def test_no_secret_shows_in_its_repr(tmp_path: Path) -> None:
    shown = repr(load(tmp_path))
    for secret in ("geheim", "hunter2", "SECRET"):
        assert secret not in shown


def test_the_example_is_valid() -> None:
    names = set(re.findall(r"\$\{(\w+)\}", Path("exports.example.yaml").read_text()))
    environ = {name: "sqlite:///x.db" if name.endswith("URL") else "x" for name in names}
    assert exports_yaml.load(Path("exports.example.yaml"), environ).jobs


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("    crm: salesforce", "    crm: salesforce\n    puase_on_error: true", r":5: connections.acme.puase_on_error: unknown key \(did you mean pause_on_error\?\); allowed: crm, "),
        ("stor", "  stor", r":\d: not YAML: "),
        ("    source: warehouse", "    source: warehose", r":17: jobs.accounts.source: there is no source warehose \(did you mean warehouse\?\); there is: warehouse"),
        ("    connection: acme", "    connection: other", r":16: jobs.accounts.connection: there is no connection other"),
        ("      Name: name", "      Name: name\n      Name: city", r":25: jobs.accounts.fields.Name: is there twice \(first in line 24\)"),
        ("      Name: name", "      Icao__c: icao", "Icao__c is the external ID"),
        ("*/15 * * * *", "* * *", r":25: jobs.accounts.schedule: not a cron line: five fields"),
        ("*/15 * * * *", "61 * * * *", "not a cron line"),
        ("10s", "10 seconds", r"jobs.accounts.retry.initial: a duration is a number with its unit: 30s"),
        ("    table: airports", "    table: airports\n    query: SELECT 1", "one of table and query is needed"),
        ("    table: airports\n", "", "one of table and query is needed"),
        ("    key: icao\n", "", "jobs.accounts.key: is missing"),
        ("https://acme", "http://acme", r":5: connections.acme.login_url: https://HOST is needed"),
        ("flow: client_credentials", "flow: password", r"connections.acme.auth.flow: is needed, one of client_credentials"),
        ("      client_id: ${CLIENT_ID}\n", "", "connections.acme.auth.client_id: is missing"),
        ("    key: icao\n", "    kye: icao\n", r":19: jobs.accounts.kye: unknown key \(did you mean key\?\); allowed: .* \(and 1 more\)"),
        ("client_id: $", "clientid: $", r":8: connections.acme.auth.clientid: unknown key \(did you mean client_id\?\); allowed: .* \(and 1 more\)"),
        ("${CLIENT_ID}", "${MISSING}", r":8: connections.acme.auth.client_id: the environment variable MISSING is not set"),
        ("  accounts:", "  acc/ounts:", "a name has letters, digits"),
        ("store: sqlite:///crm-export.db\n", "", "store: is missing"),
        ("sqlite:///crm-export.db", "postgresql://me:geheim@db:abc/x", r":1: store: its port is not a number"),
        ("@db/warehouse", "@db:geheim/warehouse", r":13: sources.warehouse.url: its port is not a number: a : / or @ of the password is written %3A"),
        ("store:", '"a\\nb": 1\nstore:', r":1: a b: unknown key; allowed: store, "),
        ("store:", "console: {hots: x}\nstore:", r":1: console.hots: unknown key \(did you mean host\?\); allowed: host, port"),
        ("store:", "console: {host: 0.0.0.0}\nstore:", r":1: console: to listen on 0.0.0.0, others .* need console.sign_in"),
        ("store:", "console: {public_url: https://crm.example.com}\nstore:", r":1: console: console.public_url lets others in: console.sign_in is needed"),
        ("store:", "console: {sign_in: {}}\nstore:", r"console.sign_in: users, oidc, or both are needed"),
        ("store:", "console: {sign_in: {users: {ada: {password_hash: geheim, role: operator}}}}\nstore:", r"console.sign_in.users.ada.password_hash: not a password hash"),
        ("store:", "console: {sign_in: {users: {ada: {hash: x, role: operator}}}}\nstore:", r"console.sign_in.users.ada.hash: unknown key; allowed: password_hash, role"),
        ("store:", "console: {sign_in: {oidc: {issuer: https://x, client_id: a, client_secret: b, roles: {claims: x}}}}\nstore:", r"console.sign_in.oidc.roles.claims: unknown key \(did you mean claim\?\)"),
        ("    crm: salesforce", "    crm: salesforce\n    export_batch_size: 30", r"export_batch_size: input should be 25, 50, 100 or 200"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_clear_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError, match=told) as raised:
        load(tmp_path, GOOD.replace(old, new, 1))
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith(str(tmp_path / "exports.yaml"))
    assert "geheim" not in message


def test_a_variable_cannot_change_the_structure(tmp_path: Path) -> None:
    config = load(tmp_path, environ={"CLIENT_ID": "x\n    pause_on_error: false"})
    assert config.connections["acme"].pause_on_error is True


def test_http_is_for_this_machine_alone(tmp_path: Path) -> None:
    for url in ("http://127.0.0.1:8090", "http://localhost:1", "http://[::1]:2"):
        assert load(tmp_path, GOOD.replace("https://acme.my.salesforce.com", url)).connections["acme"].login_url == url


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"copy exports\.example\.yaml"):
        exports_yaml.load(tmp_path / "none.yaml", {})


def test_which_file_is_read() -> None:
    assert exports_yaml.find("a.yaml", {"CRM_EXPORT_CONFIG": "b.yaml"}) == Path("a.yaml")
    assert exports_yaml.find(None, {"CRM_EXPORT_CONFIG": "b.yaml"}) == Path("b.yaml")
    assert exports_yaml.find(None, {}) == Path("exports.yaml")


def test_a_name_with_a_line_break_breaks_no_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"exports.yaml:3: connections.a b") as told:
        load(tmp_path, GOOD.replace("  acme:\n", '  "a\\nb": null\n  acme:\n'))
    assert "\n" not in str(told.value)
