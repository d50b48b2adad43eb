"""The words of ``exports.yaml`` as frozen models; :mod:`crm_export.exports_yaml` reads them.

Secrets are in ``SecretStr``: they show in no ``repr``, log or error.
"""

import re
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from cronsim import CronSim, CronSimError
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from crm_export.errors import ConfigError
from crm_export.model import MOST_CALLS, Settings
from crm_export.salesforce import (
    AccessToken,
    ClientCredentials,
    Credentials,
    JwtBearer,
    RefreshToken,
    is_safe_url,
)

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def _duration(value: object) -> object:
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        return timedelta(seconds=float(match[1]) * _SECONDS[match[2]])
    if isinstance(value, timedelta):
        return value
    raise ValueError("a duration is a number with its unit: 30s, 2m, 1h, 1d")


def _cron(value: str) -> str:
    try:
        if len(value.split()) != 5:
            raise CronSimError
        next(CronSim(value, _EPOCH))
    except (CronSimError, StopIteration):
        raise ValueError(
            "not a cron line: five fields are allowed, minute hour day month weekday, such as */15 * * * * (UTC)"
        ) from None
    return value


def _url(value: str) -> str:
    if not is_safe_url(value):
        raise ValueError("https://HOST is needed; http:// is allowed for this machine's own addresses alone")
    return value.rstrip("/")


def _secret_url(value: SecretStr) -> SecretStr:
    _url(value.get_secret_value())
    return value


def _database_url(value: str) -> str:
    try:
        make_url(value)
    except ArgumentError:
        # Whoever opens it says which kinds there are.
        return value
    except ValueError:
        # SQLAlchemy's words quote it, perhaps with a part of the password.
        raise ValueError("its port is not a number: a : / or @ of the password is written %3A %2F %40") from None
    return value


def _secret_database_url(value: SecretStr) -> SecretStr:
    _database_url(value.get_secret_value())
    return value


def _host_of(url: str) -> str:
    return urlsplit(url).hostname or ""


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Cron = Annotated[str, AfterValidator(_cron)]
Url = Annotated[str, AfterValidator(_url)]
DatabaseUrl = Annotated[str, AfterValidator(_database_url)]
SecretDatabaseUrl = Annotated[SecretStr, AfterValidator(_secret_database_url)]
SecretUrl = Annotated[SecretStr, AfterValidator(_secret_url)]


class ClientCredentialsAuth(_Model):
    """OAuth 2.0 client credentials; Salesforce wants ``login_url`` to be the org's My Domain."""

    flow: Literal["client_credentials"]
    client_id: str
    client_secret: SecretStr


class JwtBearerAuth(_Model):
    """OAuth 2.0 JWT bearer: the private key as PEM text, or the file that holds it."""

    flow: Literal["jwt_bearer"]
    client_id: str
    username: str
    private_key: SecretStr | None = None
    private_key_file: Path | None = None

    @model_validator(mode="after")
    def _one_key(self) -> "JwtBearerAuth":
        if (self.private_key is None) == (self.private_key_file is None):
            raise ValueError("one of private_key and private_key_file is needed")
        return self


class RefreshTokenAuth(_Model):
    """OAuth 2.0 refresh token of a person who signed in once."""

    flow: Literal["refresh_token"]
    client_id: str
    client_secret: SecretStr | None = None
    refresh_token: SecretStr


class AccessTokenAuth(_Model):
    """A session that something else signs in; it cannot be renewed here."""

    flow: Literal["access_token"]
    access_token: SecretStr
    instance_url: Url


Auth = Annotated[
    ClientCredentialsAuth | JwtBearerAuth | RefreshTokenAuth | AccessTokenAuth, Field(discriminator="flow")
]


class Connection(_Model):
    """One CRM org and how to sign in to it."""

    name: str
    crm: Literal["salesforce"]
    login_url: Url
    api_version: Annotated[str, Field(pattern=r"^\d{2,3}\.0$"), BeforeValidator(str)] = "66.0"
    auth: Auth
    export_enabled: bool = True
    pause_on_error: bool = True
    daily_api_limit: Annotated[int, Field(ge=1, le=MOST_CALLS)] = 100_000
    export_batch_size: Literal[25, 50, 100, 200] = 200
    reexport_schedule: Cron = "0 3 * * *"
    blocked_after: Duration = timedelta(minutes=2)
    concurrency: Annotated[int, Field(ge=1, le=100)] = 25
    notify: SecretUrl | None = None

    @property
    def first_settings(self) -> Settings:
        """What the settings are before anybody has changed them."""
        return Settings(
            export_enabled=self.export_enabled,
            pause_on_error=self.pause_on_error,
            daily_api_limit=self.daily_api_limit,
            export_batch_size=self.export_batch_size,
        )

    def credentials(self) -> Credentials:
        """Raises ConfigError when a key file cannot be read."""
        match self.auth:
            case ClientCredentialsAuth(client_id=client_id, client_secret=secret):
                return ClientCredentials(client_id, secret.get_secret_value())
            case JwtBearerAuth(client_id=client_id, username=username, private_key=key, private_key_file=file):
                return JwtBearer(client_id, username, key.get_secret_value() if key else self._read(file))
            case RefreshTokenAuth(client_id=client_id, client_secret=secret, refresh_token=token):
                return RefreshToken(client_id, secret.get_secret_value() if secret else None, token.get_secret_value())
            case AccessTokenAuth(access_token=token, instance_url=instance_url):
                return AccessToken(token.get_secret_value(), instance_url)

    def _read(self, file: Path | None) -> str:
        assert file is not None
        try:
            return file.read_text()
        except OSError as error:
            raise ConfigError(
                f"connections.{self.name}.auth.private_key_file: cannot read {file}: {error.strerror}"
            ) from None


class SourceConfig(_Model):
    """A SQL database that records are read from."""

    name: str
    url: SecretDatabaseUrl


class Retry(_Model):
    """How a held record is tried again: first after ``initial``, doubling, at most ``maximum`` apart."""

    initial: Annotated[Duration, Field(ge=timedelta(seconds=1))] = timedelta(seconds=30)
    maximum: Annotated[Duration, Field(ge=timedelta(seconds=1))] = timedelta(minutes=15)


class Job(_Model):
    """One table or query, exported to one CRM object."""

    name: str
    connection: str
    source: str
    table: str | None = None
    query: str | None = None
    key: str
    cursor: str | None = None
    object: str
    external_id: str
    fields: Annotated[dict[str, str], Field(min_length=1)]
    schedule: Cron | None = None
    concurrency: Annotated[int, Field(ge=1, le=25)] = 1
    partition_by: str | None = None
    batch_size: Annotated[int, Field(ge=1, le=200)] = 200
    retry: Retry = Retry()
    heartbeat: Annotated[Duration, Field(ge=timedelta(seconds=2), le=timedelta(minutes=10))] = timedelta(seconds=30)
    lookback: Annotated[Duration, Field(ge=timedelta(0))] = timedelta(0)

    @model_validator(mode="after")
    def _consistent(self) -> "Job":
        if (self.table is None) == (self.query is None):
            raise ValueError("one of table and query is needed")
        if self.external_id in self.fields:
            raise ValueError(f"{self.external_id} is the external ID, which the key fills: take it out of fields")
        if self.lookback and self.cursor is None:
            raise ValueError("lookback goes with a cursor")
        return self

    def in_batches_of(self, most: int) -> "Job":
        """The job with no more records a call than its connection's ``export_batch_size``."""
        return self if self.batch_size <= most else self.model_copy(update={"batch_size": most})

    @property
    def columns(self) -> tuple[str, ...]:
        """The source columns that the job reads, the key first, each once."""
        wanted = [self.key, self.cursor, *self.fields.values(), self.partition_by]
        return tuple(dict.fromkeys(name for name in wanted if name is not None))


class ConsoleUser(_Model):
    """Somebody who signs in to the console by a password; ``crm-export console --hash-password`` makes the hash."""

    password_hash: SecretStr
    role: Literal["viewer", "operator"]

    @field_validator("password_hash")
    @classmethod
    def _argon2(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith("$argon2"):
            raise ValueError("not a password hash: make one with crm-export console --hash-password")
        return value


class OidcRoles(_Model):
    """Who may what: a person whose ``claim`` holds one of a role's values has it; ``"*"`` stands for everybody."""

    claim: str = "groups"
    operator: tuple[str, ...] = ()
    viewer: tuple[str, ...] = ()


class Oidc(_Model):
    """Sign-in by OpenID Connect. The provider sends people back to ``<public_url>/sign-in/callback``."""

    issuer: Url
    client_id: str
    client_secret: SecretStr
    scopes: str = "openid profile email"
    name_claim: str = "email"
    roles: OidcRoles


class SignIn(_Model):
    """How people sign in to the console."""

    users: dict[str, ConsoleUser] = {}
    oidc: Oidc | None = None

    @model_validator(mode="after")
    def _some_way(self) -> "SignIn":
        if not self.users and self.oidc is None:
            raise ValueError("users, oidc, or both are needed")
        return self


class ConsoleConfig(_Model):
    """The web console: where it listens, by which address browsers reach it, and who may sign in."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8088
    public_url: Url | None = None
    sign_in: SignIn | None = None

    @model_validator(mode="after")
    def _safe(self) -> "ConsoleConfig":
        if self.sign_in is None and not self.is_for_this_machine:
            raise ValueError(f"to listen on {self.host}, others than this machine's people need console.sign_in")
        if self.sign_in is None and self.public_url is not None and not _is_loopback(_host_of(self.public_url)):
            # A proxy on this machine lets them in, and then everybody would be the machine's user.
            raise ValueError("console.public_url lets others in: console.sign_in is needed")
        if self.public_url is None and not self.is_for_this_machine:
            raise ValueError(
                f"to listen on {self.host}, console.public_url is needed: the address in people's browsers"
            )
        return self

    @property
    def is_for_this_machine(self) -> bool:
        """Whether only this machine can connect."""
        return _is_loopback(self.host)

    @property
    def is_behind_tls(self) -> bool:
        return self.public_url is not None and self.public_url.startswith("https://")

    def at(self, host: str | None, port: int | None) -> "ConsoleConfig":
        """The same at another address. Raises ConfigError where that is not safe."""
        given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
        try:
            return ConsoleConfig.model_validate({**dict(self), **given})
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ConfigError(f"console: {message}") from None


class Config(_Model):
    """All of ``exports.yaml``."""

    store: Annotated[DatabaseUrl, Field(repr=False)]
    connections: dict[str, Connection]
    sources: dict[str, SourceConfig]
    jobs: dict[str, Job]
    console: ConsoleConfig = ConsoleConfig()

    @field_validator("connections", "sources", "jobs", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        if not isinstance(value, dict):
            raise ValueError("names with their settings are needed here")
        return {
            name: {**settings, "name": name} if isinstance(settings, dict) else settings
            for name, settings in value.items()
        }
