"""Who is asking, and what they may do."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from starlette.requests import Request

from crm_export.errors import CrmExportError


class Role(StrEnum):
    """A viewer sees everything and changes nothing; an operator may do what the command line may."""

    VIEWER = "viewer"
    OPERATOR = "operator"


@dataclass(frozen=True)
class Person:
    """Somebody who is signed in; ``name`` stands in the change log and in Temporal's history."""

    name: str
    role: Role

    @property
    def may_change(self) -> bool:
        return self.role is Role.OPERATOR


class NotSignedInError(CrmExportError):
    """Nobody is signed in, or the sign-in was wrong; the message says what to do."""


class NotAllowedError(CrmExportError):
    """The person, or the page that the request came from, may not do this."""


class SignIn(Protocol):
    """How the console finds out who asks."""

    async def person(self, request: Request) -> Person:
        """Raises NotSignedInError."""
        ...


async def viewer(request: Request) -> Person:
    """Who asks. Raises NotSignedInError where nobody is signed in."""
    sign_in: SignIn = request.app.state.sign_in
    return await sign_in.person(request)
