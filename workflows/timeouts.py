"""How long things may take, and how they are tried again, each with its reason."""

from datetime import timedelta
from typing import TypedDict

from temporalio.common import RetryPolicy


class Limits(TypedDict):
    """How long an activity may take, and how it is tried again: arguments of Temporal's ``start_activity``."""

    start_to_close_timeout: timedelta
    heartbeat_timeout: timedelta
    retry_policy: RetryPolicy


PAGE = timedelta(seconds=60)
"""About a page's length: few Temporal actions for many records, and soon enough at a boundary to be up to date."""
FIRST_PAGE = timedelta(seconds=5)
"""The first page is short, so that ``progress`` tells something soon; each next one is twice as long, up to PAGE."""

LONGEST_CALLS = timedelta(minutes=30)
"""A page's or a record's activity may be at its last calls for so long: Salesforce allows 10 minutes for one."""

STORE_CALL = timedelta(seconds=60)
"""Short work on the store and in Temporal; a locked SQLite file may take half of it."""
LARGE_COUNT = timedelta(minutes=30)
"""Beginning a run counts the source's rows."""

HEARTBEAT = timedelta(seconds=10)
"""What a dead worker was at is taken over after so long; a job's pages and attempts have a heartbeat of their own."""
UNTIL_IT_WORKS = RetryPolicy(
    initial_interval=timedelta(seconds=1), backoff_coefficient=2, maximum_interval=timedelta(seconds=30)
)
"""For infrastructure: a worker that was deployed or killed must not cost more than this (refusals and job-level
trouble name their own, longer delays)."""
STORE_WORK: Limits = {
    "start_to_close_timeout": STORE_CALL,
    "heartbeat_timeout": HEARTBEAT,
    "retry_policy": UNTIL_IT_WORKS,
}
"""What most activities need."""
A_FEW_TIMES = RetryPolicy(maximum_attempts=5)
"""For telling people: a webhook that is gone must not hold anything up."""

RECONCILE_EVERY = timedelta(hours=1)
"""ExportErrors compares its memory with the table so often, though nobody signals."""
TELL_ALL = timedelta(minutes=10)
"""Telling every running export: 2 ms each, and there may be thousands."""
