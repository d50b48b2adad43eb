"""What stands before every page: headers, the host's name, and proof that a change was asked for by a page of ours."""

import hmac
import secrets
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from control.console.people import NotAllowedError, Person, viewer
from crm_export.config import ConsoleConfig

_HEADERS = {
    # No inline script or style, nothing from another host (pico's icons are data: images).
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # "no-referrer" would take the origin, which proves a form to be ours, from the forms too.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_FOR_PROBES = ("/healthz", "/readyz")
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


class Shield:
    """Adds the security headers to every answer, and answers to its own names alone, so that a foreign page cannot
    reach a console on this machine by a name of its own (DNS rebinding)."""

    def __init__(self, app: ASGIApp, config: ConsoleConfig) -> None:
        self._app = app
        self._headers = dict(_HEADERS)
        self._names = {*_THIS_MACHINE} if config.is_for_this_machine else set()
        if config.public_url is not None:
            self._names.add(urlsplit(config.public_url).hostname or "")
        if config.is_behind_tls:
            self._headers["Strict-Transport-Security"] = "max-age=31536000"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        request = Request(scope)
        if request.url.path in _FOR_PROBES or _name(request) in self._names:
            await self._app(scope, receive, guarded)
        else:
            answer = PlainTextResponse("open the console at its own address: console.public_url\n", status_code=421)
            await answer(scope, receive, guarded)


def _name(request: Request) -> str:
    try:
        return (urlsplit(f"//{request.headers.get('host', '')}").hostname or "").lower()
    except ValueError:
        return ""


def csrf_token(request: Request) -> str:
    """The session's token, which each form and each request of our script carries."""
    token = request.session.get("csrf")
    if not isinstance(token, str):
        token = request.session["csrf"] = secrets.token_urlsafe(24)
    return token


async def operator(request: Request) -> Person:
    """Who asks for a change, from a page of ours. Raises NotSignedInError, NotAllowedError."""
    person = await viewer(request)
    await require_token(request)
    return _may_change(person)


async def api_operator(request: Request) -> Person:
    """As ``operator``, for programs: without a session, a JSON body and no foreign page are proof enough, since no page
    of another site can send the one without asking first, or hide the other."""
    person = await viewer(request)
    if request.session.get("person"):
        await require_token(request)
    _require_same_site(request)
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise NotAllowedError("a change needs Content-Type: application/json")
    return _may_change(person)


async def require_token(request: Request) -> None:
    """Raises NotAllowedError where the request does not come from a page of this session."""
    _require_same_site(request)
    given = request.headers.get("x-csrf-token")
    if given is None:
        value = (await request.form()).get("csrf")
        given = value if isinstance(value, str) else ""
    if not hmac.compare_digest(given.encode(), csrf_token(request).encode()):
        raise NotAllowedError("this page is out of date: load it again")


def _require_same_site(request: Request) -> None:
    origin = request.headers.get("origin")
    if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none") or (
        origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    ):
        raise NotAllowedError("the request comes from a page of another site")


def _may_change(person: Person) -> Person:
    if not person.may_change:
        raise NotAllowedError(f"{person.name} may look, and change nothing: that takes the role operator")
    return person
