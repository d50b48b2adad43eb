"""Sign-in: OAuth 2.0 client credentials, refresh token and JWT bearer, and the sessions they give."""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class SignInError(Exception):
    """Sign-in is refused: HTTP 400 or 401 with OAuth's own error words."""

    def __init__(self, code: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.answer = {"error": code, "error_description": description}
        self.status = status


@dataclass
class OAuth:
    """One connected app and its user; ``public_key`` (PEM) checks assertions."""

    client_id: str
    client_secret: str
    refresh_token: str = "refresh"
    username: str = "integration@example.com"
    public_key: str | None = None
    sessions: set[str] = field(default_factory=set)

    def token(self, form: Mapping[str, str], url: str) -> dict[str, Any]:
        """Sign in; raises SignInError."""
        grant = form.get("grant_type")
        if grant == JWT_BEARER:
            self._check_assertion(form.get("assertion", ""), url)
        elif grant in ("client_credentials", "refresh_token"):
            if form.get("client_id") != self.client_id:
                raise SignInError("invalid_client_id", "client identifier invalid")
            if form.get("client_secret") != self.client_secret:
                raise SignInError("invalid_client", "invalid client credentials", 401)
            if grant == "refresh_token" and form.get("refresh_token") != self.refresh_token:
                raise SignInError("invalid_grant", "expired access/refresh token")
        else:
            raise SignInError("unsupported_grant_type", "grant type not supported")
        session = secrets.token_urlsafe(32)
        self.sessions.add(session)
        return {
            "access_token": session,
            "instance_url": url,
            "id": f"{url}/id/00D000000000001AAA/005000000000001AAA",
            "token_type": "Bearer",
            "issued_at": str(int(time.time() * 1000)),
            "signature": secrets.token_urlsafe(32),
        }

    def _check_assertion(self, assertion: str, url: str) -> None:
        if self.public_key is None:
            raise SignInError("invalid_grant", "no certificate is configured for this app")
        try:
            claims = jwt.decode(assertion, self.public_key, algorithms=["RS256"], audience=url)
        except jwt.PyJWTError:
            raise SignInError("invalid_grant", "invalid assertion") from None
        if claims.get("iss") != self.client_id or claims.get("sub") != self.username:
            raise SignInError("invalid_grant", "user hasn't approved this consumer")
        if claims["exp"] > time.time() + 180:
            raise SignInError("invalid_grant", "assertion expires too late")
