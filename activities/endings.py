"""How an activity ends: at the end of the call in flight, and with trouble that a person can read."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from crm_export.errors import ConfigError, JobLevelError, ReplacedError, StoreError, SupersededError
from crm_export.export import job_trouble
from crm_export.model import JobTrouble

T = TypeVar("T")

_BEAT_SECONDS = 0.5
"""The SDK sends at most one heartbeat in 80 % of the timeout; asking more often costs nothing."""
_TROUBLE_INITIAL = timedelta(seconds=2)
_TROUBLE_MAXIMUM = timedelta(minutes=5)
"""Job-level trouble is retried quickly at first, then at the pace at which outages end."""


async def to_its_end(work: Callable[[Callable[[], bool]], Awaitable[T]]) -> T:
    """Run ``work(should_stop)``; a cancellation or the worker's shutdown asks it to stop, and its true
    end is waited for, since a call in flight may write."""
    asked_to_stop = False

    def should_stop() -> bool:
        return asked_to_stop or activity.is_worker_shutdown()

    async def run() -> T:
        return await work(should_stop)

    task = asyncio.create_task(run())
    while True:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.done():
                raise
            asked_to_stop = True


class Heartbeats(Interceptor):
    """Every activity beats, unless it ends at once: one whose worker was killed is taken over, whatever it did."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Beating(next)


class _Beating(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        beat = asyncio.create_task(_beat())
        try:
            return await super().execute_activity(input)
        finally:
            beat.cancel()


async def _beat() -> None:
    while True:
        await asyncio.sleep(_BEAT_SECONDS)
        activity.heartbeat()


@contextlib.contextmanager
def trouble_raised() -> Iterator[None]:
    """Turn the project's errors into ones that Temporal retries; only a run that another has replaced fails on one."""
    try:
        yield
    except (ConfigError, JobLevelError, StoreError) as error:
        raise trouble(trouble_of(error)) from None
    except SupersededError as error:
        # Of two attempts it may be the older one that took over: it was handed to a worker that was stopped until now.
        final = isinstance(error, ReplacedError)
        raise ApplicationError(str(error), type=type(error).__name__, non_retryable=final) from None


def trouble_of(error: ConfigError | JobLevelError | StoreError) -> JobTrouble:
    """What stopped an activity, as data. What a worker is not configured for is trouble too, and heals: a deployment's
    old workers lack a new job, and a file is mended while a paused run waits."""
    if isinstance(error, ConfigError):
        return JobTrouble(code="NOT_CONFIGURED", message=str(error), hint="give every worker the same exports.yaml")
    return job_trouble(error)


def trouble(of_job: JobTrouble) -> ApplicationError:
    """Job-level trouble, retried after the CRM's own hint or with a back-off of ours."""
    delay = of_job.retry_after or backoff(_TROUBLE_INITIAL, _TROUBLE_MAXIMUM)
    return ApplicationError(str(of_job), type=of_job.code, next_retry_delay=delay)


def refused(text: str, code: str, delay: timedelta) -> ApplicationError:
    """A refusal as the pending activity's failure: its text is what the Temporal UI shows of a stuck export."""
    return ApplicationError(text, type=code, next_retry_delay=delay, category=ApplicationErrorCategory.BENIGN)


def backoff(initial: timedelta, maximum: timedelta) -> timedelta:
    """How long to wait after this attempt: doubling from ``initial`` up to ``maximum``."""
    doublings = min(activity.info().attempt - 1, 30)
    return min(initial * int(2**doublings), maximum)
