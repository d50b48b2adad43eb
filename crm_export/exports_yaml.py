"""``exports.yaml``: read, checked, and turned into the models of :mod:`crm_export.config`."""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from crm_export.config import (
    AccessTokenAuth,
    ClientCredentialsAuth,
    Config,
    Connection,
    ConsoleConfig,
    ConsoleUser,
    Job,
    JwtBearerAuth,
    Oidc,
    OidcRoles,
    RefreshTokenAuth,
    Retry,
    SignIn,
    SourceConfig,
)
from crm_export.errors import ConfigError

DEFAULT_FILE = "exports.yaml"
FILE_VARIABLE = "CRM_EXPORT_CONFIG"

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


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
            values = self._values(text)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            told = error.problem or str(error)
            if "${" in (text.splitlines() or [""])[min(line, text.count("\n")) - 1 if line else 0]:
                told += '; between { and } a variable needs quotes: "${NAME}"'
            raise ConfigError(f"{self._path}:{line}: not YAML: {' '.join(told.split())[:200]}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{self._path}: not YAML: {' '.join(str(error).split())[:200]}") from None
        except ValueError:
            raise ConfigError(f"{self._path}: not YAML: a date or a number that is none") from None
        except RecursionError:
            raise ConfigError(
                f"{self._path}: not YAML that can be used: it is nested too deeply, or in itself"
            ) from None
        try:
            config = Config.model_validate(values)
        except ValidationError as error:
            raise self._error(error) from None
        self._check_names(config)
        return config

    def _values(self, text: str) -> Any:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{self._path}: needs the keys store, connections, sources and jobs")
        return self._value(node, ())

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
        """The first problem, in the order of the file, as one line. Where a key is missing and one beside it unknown,
        it is perhaps misspelt: the unknown one comes first."""
        problems = [(tuple(map(str, e["loc"])), e) for e in error.errors()]
        unknown = {path[:-1]: path for path, e in reversed(problems) if e["type"] == "extra_forbidden"}

        def order(problem: tuple[tuple[str, ...], Any]) -> tuple[tuple[int, str], bool]:
            path, e = problem
            is_missing = e["type"] == "missing"
            return self._place(unknown.get(path[:-1], path) if is_missing else path), is_missing

        path, first = min(problems, key=order)
        line, where = self._place(path)
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


_CONSOLE: dict[str, type[BaseModel]] = {"sign_in": SignIn, "oidc": Oidc, "roles": OidcRoles}


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
    if location[0] == "console" and len(location) > 1:
        parent = location[-2]
        inside = ConsoleUser if location[-3:-2] == ("users",) else _CONSOLE.get(parent, ConsoleConfig)
        return list(inside.model_fields)
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
