"""Asking Temporal: within a time that a person waits, and with errors that a person can read."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec, TypeVar

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import (
    Client,
    WorkflowHandle,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.service import RPCError, RPCStatusCode

from activities.temporal import TASK_QUEUE
from crm_export.errors import CrmExportError

ANSWER_SECONDS = 10
"""A command gives up after so long on a Temporal, or a worker, that does not answer."""
STARTING_SECONDS = 4
"""So long a command waits for a worker that is just starting."""
POLLED = timedelta(seconds=90)
"""A worker that lives has asked for work within so long: a poll lasts a minute at most, and clocks differ. (Temporal
lists a worker for five minutes after its last poll.)"""
T = TypeVar("T")
P = ParamSpec("P")


class OperationFailedError(CrmExportError):
    """What was asked for cannot be done now; the message says why, and what to do."""


class NotFoundError(OperationFailedError):
    """Temporal does not know what was asked for."""


class NotAnsweredError(OperationFailedError):
    """What was asked for reached Temporal, but no worker has answered yet: it may still happen."""


class NoLongerWaitingError(CrmExportError):
    """Somebody stopped waiting for what goes on by itself."""


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


async def has_worker(client: Client, seconds: float = ANSWER_SECONDS) -> bool:
    """Whether a worker asks for work, or did so lately: one that was killed is found for ``POLLED`` still."""
    request = DescribeTaskQueueRequest(
        namespace=client.namespace,
        task_queue=TaskQueue(name=TASK_QUEUE),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    )
    found = await answered(client.workflow_service.describe_task_queue(request), seconds)
    oldest = datetime.now(UTC) - POLLED
    return any(poller.last_access_time.ToDatetime(UTC) > oldest for poller in found.pollers)


async def updated(client: Client, workflow_id: str, update: Any, args: list[Any], *, gone: str) -> Any:
    """A workflow's answer to an update; ``gone`` says what it means that there is no such workflow.

    Without a worker nothing is sent: Temporal would keep it, and do it whenever a worker starts. Raises
    NotAnsweredError where it was sent, and no worker has answered."""
    handle: WorkflowHandle[Any, Any] = client.get_workflow_handle(workflow_id)
    await _require_worker(client)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await handle.execute_update(update, args=args)
    except WorkflowUpdateFailedError as error:
        raise OperationFailedError(str(error.cause)) from None
    except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
        raise NotAnsweredError(
            f"asked for, but no worker answered for {workflow_id} within {ANSWER_SECONDS} s: "
            "it happens as soon as one runs (crm-export worker); see crm-export status"
        ) from None
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise OperationFailedError(gone) from None
        raise refused(error) from None
    except RuntimeError as error:
        raise OperationFailedError(f"Temporal cannot be reached ({str(error).splitlines()[0][:80]})") from None


async def _require_worker(client: Client) -> None:
    """One that has just been started is waited for."""
    deadline = time.monotonic() + STARTING_SECONDS
    while not await has_worker(client, STARTING_SECONDS):
        if time.monotonic() > deadline:
            raise OperationFailedError(
                "no worker runs, so nothing was changed: start one (crm-export worker), then ask again"
            )
        await asyncio.sleep(0.2)


@contextmanager
def waiting(goes_on: str) -> Iterator[None]:
    """Ctrl-C within the block ends the waiting; ``goes_on`` says that what is waited for does not end. Raises
    NoLongerWaitingError."""
    try:
        yield
    except asyncio.CancelledError:
        raise NoLongerWaitingError(f"no longer waiting; {goes_on}") from None


async def in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The store's methods block; a thread waits for them."""
    return await asyncio.to_thread(call, *args, **kwargs)


def refused(error: RPCError) -> OperationFailedError:
    """Temporal's refusal in words for a person."""
    if error.status is RPCStatusCode.UNAVAILABLE:
        return OperationFailedError("Temporal cannot be reached: see that it runs, and TEMPORAL_ADDRESS")
    return OperationFailedError(f"Temporal refused: {error.message}")
