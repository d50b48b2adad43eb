"""The console's application: pages and API over one façade."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Match
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from control.console import api, errors_page, exports_page, settings_page, sign_in_page
from control.console.desk import Desk, Given
from control.console.people import NotAllowedError, NotSignedInError
from control.console.shield import Shield
from control.console.sign_in import SESSION_HOURS, LocalSignIn, SessionSignIn
from control.console.templates import page, said
from control.exports import Exports
from crm_export.config import Config
from crm_export.errors import CrmExportError, StoreError

_STATIC = Path(__file__).parent / "static"
_DESCRIPTION = (
    "The console's façade for programs: the same data, actions and permissions. Sign in with a session's cookie, or "
    "HTTP Basic and a console user's password. A change needs `Content-Type: application/json`, and with a session "
    "the header `X-CSRF-Token`."
)


def application(config: Config, exports: Exports, session_key: str) -> FastAPI:
    """The console of one configuration, on a façade that is open as long as it runs."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with exports.overview.kept_fresh():
            yield

    app = FastAPI(
        title="crm-export",
        version="1",
        description=_DESCRIPTION,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.desk = Desk(config, exports)
    app.state.sign_in = SessionSignIn(config.console) if config.console.sign_in else LocalSignIn()
    secure = config.console.is_behind_tls
    app.add_middleware(
        SessionMiddleware,
        secret_key=session_key,
        session_cookie="__Host-crm-export" if secure else "crm-export",
        max_age=SESSION_HOURS * 3600,
        same_site="lax",
        https_only=secure,
    )
    app.add_middleware(Shield, config=config.console)
    for router in (
        exports_page.router,
        errors_page.router,
        settings_page.router,
        sign_in_page.router,
        api.router,
    ):
        app.include_router(router)
    app.add_api_route("/", lambda: RedirectResponse("/exports", status_code=303), include_in_schema=False)
    app.add_api_route("/healthz", _healthz, include_in_schema=False)
    app.add_api_route("/readyz", _readyz, include_in_schema=False)
    app.mount("/static", _Static(directory=_STATIC))
    for error, handler in (
        (CrmExportError, _failed),
        (NotSignedInError, _not_signed_in),
        (NotAllowedError, _not_allowed),
        (RequestValidationError, _not_understood),
        (HTTPException, _not_there),
    ):
        app.add_exception_handler(error, handler)
    return app


class _Static(StaticFiles):
    """Files whose name tells their version are kept by browsers; ours are asked for again."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        answer = super().file_response(*args, **kwargs)
        answer.headers["Cache-Control"] = "no-cache"
        return answer

    async def get_response(self, path: str, scope: Scope) -> Response:
        answer = await super().get_response(path, scope)
        if answer.status_code == 200 and ".min." in path:
            answer.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return answer


async def _healthz() -> Response:
    return PlainTextResponse("ok\n")


async def _readyz(desk: Given) -> Response:
    try:
        await desk.exports.require_ready()
    except CrmExportError as error:
        return PlainTextResponse(f"{error}\n", status_code=503)
    return PlainTextResponse("ready\n")


# What went wrong is one line: in JSON for programs, beside the button for those who pressed one, else on a page.


def _told(request: Request, status_code: int, text: str) -> Response:
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": text}, status_code=status_code)
    if "hx-request" in request.headers:
        return said(text, status_code=status_code)
    return page(request, "problem.html", None, status_code=status_code, text=text)


async def _failed(request: Request, error: Exception) -> Response:
    return _told(request, 503 if isinstance(error, StoreError) else 409, str(error))


async def _not_allowed(request: Request, error: Exception) -> Response:
    return _told(request, 403, str(error))


async def _not_signed_in(request: Request, error: Exception) -> Response:
    path = request.url.path
    if path.startswith("/api/"):
        return _told(request, 401, str(error))
    if "hx-request" in request.headers:
        back = request.headers.get("hx-current-url", "")
        path = f"/{back.split('/', 3)[3]}" if back.count("/") > 2 else "/exports"
        return Response(status_code=401, headers={"HX-Redirect": f"/sign-in?to={quote(path, safe='/')}"})
    query = f"?{request.url.query}" if request.url.query else ""
    return RedirectResponse(f"/sign-in?to={quote(path + query, safe='/')}", status_code=303)


async def _not_understood(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(step) for step in first["loc"][1:])
    return _told(request, 422, f"{where}: {first['msg']}" if where else first["msg"])


async def _not_there(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = _told(request, error.status_code, str(error.detail))
    if error.status_code == 405:
        answer.headers["Allow"] = ", ".join(sorted(_methods(request)))
    return answer


def _methods(request: Request) -> set[str]:
    """What may be done at this path; a route by itself knows only its own method."""
    found: set[str] = set()
    for route in request.app.router.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return found
