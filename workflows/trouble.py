"""Waiting for job-level trouble to go away: the same for an export and a re-export."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError


async def ended(
    activity: workflow.ActivityHandle[Any],
    *,
    unless: Callable[[], bool] = lambda: False,
    within: timedelta | None = None,
) -> bool:
    """Wait until an activity has ended; False when ``unless()`` or the time came first.

    When the workflow is cancelled meanwhile, so is the activity, and its true end is waited for.
    """
    try:
        await workflow.wait_condition(lambda: activity.done() or unless(), timeout=within)
    except TimeoutError:
        pass
    except asyncio.CancelledError:
        await stopped(activity)
        raise
    return activity.done()


async def stopped(activity: workflow.ActivityHandle[Any]) -> Any | None:
    """Cancel an activity and wait for its true end; its result when it came to one all the same, else None.

    Raises CancelledError when it is the workflow that is cancelled: the activity's end must not hide that.
    Whether it was *released* is for the caller's own flag to say: an attempt that fails after the request to cancel
    surfaces as a failure, not as a cancellation.
    """
    activity.cancel()
    result: Any | None = None
    with suppress(ActivityError, asyncio.CancelledError):
        result = await activity
    raise_if_cancelled()
    return result


def raise_if_cancelled() -> None:
    """For where an activity's failure was caught: it may be the cancellation of the workflow itself."""
    if workflow.cancellation_reason() is not None:
        raise asyncio.CancelledError
