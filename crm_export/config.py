"""``exports.yaml``: read, checked, and turned into frozen models.

Secrets are in ``SecretStr``: they show in no ``repr``, log or error.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
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

from crm_export.errors import ConfigError
from crm_export.model import Settings
from crm_export.salesforce import (
    AccessToken,
    ClientCredentials,
    Credentials,
    JwtBearer,
    RefreshToken,
    is_safe_url,
)

DEFAULT_FILE = "exports.yaml"
FILE_VARIABLE = "CRM_EXPORT_CONFIG"

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


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


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Cron = Annotated[str, AfterValidator(_cron)]
Url = Annotated[str, AfterValidator(_url)]
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
    daily_api_limit: Annotated[int, Field(ge=1, le=2_000_000_000)] = 100_000
    reexport_schedule: Cron = "0 3 * * *"
    blocked_after: Duration = timedelta(minutes=2)
    notify: SecretUrl | None = None

    @property
    def first_settings(self) -> Settings:
        """What the settings are before anybody has changed them."""
        return Settings(
            export_enabled=self.export_enabled,
            pause_on_error=self.pause_on_error,
            daily_api_limit=self.daily_api_limit,
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
    url: SecretStr


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

    @property
    def columns(self) -> tuple[str, ...]:
        """The source columns that the job reads, the key first, each once."""
        wanted = [self.key, *([self.cursor] if self.cursor else []), *self.fields.values()]
        return tuple(dict.fromkeys(wanted))


class Config(_Model):
    """All of ``exports.yaml``."""

    store: str
    connections: dict[str, Connection]
    sources: dict[str, SourceConfig]
    jobs: dict[str, Job]

    @field_validator("connections", "sources", "jobs", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        if not isinstance(value, dict):
            raise ValueError("names with their settings are needed here")
        return {
            name: {**settings, "name": name} if isinstance(settings, dict) else settings
            for name, settings in value.items()
        }


def find(explicit: str | None, environ: Mapping[str, str]) -> Path:
    """The file to read: the one that was named, or ``CRM_EXPORT_CONFIG``, or ``exports.yaml`` here."""
    return Path(explicit or environ.get(FILE_VARIABLE) or DEFAULT_FILE)


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """Read and check a configuration. Raises ConfigError that names the file, the line and the key.

    ``${NAME}`` and ``${NAME:-default}`` in a value are taken from ``environ``, after the YAML is parsed, so that a
    value cannot change the structure. Relative paths of SQLite files are relative to the current directory.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file: copy exports.example.yaml, or name yours with --config or {FILE_VARIABLE}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from None
    document = _Document(path, environ)
    return document.config(text)


class _Document:
    """One YAML document, with the line of each key for the errors."""

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        self._path = path
        self._environ = environ
        self._lines: dict[tuple[str, ...], int] = {}

    def config(self, text: str) -> Config:
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            told = error.problem or str(error)
            if "${" in (text.splitlines() or [""])[min(line, text.count("\n")) - 1 if line else 0]:
                told += '; between { and } a variable needs quotes: "${NAME}"'
            raise ConfigError(f"{self._path}:{line}: not YAML: {told}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{self._path}: not YAML: {' '.join(str(error).split())[:200]}") from None
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{self._path}: needs the keys store, connections, sources and jobs")
        values = self._value(node, ())
        try:
            config = Config.model_validate(values)
        except ValidationError as error:
            raise self._error(error) from None
        self._check_names(config)
        return config

    def _value(self, node: yaml.Node, path: tuple[str, ...]) -> Any:
        self._lines.setdefault(path, node.start_mark.line + 1)
        match node:
            case yaml.MappingNode():
                return self._mapping(node, path)
            case yaml.SequenceNode():
                return [self._value(item, (*path, str(i))) for i, item in enumerate(node.value)]
            case _:
                return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: tuple[str, ...]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in values:
                first = self._lines[(*path, key)]
                raise ConfigError(
                    f"{self._path}:{line}: {'.'.join((*path, key))}: is there twice (first in line {first})"
                )
            self._lines[(*path, key)] = line
            values[key] = self._value(value_node, (*path, key))
        return values

    def _scalar(self, node: yaml.Node, path: tuple[str, ...]) -> Any:
        line = node.start_mark.line + 1

        def from_environment(match: re.Match[str]) -> str:
            name, default = match[1], match[2]
            value = self._environ.get(name)
            if value is None or (value == "" and default is not None):
                value = default
            if value is None:
                raise ConfigError(
                    f"{self._path}:{line}: {'.'.join(path)}: the environment variable {name} is not set: "
                    f"set it, or give a default: ${{{name}:-…}}"
                )
            return value

        text = _VARIABLE.sub(from_environment, str(node.value))
        if text == node.value:
            return yaml.SafeLoader("").construct_object(node)
        return text

    def _error(self, error: ValidationError) -> ConfigError:
        """The first problem, in the order of the file, as one line."""
        problems = sorted((self._place(tuple(map(str, e["loc"]))), e) for e in error.errors())
        (line, where), first = min(problems, key=lambda problem: problem[0])
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return ConfigError(f"{self._path}:{line}: {_told(where, first)}{more}")

    def _place(self, location: tuple[str, ...]) -> tuple[int, str]:
        # pydantic adds the name of a union's branch to the path; the file has none.
        known = tuple(part for i, part in enumerate(location) if not (location[i - 1] == "auth" and part in _FLOWS))
        for end in range(len(known), -1, -1):
            if known[:end] in self._lines:
                return self._lines[known[:end]], ".".join(known)
        return 1, ".".join(known)

    def _check_names(self, config: Config) -> None:
        for part in ("connections", "sources", "jobs"):
            for name in getattr(config, part):
                if not _NAME.fullmatch(name):
                    raise self._named_error((part, name), "a name has letters, digits and - _ . only")
        for job in config.jobs.values():
            for key, section in (("connection", set(config.connections)), ("source", set(config.sources))):
                name = getattr(job, key)
                if name not in section:
                    allowed = ", ".join(sorted(section)) or "none is configured"
                    raise self._named_error(
                        ("jobs", job.name, key), f"there is no {key} {name}{_close(name, section)}; there is: {allowed}"
                    )

    def _named_error(self, path: tuple[str, ...], told: str) -> ConfigError:
        line, where = self._place(path)
        return ConfigError(f"{self._path}:{line}: {where}: {told}")


_FLOWS = ("client_credentials", "jwt_bearer", "refresh_token", "access_token")
_MODELS: dict[str, type[BaseModel]] = {
    "client_credentials": ClientCredentialsAuth,
    "jwt_bearer": JwtBearerAuth,
    "refresh_token": RefreshTokenAuth,
    "access_token": AccessTokenAuth,
}


def _told(where: str, error: Any) -> str:
    """A pydantic error in words for a person, without the value, which may be a secret."""
    match error["type"]:
        case "extra_forbidden":
            allowed = _allowed_beside(tuple(map(str, error["loc"])))
            return f"{where}: unknown key{_close(where.rsplit('.', 1)[-1], allowed)}; allowed: {', '.join(allowed)}"
        case "missing":
            return f"{where}: is missing"
        case "union_tag_invalid" | "union_tag_not_found":
            return f"{where}.flow: is needed, one of {', '.join(_FLOWS)}"
        case _:
            message = error["msg"]
            ours = message.removeprefix("Value error, ")
            return f"{where}: {ours if ours != message else message[0].lower() + message[1:]}"


def _allowed_beside(location: tuple[str, ...]) -> list[str]:
    model: type[BaseModel] = Config
    sections: dict[str, type[BaseModel]] = {"connections": Connection, "sources": SourceConfig, "jobs": Job}
    if len(location) > 2:
        model = sections[location[0]]
    if len(location) > 3 and location[2] == "auth":
        model = _MODELS[location[3]]
    elif len(location) > 3 and location[2] == "retry":
        model = Retry
    return [name for name in model.model_fields if name != "name"]


def _close(name: str, allowed: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(allowed), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
