"""The program: Salesforce's REST API over HTTP, and the controls beside it."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote

import orjson
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from salesforce_simulator import soql
from salesforce_simulator.keep import Keep
from salesforce_simulator.oauth import OAuth, SignInError
from salesforce_simulator.records import Records
from salesforce_simulator.rules import RULE, DailyLimit, Outage, Permission, Rules, Slow
from salesforce_simulator.schema import OBJECTS, Field, Object
from salesforce_simulator.upsert import ROLLED_BACK, CallError, upsert

DAILY_REQUESTS = 100_000
_API = re.compile(r"/services/data/(?P<version>v\d+\.0)(?P<rest>/.*)?")


class DropConnection(BaseException):
    """The connection is to be lost instead of an answer given; no handler on the way may make an answer of it."""


class Simulator:
    """One org; what it has done before, and has kept, it remembers."""

    def __init__(self, oauth: OAuth, latency: float = 0, keep: Keep | None = None) -> None:
        self.oauth = oauth
        self.records = Records()
        self.rules = Rules()
        self.calls: list[dict[str, Any]] = []
        self._latency = latency
        self._keep = keep or Keep(None)
        for line in self._keep.former():
            self._remember(line)
        self._cursors: dict[str, tuple[soql.Query, list[soql.Row]]] = {}

    def app(self) -> Starlette:
        controls = "/simulator"
        return Starlette(
            routes=[
                Route("/services/oauth2/token", self.sign_in, methods=["POST"]),
                Route("/services/data", self.versions),
                Route(f"{controls}/health", self.health),
                Route(f"{controls}/rules", self.show_rules),
                Route(f"{controls}/rules/{{name}}", self.change_rule, methods=["PUT", "DELETE"]),
                Route(f"{controls}/expire-sessions", self.expire_sessions, methods=["POST"]),
                Route(f"{controls}/audit", self.audit),
                Route(f"{controls}/calls", self.show_calls),
                Route(f"{controls}/records", self.clear, methods=["DELETE"]),
                Route(f"{controls}/records/{{object}}", self.show_records),
                Route("/services/data/{rest:path}", self.api, methods=["GET", "POST", "PATCH", "DELETE"]),
            ]
        )

    # Salesforce

    async def sign_in(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode()))
        try:
            return _json(self.oauth.token(form, _base(request)))
        except SignInError as refused:
            return _json(refused.answer, refused.status)

    async def versions(self, request: Request) -> Response:
        return _json([{"label": "Spring '26", "url": "/services/data/v66.0", "version": "66.0"}])

    async def api(self, request: Request) -> Response:
        call: dict[str, Any] = {
            "call": 0,
            "at": time.time(),
            "method": request.method,
            "path": request.url.path,
        }
        body = await request.body()
        try:
            response = await self._answer(request, body, call)
        except CallError as refused:
            response = _errors(refused.status, refused.code, refused.message)
        call["status"] = response.status_code
        response.headers["Sforce-Limit-Info"] = f"api-usage={len(self.calls)}/{self._daily_limit()}"
        return response

    async def _answer(self, request: Request, body: bytes, call: dict[str, Any]) -> Response:
        outage = self._outage()
        if outage and outage.how == "drop_before_write":
            raise DropConnection
        if outage and outage.how not in ("short", "half", "drop_after_write"):
            return _outage_answer(outage)
        token = request.headers.get("Authorization", "").removeprefix("Bearer ").removeprefix("OAuth ")
        if token not in self.oauth.sessions:
            return _errors(401, "INVALID_SESSION_ID", "Session expired or invalid")
        if len(self.calls) >= self._daily_limit():
            return _errors(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
        self.calls.append(call)
        call["call"] = len(self.calls)
        seconds = self._latency + sum(rule.seconds for rule in self.rules.of(Slow))
        if seconds:
            await asyncio.sleep(seconds)
        response = self._dispatch(request, body, call)
        self._kept(call)
        if outage and outage.how == "drop_after_write":
            raise DropConnection
        if outage and outage.how == "half":
            return Response(bytes(response.body)[: len(response.body) // 2], media_type="application/json")
        if outage and outage.how == "short":
            return _json(orjson.loads(response.body)[:-1])
        return response

    def _kept(self, call: dict[str, Any]) -> None:
        refused = call.pop("refusals", [])
        if self.records.written or refused:
            self._keep.add(call=call["call"], at=call["at"], writes=self.records.written, refused=refused)
            self.records.written = []

    def _remember(self, line: dict[str, Any]) -> None:
        for write in line.get("writes", []):
            self.records.apply(write)
        if "call" in line:
            self.calls += [{"call": n} for n in range(len(self.calls) + 1, line["call"] + 1)]
        if "deleted" in line:
            of = OBJECTS[line["object"].lower()]
            self.records.delete(of, self.records.by_id[of.name.lower()][line["deleted"]])
        if "cleared" in line:
            self.records.clear()
            self.calls.clear()
        if "rule" in line:
            self.rules.on.pop(line["rule"], None)
            if line["on"] is not None:
                self.rules.on[line["rule"]] = RULE.validate_python(line["on"])

    def _dispatch(self, request: Request, body: bytes, call: dict[str, Any]) -> Response:
        # The raw path keeps an encoded slash in a record's external ID.
        raw = request.scope.get("raw_path", request.url.path.encode()).decode().split("?")[0]
        match = _API.fullmatch(raw)
        if match is None:
            raise CallError(404, "NOT_FOUND", "The requested resource does not exist")
        parts = [unquote(part) for part in (match["rest"] or "").strip("/").split("/") if part]
        match request.method, parts:
            case "GET", ["limits"]:
                left = max(self._daily_limit() - len(self.calls), 0)
                return _json({"DailyApiRequests": {"Max": self._daily_limit(), "Remaining": left}})
            case "GET", ["sobjects"]:
                return _json({"sobjects": [{"name": o.name, "keyPrefix": o.prefix} for o in OBJECTS.values()]})
            case "GET", ["sobjects", name, "describe"]:
                return _json(self._described(_object(name)))
            case "GET", ["query"]:
                return self._query(soql.parse(request.query_params.get("q", "")), match["version"])
            case "GET", ["query", cursor]:
                return self._more(cursor, match["version"])
            case "PATCH", ["composite", "sobjects", name, field]:
                return self._collection(name, field, body, call)
            case "DELETE", ["composite", "sobjects"]:
                return self._delete_many(request.query_params.get("ids", "").split(","))
            case "PATCH", ["sobjects", name, field, key]:
                return self._one(name, field, key, body, call)
            case (("GET" | "DELETE"), ["sobjects", name, field, key]):
                return self._get_or_delete(request.method, name, field, key)
            case "GET", ["sobjects", name, record_id]:
                record = self.records.by_id[_object(name).name.lower()].get(record_id)
                return _json(record) if record else _errors(404, "NOT_FOUND", "The requested resource does not exist")
        raise CallError(404, "NOT_FOUND", "The requested resource does not exist")

    def _collection(self, name: str, field: str, body: bytes, call: dict[str, Any]) -> Response:
        sent = _parsed(body)
        records = sent.get("records") if isinstance(sent, dict) else None
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise CallError(400, "JSON_PARSER_ERROR", "The request needs records")
        if len(records) > 200:
            raise CallError(400, "EXCEEDED_ID_LIMIT", "record limit reached. cannot submit more than 200 records")
        of = _object(name)
        all_or_none = bool(sent.get("allOrNone", False))
        results = upsert(
            of, _key_field(of, field), records, self.records, self.rules, all_or_none=all_or_none, call=call["call"]
        )
        refused = sum(not result["success"] for result in results)
        call |= {"records": len(records), "all_or_none": all_or_none, "refused": refused}
        call["refusals"] = _refusals(of, [record.get(field) for record in records], results)
        return _json(results)

    def _one(self, name: str, field: str, key: str, body: bytes, call: dict[str, Any]) -> Response:
        sent = _parsed(body)
        if not isinstance(sent, dict):
            raise CallError(400, "JSON_PARSER_ERROR", "The request needs an object")
        of = _object(name)
        known = _key_field(of, field)
        [result] = upsert(
            of, known, [{**sent, known.name: key}], self.records, self.rules, all_or_none=True, call=call["call"]
        )
        call |= {"records": 1, "all_or_none": True, "refused": int(not result["success"])}
        call["refusals"] = _refusals(of, [key], [result])
        if not result["success"]:
            [told] = result["errors"]
            status = 403 if told["statusCode"].startswith("INSUFFICIENT_ACCESS") else 400
            return _json(
                [{"message": told["message"], "errorCode": told["statusCode"], "fields": told["fields"]}], status
            )
        return _json(result, 201 if result["created"] else 200)

    def _get_or_delete(self, method: str, name: str, field: str, key: str) -> Response:
        of = _object(name)
        record = self.records.find(of, _key_field(of, field).name, key)
        if record is None:
            return _errors(404, "NOT_FOUND", "The requested resource does not exist")
        if method == "DELETE":
            self._delete(of, record)
            return Response(status_code=204)
        return _json({"attributes": {"type": of.name}} | record)

    def _delete_many(self, ids: list[str]) -> Response:
        results = []
        for record_id in ids:
            of = next((o for o in OBJECTS.values() if record_id in self.records.by_id[o.name.lower()]), None)
            if of is not None:
                self._delete(of, self.records.by_id[of.name.lower()][record_id])
            told = [] if of else [{"statusCode": "INVALID_CROSS_REFERENCE_KEY", "message": "invalid id", "fields": []}]
            results.append({"id": record_id, "success": of is not None, "errors": told})
        return _json(results)

    def _delete(self, of: Object, record: dict[str, Any]) -> None:
        self.records.delete(of, record)
        self._keep.add(object=of.name, deleted=record["Id"])

    def _described(self, of: Object) -> dict[str, Any]:
        missing = [rule for rule in self.rules.of(Permission) if rule.object == of.name]
        whole = any(rule.field is None and rule.keys is None for rule in missing)
        hidden = {rule.field for rule in missing if rule.hidden}
        read_only = {rule.field for rule in missing if rule.field and not rule.hidden}
        fields = [field.described() for field in of.fields.values() if field.name not in hidden]
        for field in fields:
            if field["name"] in read_only:
                field["createable"] = field["updateable"] = False
        return {
            "name": of.name,
            "keyPrefix": of.prefix,
            "createable": not whole,
            "updateable": not whole,
            "queryable": True,
            "fields": fields,
        }

    def _query(self, query: soql.Query, version: str) -> Response:
        rows = query.run(self.records)
        if query.fields is None:
            return _json({"totalSize": len(rows), "done": True, "records": []})
        return self._page(query, rows, 0, version)

    def _more(self, cursor: str, version: str) -> Response:
        name, _, start = cursor.rpartition("-")
        if name not in self._cursors:
            raise CallError(400, "INVALID_QUERY_LOCATOR", "invalid query locator")
        query, rows = self._cursors[name]
        return self._page(query, rows, int(start), version, name)

    def _page(
        self, query: soql.Query, rows: list[soql.Row], start: int, version: str, cursor: str | None = None
    ) -> Response:
        end = start + soql.PAGE
        shown = [query.shown(row, version) for row in rows[start:end]]
        answer: dict[str, Any] = {"totalSize": len(rows), "done": end >= len(rows), "records": shown}
        if not answer["done"]:
            cursor = cursor or f"01g{len(self._cursors):012d}AAA"
            self._cursors[cursor] = (query, rows)
            answer["nextRecordsUrl"] = f"/services/data/{version}/query/{cursor}-{end}"
        return _json(answer)

    def _daily_limit(self) -> int:
        return min((rule.calls for rule in self.rules.of(DailyLimit)), default=DAILY_REQUESTS)

    def _outage(self) -> Outage | None:
        for name, rule in list(self.rules.on.items()):
            if isinstance(rule, Outage):
                if rule.calls is not None:
                    rule.calls -= 1
                    if rule.calls <= 0:
                        del self.rules.on[name]
                return rule
        return None

    # Controls

    async def health(self, request: Request) -> Response:
        return _json({"status": "ok"})

    async def show_rules(self, request: Request) -> Response:
        return _json({name: rule.model_dump() for name, rule in self.rules.on.items()})

    async def change_rule(self, request: Request) -> Response:
        name = request.path_params["name"]
        if request.method == "DELETE":
            self.rules.on.pop(name, None)
            self._keep.add(rule=name, on=None)
            return Response(status_code=204)
        try:
            self.rules.on[name] = RULE.validate_json(await request.body())
        except ValidationError as error:
            first = error.errors()[0]
            return _json({"error": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"}, 400)
        self._keep.add(rule=name, on=self.rules.on[name].model_dump())
        return _json(self.rules.on[name].model_dump())

    async def expire_sessions(self, request: Request) -> Response:
        self.oauth.sessions.clear()
        return Response(status_code=204)

    async def audit(self, request: Request) -> Response:
        return _json(self.records.audit[int(request.query_params.get("since", 0)) :])

    async def show_calls(self, request: Request) -> Response:
        return _json(self.calls)

    async def clear(self, request: Request) -> Response:
        self.records.clear()
        self.calls.clear()
        self._keep.add(cleared=True)
        return Response(status_code=204)

    async def show_records(self, request: Request) -> Response:
        of = _object(request.path_params["object"])
        key = request.query_params.get("field") or next(f.name for f in of.fields.values() if f.external_id)
        records = self.records.by_id[of.name.lower()].values()
        return _json({str(record.get(key)): record for record in records})


def dropping_connections(app: Starlette) -> Callable[..., Awaitable[None]]:
    """The app, where a DropConnection ends the connection without an answer."""

    async def served(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)  # type: ignore[arg-type]
        except DropConnection:
            transport = getattr(getattr(send, "__self__", None), "transport", None)
            if transport is not None:
                transport.abort()

    return served


def _outage_answer(outage: Outage) -> Response:
    headers = {"Retry-After": str(outage.retry_after)} if outage.retry_after is not None else {}
    match outage.how:
        case "html":
            return Response("<html><body>We are down for maintenance.</body></html>", 200, headers, "text/html")
        case "empty":
            return Response(b"", 200, headers)
        case "429":
            return Response(b"", 429, headers)
    told = [{"message": "Service unavailable", "errorCode": "SERVER_UNAVAILABLE"}]
    return Response(orjson.dumps(told), 503, headers, "application/json")


def _object(name: str) -> Object:
    try:
        return OBJECTS[name.lower()]
    except KeyError:
        raise CallError(404, "NOT_FOUND", "The requested resource does not exist") from None


def _refusals(of: Object, keys: Sequence[Any], results: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """What was refused for itself."""
    failed = [(key, result["errors"][0]) for key, result in zip(keys, results, strict=True) if result["errors"]]
    rolled_back = ROLLED_BACK["statusCode"]
    return [
        {"object": of.name, "key": str(key), "code": error["statusCode"]}
        for key, error in failed
        if error["statusCode"] != rolled_back
    ]


def _key_field(of: Object, name: str) -> Field:
    known = of.find(name)
    if known is None or not (known.external_id or known.name == "Id"):
        told = f"Provided external ID field does not exist or is not accessible: {name}"
        raise CallError(404, "NOT_FOUND", told)
    return known


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise CallError(400, "JSON_PARSER_ERROR", f"Unexpected character: {error}") from None


def _json(answer: object, status: int = 200) -> Response:
    return Response(orjson.dumps(answer), status, media_type="application/json")


def _errors(status: int, code: str, message: str) -> Response:
    return _json([{"message": message, "errorCode": code}], status)


def _base(request: Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc}"
