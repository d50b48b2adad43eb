"""The fast path of ``--fast``: a CRM that is never the slow part, for measuring those who export to it.

sObject Collections calls go past the program, and nothing is checked, neither session nor types nor rules. Of each
record its external ID is kept: ``GET /simulator/kept`` tells how many there are by object, and the number of calls.
``PUT /simulator/refuse`` with a list of codes has every record refused from then on, each with the next of the codes.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from typing import Any

import orjson

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]
_COLLECTIONS = "/composite/sobjects/"
_HEADERS = [(b"content-type", b"application/json")]


class FastPath:
    """Answers collection upserts, after ``latency`` seconds; hands everything else to ``app``."""

    def __init__(self, app: App, latency: float) -> None:
        self._app = app
        self._latency = latency
        self._answers = lru_cache(_answer)
        self.kept: dict[str, set[str]] = {}
        self.refuse: tuple[str, ...] = ()
        self.calls = 0

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        if scope["method"] == "PATCH" and _COLLECTIONS in path:
            answer = await self._collection(path, await _body(receive))
        elif path == "/simulator/kept":
            kept = {name: len(keys) for name, keys in self.kept.items()}
            answer = orjson.dumps({"records": kept, "calls": self.calls})
        elif path == "/simulator/refuse":
            self.refuse = tuple(orjson.loads(await _body(receive)))
            answer = orjson.dumps(self.refuse)
        else:
            await self._app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await send({"type": "http.response.body", "body": answer})

    async def _collection(self, path: str, body: bytes) -> bytes:
        self.calls += 1
        *_, name, field = path.split("/")
        if self._latency:
            await asyncio.sleep(self._latency)
        records = orjson.loads(body)["records"]
        if not self.refuse:
            self.kept.setdefault(name, set()).update(record[field] for record in records)
        return self._answers(len(records), self.refuse)


async def _body(receive: Callable[[], Awaitable[Message]]) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _answer(records: int, codes: tuple[str, ...]) -> bytes:
    if not codes:
        written = {"id": "001000000000001AAA", "success": True, "created": True, "errors": []}
        return orjson.dumps([written] * records)
    told = [{"statusCode": code, "message": "refused by the fast path", "fields": ["Name"]} for code in codes]
    return orjson.dumps(
        [{"success": False, "errors": [error]} for error, _ in zip(itertools.cycle(told), range(records), strict=False)]
    )
