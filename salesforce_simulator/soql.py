"""A small SOQL: ``SELECT fields | COUNT() FROM object [WHERE …] [ORDER BY …] [LIMIT n] [OFFSET n]``."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from salesforce_simulator.records import Records
from salesforce_simulator.schema import OBJECTS, Object
from salesforce_simulator.upsert import CallError

PAGE = 2_000
_QUERY = re.compile(
    r"\s*SELECT\s+(?P<fields>.+?)\s+FROM\s+(?P<object>\w+)(?:\s+WHERE\s+(?P<where>.+?))?"
    r"(?:\s+ORDER\s+BY\s+(?P<order>\w+)(?:\s+(?P<way>ASC|DESC))?)?(?:\s+LIMIT\s+(?P<limit>\d+))?"
    r"(?:\s+OFFSET\s+(?P<offset>\d+))?\s*",
    re.IGNORECASE | re.DOTALL,
)
_CONDITION = re.compile(
    r"\s*(?P<field>\w+)\s*(?P<op>!=|<=|>=|=|<|>|LIKE|IN)\s*(?P<value>\(.*\)|'(?:[^'\\]|\\.)*'|[\w.:+-]+)\s*",
    re.IGNORECASE | re.DOTALL,
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Query:
    """A parsed query; ``fields`` is None for ``COUNT()``."""

    of: Object
    fields: tuple[str, ...] | None
    conditions: tuple[Callable[[Row], bool], ...]
    order: str | None
    descending: bool
    limit: int | None
    offset: int

    def run(self, records: Records) -> list[Row]:
        rows = [r for r in records.by_id[self.of.name.lower()].values() if all(c(r) for c in self.conditions)]
        if self.order:
            order = self.order
            rows.sort(key=lambda row: (row.get(order) is not None, row.get(order)), reverse=self.descending)
        return rows[self.offset : None if self.limit is None else self.offset + self.limit]

    def shown(self, row: Row, version: str) -> dict[str, Any]:
        url = f"/services/data/{version}/sobjects/{self.of.name}/{row['Id']}"
        return {"attributes": {"type": self.of.name, "url": url}} | {name: row.get(name) for name in self.fields or ()}


def parse(soql: str) -> Query:
    """Raises CallError ``MALFORMED_QUERY``, ``INVALID_TYPE`` or ``INVALID_FIELD``."""
    match = _QUERY.fullmatch(soql)
    if match is None:
        raise CallError(400, "MALFORMED_QUERY", "unexpected token: query not understood")
    of = OBJECTS.get(match["object"].lower())
    if of is None:
        raise CallError(400, "INVALID_TYPE", f"sObject type '{match['object']}' is not supported.")
    count = re.fullmatch(r"COUNT\(\s*\)", match["fields"].strip(), re.IGNORECASE)
    return Query(
        of=of,
        fields=None if count else tuple(_field(of, name.strip()) for name in match["fields"].split(",")),
        conditions=tuple(_condition(of, part) for part in re.split(r"\s+AND\s+", match["where"], flags=re.I))
        if match["where"]
        else (),
        order=_field(of, match["order"]) if match["order"] else None,
        descending=(match["way"] or "").upper() == "DESC",
        limit=int(match["limit"]) if match["limit"] else None,
        offset=int(match["offset"] or 0),
    )


def _field(of: Object, name: str) -> str:
    known = of.find(name)
    if known is None:
        raise CallError(400, "INVALID_FIELD", f"No such column '{name}' on entity '{of.name}'.")
    return known.name


def _condition(of: Object, text: str) -> Callable[[Row], bool]:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise CallError(400, "MALFORMED_QUERY", f"unexpected token in condition: {text.strip()[:40]}")
    name, op = _field(of, match["field"]), match["op"].upper()
    if op == "IN":
        wanted = [_literal(part) for part in match["value"].strip("()").split(",")]
        return lambda row: row.get(name) in wanted
    value = _literal(match["value"])
    if op == "LIKE":
        pattern = re.compile(re.escape(str(value)).replace("%", ".*").replace("_", "."), re.IGNORECASE | re.DOTALL)
        return lambda row: pattern.fullmatch(str(row.get(name) or "")) is not None
    if op in ("=", "!="):
        return lambda row: (row.get(name) == value) is (op == "=")
    ways: dict[str, Callable[[Any], bool]] = {
        "<": lambda v: v < value,
        ">": lambda v: v > value,
        "<=": lambda v: v <= value,
        ">=": lambda v: v >= value,
    }
    return lambda row: row.get(name) is not None and ways[op](row[name])


def _literal(text: str) -> Any:
    text = text.strip()
    if text.startswith("'"):
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    if text.lower() in ("null", "true", "false"):
        return {"null": None, "true": True, "false": False}[text.lower()]
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text
