"""Signing in to Salesforce: OAuth 2.0 in the four flows that an integration uses, and the session they give.

From Salesforce's "OAuth Authorization Flows". The token answer has no reliable ``expires_in``: a session is used until
a call says that it has ended.
"""

import asyncio
import ipaddress
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx
import jwt

from crm_export.errors import CrmError
from crm_export.salesforce.errors import call_error, one_line

TOKEN_PATH = "/services/oauth2/token"
_ASSERTION_SECONDS = 170
"""Salesforce takes an assertion that expires within three minutes."""


@dataclass(frozen=True)
class ClientCredentials:
    """The integration's own identity; the connected app names the user that it runs as."""

    client_id: str
    client_secret: str = field(repr=False)


@dataclass(frozen=True)
class JwtBearer:
    """A signed assertion for ``username``; ``private_key`` is PEM text, its certificate is in the connected app."""

    client_id: str
    username: str
    private_key: str = field(repr=False)


@dataclass(frozen=True)
class RefreshToken:
    """What a person's sign-in left behind."""

    client_id: str
    client_secret: str | None = field(repr=False)
    refresh_token: str = field(repr=False)


@dataclass(frozen=True)
class AccessToken:
    """A session that something else signs in."""

    token: str = field(repr=False)
    instance_url: str


Credentials = ClientCredentials | JwtBearer | RefreshToken | AccessToken


@dataclass(frozen=True)
class Session:
    """A signed-in session; calls go to ``instance_url``, not to the login host."""

    token: str = field(repr=False)
    instance_url: str


def is_safe_url(url: str) -> bool:
    """Whether credentials may travel there: by https, or by http to this machine itself."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return bool(parts.hostname)
    return parts.scheme == "http" and _is_loopback(parts.hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class SalesforceAuth(httpx.Auth):
    """The session of one connection, for all its calls: signs in when first needed, and once more when it has ended.

    However many calls find the session ended at a time, one of them signs in.
    """

    requires_response_body = True

    def __init__(self, login_url: str, credentials: Credentials, client: httpx.AsyncClient) -> None:
        """``client`` makes the sign-in calls; it must not have this auth itself."""
        self._login_url = login_url.rstrip("/")
        self._credentials = credentials
        self._client = client
        self._session: Session | None = None
        self._lock = asyncio.Lock()

    async def session(self) -> Session:
        """The session, signed in. Raises CrmError where Salesforce refuses the sign-in."""
        return self._session or await self._renewed(None)

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        session = await self.session()
        request.headers["Authorization"] = f"Bearer {session.token}"
        response = yield request
        if response.status_code == 401 and not isinstance(self._credentials, AccessToken):
            session = await self._renewed(session)
            request.headers["Authorization"] = f"Bearer {session.token}"
            yield request

    async def _renewed(self, ended: Session | None) -> Session:
        async with self._lock:
            if self._session is None or self._session is ended:
                self._session = None
                self._session = await self._sign_in()
            return self._session

    async def _sign_in(self) -> Session:
        if isinstance(self._credentials, AccessToken):
            return Session(self._credentials.token, self._credentials.instance_url.rstrip("/"))
        response = await self._client.post(f"{self._login_url}{TOKEN_PATH}", data=self._form(self._credentials))
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise call_error(response.status_code, "UNEXPECTED_ANSWER", f"{self._host} gave no token answer")
        if response.is_error or "access_token" not in answer:
            code = str(answer.get("error", "UNEXPECTED_ANSWER"))
            told = one_line(str(answer.get("error_description", "no reason given")))
            raise call_error(response.status_code, code, f"Salesforce refused the sign-in at {self._host}: {told}")
        instance_url = str(answer.get("instance_url", self._login_url)).rstrip("/")
        if not is_safe_url(instance_url):
            raise CrmError("UNEXPECTED_ANSWER", f"{self._host} names an instance_url that is not https")
        return Session(str(answer["access_token"]), instance_url)

    @property
    def _host(self) -> str:
        return urlsplit(self._login_url).netloc

    def _form(self, credentials: ClientCredentials | JwtBearer | RefreshToken) -> dict[str, str]:
        match credentials:
            case ClientCredentials(client_id, client_secret):
                return {
                    "grant_type": "client_credentials",
                    "client_id": client_id,
                    "client_secret": client_secret,
                }
            case RefreshToken(client_id, secret, refresh_token):
                form = {"grant_type": "refresh_token", "client_id": client_id, "refresh_token": refresh_token}
                return form | ({"client_secret": secret} if secret else {})
            case JwtBearer(client_id, username, private_key):
                claims = {
                    "iss": client_id,
                    "sub": username,
                    "aud": self._login_url,
                    "exp": int(time.time()) + _ASSERTION_SECONDS,
                }
                try:
                    assertion = jwt.encode(claims, private_key, algorithm="RS256")
                except (ValueError, jwt.PyJWTError):
                    raise CrmError(
                        "invalid_grant", "the private key is not an RSA key in PEM", hint="see auth.private_key"
                    ) from None
                return {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion}
