"""Calls to Salesforce's REST API: our own small async client on httpx.

Retries inside a call are few and quick, for what heals by itself; what remains is classified by the table of codes:
a :class:`Refusal` of one record is returned, a failure of the call is raised as CrmError.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import reduce
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import orjson

from crm_export.errors import CrmError
from crm_export.model import JsonValue, Refusal, RolledBack, UpsertResult, Written
from crm_export.salesforce.auth import Credentials, SalesforceAuth, is_safe_url
from crm_export.salesforce.description import ObjectDescription
from crm_export.salesforce.errors import WRONG_TYPE, call_error, facts, refusal, without_values

MOST_RECORDS = 200
"""Records of one sObject Collections call (REST API, "Upsert Records Using sObject Collections")."""
ROLLED_BACK = "ALL_OR_NONE_OPERATION_ROLLED_BACK"
_LOCKED = "UNABLE_TO_LOCK_ROW"
LONGEST_CALL = 615
"""Seconds: Salesforce gives a synchronous request 10 minutes, and giving up sooner would repeat it for ever."""
QUICK_RETRIES = (0.3, 1.5)
"""Seconds between the tries inside one call: a row lock or a reset connection is mostly gone by then."""
_KEEP_ALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6))
        if hasattr(socket, name)
    ),
]
"""A peer that is gone without a word is noticed after a minute and a half, long before a call's own limit."""


@dataclass(frozen=True, slots=True)
class DailyApiRequests:
    """Calls of the org in the last 24 hours, by all its clients, and how many there may be."""

    used: int
    maximum: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """One record's request and answer in full, for ``crm-export try``; holds values, so never logged or kept."""

    method: str
    path: str
    body: Mapping[str, JsonValue]
    status: int | None = None
    answer: Any = None
    result: UpsertResult | None = None


class Salesforce:
    """One connection to one org. Safe for many calls at a time; ``aclose()`` ends it."""

    def __init__(
        self,
        login_url: str,
        api_version: str,
        credentials: Credentials,
        *,
        before_call: Callable[[], Awaitable[None]] | None = None,
        most_calls: int = 25,
        connect_seconds: float = 10,
        read_seconds: float = LONGEST_CALL,
        quick_retries: Sequence[float] = QUICK_RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """``before_call`` is awaited before each call but the sign-in, and may raise CrmError to prevent it.
        ``most_calls`` may be in flight at once; others wait in the order in which they came."""
        if not is_safe_url(login_url):
            raise CrmError("CONNECTION_FAILED", f"{login_url} is not https: credentials would travel in the clear")
        # The sign-in may need a connection while every slot is taken.
        limits = httpx.Limits(max_connections=most_calls + 1, max_keepalive_connections=most_calls + 1)
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(read_seconds, connect=connect_seconds),
            transport=transport or httpx.AsyncHTTPTransport(limits=limits, socket_options=_KEEP_ALIVE),
        )
        self._auth = SalesforceAuth(login_url, credentials, self._client)
        self._host = urlsplit(login_url).netloc
        self._base = f"/services/data/v{api_version}"
        self._before_call = before_call
        self._slots = asyncio.Semaphore(most_calls)
        self._quick_retries = quick_retries
        """As of the last answer; None before the first."""

    async def aclose(self) -> None:
        await self._client.aclose()

    async def upsert(
        self,
        object_name: str,
        external_id: str,
        records: Sequence[bytes],
        *,
        all_or_none: bool,
    ) -> list[UpsertResult]:
        """Upsert up to 200 records, each a JSON object, in one call; what became of each, in their order.

        With ``all_or_none`` and any refusal nothing is written. Where one value of a wrong type fails the call, each
        record of it is refused: alone, the others are not. Raises CrmError where no single record is the cause.
        """
        results = await self._upsert(object_name, external_id, records, all_or_none)
        for wait in self._quick_retries:
            locked = [i for i, result in enumerate(results) if isinstance(result, Refusal) and result.code == _LOCKED]
            if not locked:
                break
            await asyncio.sleep(wait)
            if all_or_none:
                results = await self._upsert(object_name, external_id, records, all_or_none)
            else:
                again = await self._upsert(object_name, external_id, [records[i] for i in locked], all_or_none)
                for i, result in zip(locked, again, strict=True):
                    results[i] = result
        return results

    async def _upsert(
        self, object_name: str, external_id: str, records: Sequence[bytes], all_or_none: bool
    ) -> list[UpsertResult]:
        path = f"{self._base}/composite/sobjects/{quote(object_name, safe='')}/{quote(external_id, safe='')}"
        try:
            answer = await self._call("PATCH", path, _collection(object_name, records, all_or_none))
        except CrmError as error:
            sent = [orjson.loads(record) for record in records]
            if error.code == WRONG_TYPE:
                return [refusal(error.code, error.message, [], record, external_id) for record in sent]
            told = reduce(lambda text, record: without_values(text, record, external_id), sent, error.message)
            raise CrmError(error.code, told, hint=error.hint, retry_after=error.retry_after) from None
        if not isinstance(answer, list) or len(answer) != len(records):
            raise self._unexpected("an answer that does not match the records sent")
        if all([type(item) is dict and item.get("success") is True for item in answer]):  # noqa: C419
            # Nearly every call, and a fraction of the other way's cost.
            return [Written()] * len(answer)
        results = [self._result(item, record, external_id) for item, record in zip(answer, records, strict=True)]
        if all_or_none and set(map(type, results)) != {Written}:
            # Whatever a neighbour's line says, nothing of such a call is kept.
            return [RolledBack() if isinstance(result, Written) else result for result in results]
        return results

    def _result(self, item: Any, record: bytes, external_id: str) -> UpsertResult:
        if not isinstance(item, dict) or not isinstance(item.get("success"), bool):
            raise self._unexpected("a record's answer of unknown shape")
        if item["success"]:
            return Written()
        errors = item.get("errors")
        if not isinstance(errors, list) or not errors or not isinstance(errors[0], dict):
            raise self._unexpected("a refused record without an error")
        error = errors[0]
        code = str(error.get("statusCode") or error.get("errorCode") or "UNKNOWN_EXCEPTION")
        if code == ROLLED_BACK:
            return RolledBack()
        return self._refused(code, error, orjson.loads(record), external_id)

    def _refused(
        self, code: str, error: Mapping[str, Any], record: Mapping[str, JsonValue], external_id: str
    ) -> Refusal:
        message = str(error.get("message") or "no message")
        fields = error.get("fields")
        found = refusal(
            code, message, [str(f) for f in fields] if isinstance(fields, list) else [], record, external_id
        )
        if facts(found.code).level == "job":
            raise call_error(200, found.code, found.message)
        return found

    async def upsert_one(
        self, object_name: str, external_id: str, key: str, record: Mapping[str, JsonValue]
    ) -> Exchange:
        """Upsert one record by its external ID with a call of its own; gives the whole exchange.

        Raises CrmError where the record is not the cause.
        """
        prepared = self.prepared(object_name, external_id, key, record)
        response = await self._response("PATCH", prepared.path, orjson.dumps(prepared.body))
        answer = _json(response)
        result: UpsertResult
        if response.is_success:
            result = Written()
        elif response.status_code == 300:
            result = refusal(
                "MULTIPLE_RECORDS", "several records have this external ID", [external_id], record, external_id
            )
        else:
            error = _first_error(answer)
            code = str(error.get("errorCode", "")) if error else ""
            of_record = facts(code).level == "record" and (
                code != "INVALID_FIELD" or "foreign key" in str(error and error.get("message")).lower()
            )
            if response.status_code not in (400, 403, 404) or error is None or not of_record:
                raise self._call_failed(response, answer)
            result = self._refused(code, error, record, external_id)
        return Exchange(
            prepared.method, prepared.path, prepared.body, status=response.status_code, answer=answer, result=result
        )

    def prepared(self, object_name: str, external_id: str, key: str, record: Mapping[str, JsonValue]) -> Exchange:
        """The request that ``upsert_one`` would send. The external ID stands in the path alone, slashes encoded."""
        body = {field: value for field, value in record.items() if field != external_id}
        parts = (object_name, external_id, key)
        path = f"{self._base}/sobjects/{'/'.join(quote(part, safe='') for part in parts)}"
        return Exchange("PATCH", path, body)

    async def describe(self, object_name: str) -> ObjectDescription:
        answer = await self._call("GET", f"{self._base}/sobjects/{quote(object_name, safe='')}/describe")
        try:
            return ObjectDescription.of(answer)
        except (KeyError, TypeError, ValueError):
            raise self._unexpected("a description of unknown shape") from None

    async def limits(self) -> DailyApiRequests:
        """Calls of the org in the last 24 hours (REST API, "Limits")."""
        answer = await self._call("GET", f"{self._base}/limits")
        try:
            daily = answer["DailyApiRequests"]
            return DailyApiRequests(used=daily["Max"] - daily["Remaining"], maximum=daily["Max"])
        except (KeyError, TypeError):
            raise self._unexpected("limits of unknown shape") from None

    async def query(self, soql: str) -> AsyncIterator[dict[str, Any]]:
        """The records that a SOQL query finds, page after page."""
        path = f"{self._base}/query?q={quote(soql)}"
        while True:
            answer = await self._call("GET", path)
            if not isinstance(answer, dict) or not isinstance(answer.get("records"), list):
                raise self._unexpected("a query answer of unknown shape")
            for record in answer["records"]:
                yield {name: value for name, value in record.items() if name != "attributes"}
            if answer.get("done", True):
                return
            path = answer["nextRecordsUrl"]

    async def _call(self, method: str, path: str, content: bytes | None = None) -> Any:
        response = await self._response(method, path, content)
        answer = _json(response)
        if not response.is_success:
            raise self._call_failed(response, answer)
        if answer is None:
            raise self._unexpected(f"an answer that is not JSON ({response.headers.get('content-type', 'no type')})")
        return answer

    async def _response(self, method: str, path: str, content: bytes | None = None) -> httpx.Response:
        """One call, tried again quickly after a lost connection or a 503: an upsert by external ID may be repeated."""
        for wait in (*self._quick_retries, None):
            try:
                response = await self._send(method, path, content)
                if response.status_code != 503 or wait is None:
                    return response
            except httpx.TimeoutException:
                raise call_error(0, "TIMEOUT", f"{self._host} did not answer in time") from None
            except httpx.HTTPError as error:
                if wait is None:
                    told = f"cannot reach Salesforce at {self._host} ({_why(error)})"
                    raise call_error(0, "CONNECTION_FAILED", told) from None
            await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    async def _send(self, method: str, path: str, content: bytes | None) -> httpx.Response:
        async with self._slots:
            session = await self._auth.session()
            if self._before_call is not None:
                await self._before_call()
            return await self._client.request(
                method,
                f"{session.instance_url}{path}",
                content=content,
                headers={"Content-Type": "application/json"} if content is not None else None,
                auth=self._auth,
            )

    def _call_failed(self, response: httpx.Response, answer: Any) -> CrmError:
        error = _first_error(answer)
        status, wait = response.status_code, _retry_after(response)
        if error is not None:
            return call_error(status, str(error.get("errorCode", "UNKNOWN")), str(error.get("message", "")), wait)
        code = "SERVER_UNAVAILABLE" if status >= 500 else "TXN_SECURITY_METERING_ERROR" if status == 429 else ""
        return call_error(status, code or "UNEXPECTED_ANSWER", f"{self._host} answered HTTP {status}", wait)

    def _unexpected(self, what: str) -> CrmError:
        return call_error(0, "UNEXPECTED_ANSWER", f"{self._host} gave {what}")


def _collection(object_name: str, records: Sequence[bytes], all_or_none: bool) -> bytes:
    """The body of an sObject Collections call, from records that are encoded already."""
    attributes = b'{"attributes":%b,' % orjson.dumps({"type": object_name})
    joined = b",".join([attributes + record[1:] for record in records])
    return b'{"allOrNone":%b,"records":[%b]}' % (b"true" if all_or_none else b"false", joined)


def _why(error: httpx.HTTPError) -> str:
    """What the network said; httpx's own name for it where that is all there is."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):
            # The host's addresses, tried one after the other.
            cause = cause.exceptions[0]
        if isinstance(cause, ssl.SSLError):
            return f"TLS: {(cause.reason or 'failed').replace('_', ' ').lower()}"
        if isinstance(cause, socket.gaierror):
            return "no such host"
        if isinstance(cause, OSError) and cause.errno is not None:
            return os.strerror(cause.errno).lower()
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def _json(response: httpx.Response) -> Any:
    try:
        return orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return None


def _first_error(answer: Any) -> Mapping[str, Any] | None:
    """An errors' answer is an array of ``{"message", "errorCode", "fields"?}``."""
    if isinstance(answer, list) and answer and isinstance(answer[0], dict) and "errorCode" in answer[0]:
        return answer[0]
    return None


def _retry_after(response: httpx.Response) -> timedelta | None:
    value = response.headers.get("Retry-After", "")
    if value.isdigit():
        return timedelta(seconds=int(value))
    try:
        return max(parsedate_to_datetime(value) - datetime.now(UTC), timedelta(seconds=1))
    except (ValueError, TypeError):
        return None
