"""Signing in: nobody but this machine's user, a password whose hash is configured, or OpenID Connect."""

import asyncio
import base64
import binascii
import getpass
import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from typing import Any

import httpx2
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from authlib.integrations.base_client import OAuthError
from authlib.integrations.starlette_client import OAuth
from joserfc.errors import JoseError
from starlette.requests import Request
from starlette.responses import Response

from control.asking import in_thread
from control.console.people import NotAllowedError, NotSignedInError, Person, Role
from crm_export.config import ConsoleConfig, ConsoleUser, Oidc

SESSION_HOURS = 12
"""After so long one signs in again, whatever one did meanwhile."""
_FREE_TRIES = 5
_LONGEST_WAIT = 300.0
_MOST_NAMES = 10_000
_HASHES_AT_ONCE = 2
"""Each takes a thread, which the pages' questions to the store need too, and 64 MiB."""
_hasher = PasswordHasher()
_NO_USER = _hasher.hash(secrets.token_hex(16))


class LocalSignIn:
    """Without sign-in the console is for this machine alone; who asks is its user."""

    async def person(self, request: Request) -> Person:
        return Person(getpass.getuser(), Role.OPERATOR)


class SessionSignIn:
    """People who have signed in, by the session in their cookie; programs on the API by HTTP Basic with a password."""

    def __init__(self, config: ConsoleConfig) -> None:
        assert config.sign_in is not None
        self._users = config.sign_in.users
        self._public_url = config.public_url
        self.oidc = config.sign_in.oidc
        self._tries = _Tries()
        self._hashing = asyncio.Semaphore(_HASHES_AT_ONCE)
        self._programs = _Programs()
        self._oauth = OAuth()
        if self.oidc is not None:
            self._oauth.register(
                "provider",
                server_metadata_url=f"{self.oidc.issuer}/.well-known/openid-configuration",
                client_id=self.oidc.client_id,
                client_secret=self.oidc.client_secret.get_secret_value(),
                client_kwargs={"scope": self.oidc.scopes, "code_challenge_method": "S256", "timeout": 10},
            )

    @property
    def takes_passwords(self) -> bool:
        return bool(self._users)

    async def person(self, request: Request) -> Person:
        if request.url.path.startswith("/api/") and "authorization" in request.headers:
            return await self._program(request.headers["authorization"])
        session = request.session.get("person")
        if not isinstance(session, dict) or time.time() - session["at"] > SESSION_HOURS * 3600:
            raise NotSignedInError("sign in first")
        if session["by"] == "oidc":
            return Person(session["name"], Role(session["role"]))
        # The configuration has the last word: a user who was removed, or whose password changed, is signed out.
        user = self._users.get(session["name"])
        if user is None or session["proof"] != _proof(user):
            raise NotSignedInError("sign in again")
        return Person(session["name"], Role(user.role))

    async def by_password(self, request: Request, name: str, password: str) -> Person:
        """Begin a session. Raises NotSignedInError."""
        person = await self._checked(name, password)
        _begin(request, person, by="password", proof=_proof(self._users[name]))
        return person

    async def _checked(self, name: str, password: str) -> Person:
        self._tries.require_patience(name)
        user = self._users.get(name)
        known = user.password_hash.get_secret_value() if user else _NO_USER
        async with self._hashing:
            # Counted before it is looked at: of many that come at once, those behind the first few wait too.
            self._tries.begin(name)
            # An unknown name takes as long as a wrong password.
            if not await in_thread(_is_password, known, password) or user is None:
                raise NotSignedInError("name or password is wrong")
            self._tries.succeeded(name)
        return Person(name, Role(user.role))

    async def _program(self, authorization: str) -> Person:
        scheme, _, encoded = authorization.partition(" ")
        try:
            name, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            scheme = ""
        if scheme.lower() != "basic":
            raise NotSignedInError("the API takes a session's cookie, or HTTP Basic with a console user's password")
        user = self._users.get(name)
        if user is None or not self._programs.is_known(authorization, user):
            await self._checked(name, password)
            user = self._users[name]
            self._programs.remember(authorization, user)
        return Person(name, Role(user.role))

    async def to_provider(self, request: Request) -> Response:
        """Send the person to the OpenID provider. Raises NotSignedInError where it does not answer."""
        base = self._public_url or str(request.base_url).rstrip("/")
        try:
            answer: Response = await self._oauth.provider.authorize_redirect(request, f"{base}/sign-in/callback")
        except (httpx2.HTTPError, OAuthError, RuntimeError, ValueError) as error:
            raise NotSignedInError(
                f"the sign-in provider does not answer ({type(error).__name__}): try again"
            ) from None
        return answer

    async def from_provider(self, request: Request) -> Person:
        """Begin a session with what the provider says. Raises NotSignedInError, NotAllowedError."""
        assert self.oidc is not None
        try:
            token = await self._oauth.provider.authorize_access_token(request)
            claims = {**token.get("userinfo", {})}
            if self.oidc.roles.claim not in claims or self.oidc.name_claim not in claims:
                claims = {**await self._oauth.provider.userinfo(token=token), **claims}
        except (OAuthError, JoseError, httpx2.HTTPError, RuntimeError, ValueError, KeyError) as error:
            raise NotSignedInError(f"the sign-in provider did not sign you in ({type(error).__name__})") from None
        person = person_of(claims, self.oidc)
        _begin(request, person, by="oidc", proof="")
        return person


def person_of(claims: Mapping[str, Any], oidc: Oidc) -> Person:
    """Name and role of what the provider says. Raises NotAllowedError for a person who has no role here."""
    name = str(claims.get(oidc.name_claim) or claims.get("preferred_username") or claims.get("sub") or "")
    found = claims.get(oidc.roles.claim)
    values = {"*", *map(str, found if isinstance(found, list | tuple) else [found] if found is not None else [])}
    if values & set(oidc.roles.operator):
        return Person(name, Role.OPERATOR)
    if values & set(oidc.roles.viewer):
        return Person(name, Role.VIEWER)
    raise NotAllowedError(f"{name} has no role in this console: see console.sign_in.oidc.roles")


def hash_password(password: str) -> str:
    """What stands in the configuration for a password."""
    return _hasher.hash(password)


def _begin(request: Request, person: Person, *, by: str, proof: str) -> None:
    # A session that existed before is not carried on: nobody can have planted it.
    request.session.clear()
    request.session["csrf"] = secrets.token_urlsafe(24)
    request.session["person"] = {
        "name": person.name,
        "role": person.role,
        "by": by,
        "proof": proof,
        "at": int(time.time()),
    }


def _is_password(known: str, given: str) -> bool:
    try:
        return _hasher.verify(known, given)
    except (Argon2Error, InvalidHashError):
        return False


def _proof(user: ConsoleUser) -> str:
    """Changes with the password, and says nothing of it."""
    return hashlib.sha256(user.password_hash.get_secret_value().encode()).hexdigest()[:16]


class _Tries:
    """Wrong passwords for one name make it wait: after five, longer each time."""

    def __init__(self) -> None:
        self._failures: dict[str, tuple[int, float]] = {}

    def require_patience(self, name: str) -> None:
        failures, at = self._failures.get(name, (0, 0.0))
        wait = min(2.0 ** (failures - _FREE_TRIES), _LONGEST_WAIT) if failures >= _FREE_TRIES else 0
        left = at + wait - time.monotonic()
        if left > 0:
            raise NotSignedInError(f"too many wrong passwords: wait {left:.0f} s")

    def begin(self, name: str) -> None:
        """Count a try as a wrong one, until it has ``succeeded``. Raises NotSignedInError."""
        self.require_patience(name)
        if len(self._failures) > _MOST_NAMES:
            self._failures.clear()
        self._failures[name] = (self._failures.get(name, (0, 0.0))[0] + 1, time.monotonic())

    def succeeded(self, name: str) -> None:
        self._failures.pop(name, None)


class _Programs:
    """Programs send the password each time; hashing it each time would take more than the answer."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._known: dict[bytes, str] = {}

    def is_known(self, authorization: str, user: ConsoleUser) -> bool:
        return self._known.get(self._digest(authorization)) == _proof(user)

    def remember(self, authorization: str, user: ConsoleUser) -> None:
        self._known[self._digest(authorization)] = _proof(user)

    def _digest(self, authorization: str) -> bytes:
        return hmac.digest(self._key, authorization.encode(), "sha256")
