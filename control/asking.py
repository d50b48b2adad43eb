"""Asking Temporal: within a time that a person waits, and with errors that a person can read."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

from temporalio.client import WorkflowHandle, WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.service import RPCError, RPCStatusCode

from crm_export.errors import CrmExportError

ANSWER_SECONDS = 10
"""A command gives up after so long on a Temporal, or a worker, that does not answer."""
T = TypeVar("T")
P = ParamSpec("P")


class OperationFailedError(CrmExportError):
    """What was asked for cannot be done now; the message says why, and what to do."""


class NotFoundError(OperationFailedError):
    """Temporal does not know what was asked for."""


async def answered(call: Awaitable[T], seconds: float = ANSWER_SECONDS) -> T:
    """Temporal's answer. Raises NotFoundError, or OperationFailedError where it refuses or does not answer."""
    try:
        # wait_for of Python 3.11 can lose a cancellation that comes with the answer.
        async with asyncio.timeout(seconds):
            return await call
    except TimeoutError:
        raise OperationFailedError(f"Temporal did not answer within {seconds:g} s") from None
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise NotFoundError(error.message) from None
        raise refused(error) from None
    except RuntimeError as error:
        # A client that has not been connected yet says so in its own words.
        raise OperationFailedError(f"Temporal cannot be reached ({str(error).splitlines()[0][:80]})") from None


async def updated(handle: WorkflowHandle[Any, Any], update: Any, args: list[Any], *, gone: str) -> Any:
    """A workflow's answer to an update; ``gone`` says what it means that there is no such workflow."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await handle.execute_update(update, args=args)
    except WorkflowUpdateFailedError as error:
        raise OperationFailedError(str(error.cause)) from None
    except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
        raise OperationFailedError(
            f"no worker answered for {handle.id} within {ANSWER_SECONDS} s: see that one runs (crm-export worker)"
        ) from None
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise OperationFailedError(gone) from None
        raise refused(error) from None
    except RuntimeError as error:
        raise OperationFailedError(f"Temporal cannot be reached ({str(error).splitlines()[0][:80]})") from None


async def in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The store's methods block; a thread waits for them."""
    return await asyncio.to_thread(call, *args, **kwargs)


def refused(error: RPCError) -> OperationFailedError:
    """Temporal's refusal in words for a person."""
    if error.status is RPCStatusCode.UNAVAILABLE:
        return OperationFailedError("Temporal cannot be reached: see that it runs, and TEMPORAL_ADDRESS")
    return OperationFailedError(f"Temporal refused: {error.message}")
