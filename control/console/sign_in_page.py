"""Signing in and out."""

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Form
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from control.console.people import NotAllowedError, NotSignedInError
from control.console.shield import require_token
from control.console.sign_in import SessionSignIn
from control.console.templates import page

router = APIRouter(include_in_schema=False)
_HOME = "/exports"


def _sign_in(request: Request) -> SessionSignIn:
    found = request.app.state.sign_in
    if not isinstance(found, SessionSignIn):
        raise HTTPException(404, "this console is for this machine alone: there is nobody to sign in")
    return found


Given = Annotated[SessionSignIn, Depends(_sign_in)]


@router.get("/sign-in")
async def show(request: Request, sign_in: Given, to: str = _HOME) -> Response:
    return _form(request, sign_in, to=to)


@router.post("/sign-in", dependencies=[Depends(require_token)])
async def by_password(
    request: Request,
    sign_in: Given,
    name: Annotated[str, Form(max_length=255)],
    password: Annotated[str, Form(max_length=1_000)],
    to: Annotated[str, Form()] = _HOME,
) -> Response:
    try:
        await sign_in.by_password(request, name, password)
    except NotSignedInError as error:
        return _form(request, sign_in, to=to, problem=str(error), status_code=401)
    return RedirectResponse(_own(to), status_code=303)


@router.get("/sign-in/provider")
async def to_provider(request: Request, sign_in: Given, to: str = _HOME) -> Response:
    if sign_in.oidc is None:
        raise HTTPException(404, "no sign-in provider is configured")
    request.session["to"] = _own(to)
    try:
        return await sign_in.to_provider(request)
    except NotSignedInError as error:
        return _form(request, sign_in, to=to, problem=str(error), status_code=502)


@router.get("/sign-in/callback")
async def from_provider(request: Request, sign_in: Given) -> Response:
    if sign_in.oidc is None:
        raise HTTPException(404, "no sign-in provider is configured")
    to = str(request.session.get("to", _HOME))
    try:
        await sign_in.from_provider(request)
    except (NotSignedInError, NotAllowedError) as error:
        status_code = 403 if isinstance(error, NotAllowedError) else 401
        return _form(request, sign_in, to=to, problem=str(error), status_code=status_code)
    return RedirectResponse(_own(to), status_code=303)


@router.post("/sign-out", dependencies=[Depends(require_token)])
async def sign_out(request: Request) -> Response:
    request.session.clear()
    return RedirectResponse("/sign-in", status_code=303)


def _form(
    request: Request, sign_in: SessionSignIn, *, to: str, problem: str | None = None, status_code: int = 200
) -> Response:
    return page(
        request,
        "sign_in.html",
        None,
        status_code=status_code,
        problem=problem,
        to=_own(to),
        passwords=sign_in.takes_passwords,
        provider=sign_in.oidc is not None,
    )


def _own(to: str) -> str:
    """A page of this console: nobody is sent elsewhere by a link."""
    parts = urlsplit(to)
    is_own = not parts.scheme and not parts.netloc and to.startswith("/") and "\\" not in to and to[1:2] != "/"
    return to if is_own else _HOME
