"""Everything that the Temporal UI shows of an export: search attributes, summaries, current details."""

from datetime import datetime
from enum import StrEnum

from temporalio import workflow
from temporalio.common import SearchAttributeKey

from crm_export.model import HeldRecord, JobTrouble, Model, Position, RunCounts

EXPORT_CONNECTION = SearchAttributeKey.for_keyword("ExportConnection")
EXPORT_JOB = SearchAttributeKey.for_keyword("ExportJob")
EXPORT_STATE = SearchAttributeKey.for_keyword("ExportState")
CRM_ERROR_CODE = SearchAttributeKey.for_keyword("CrmErrorCode")
SEARCH_ATTRIBUTES = (EXPORT_CONNECTION, EXPORT_JOB, EXPORT_STATE, CRM_ERROR_CODE)
"""What ``crm-export setup`` registers. One that is missing makes every workflow task fail."""

BLOCKED = "Blocked"
_SUMMARY_BYTES = 200
"""The server refuses longer activity summaries."""


class ExportState(StrEnum):
    """The values of the search attribute ``ExportState``."""

    RUNNING = "Running"
    PAUSED = "Paused"
    BLOCKED = "Blocked"
    COMPLETED = "Completed"


def show_state(state: ExportState, *, connection: str, job: str | None = None, code: str | None = None) -> None:
    """Set the search attributes that find an export: ``temporal workflow list --query 'ExportState="Paused"'``."""
    updates = [
        EXPORT_CONNECTION.value_set(connection),
        EXPORT_STATE.value_set(state),
        CRM_ERROR_CODE.value_set(code) if code else CRM_ERROR_CODE.value_unset(),
    ]
    if job is not None:
        updates.append(EXPORT_JOB.value_set(job))
    workflow.upsert_search_attributes(updates)


class Blocked(Model):
    """What blocks a run, and since when; in its memo, by the trouble that came first."""

    trouble: JobTrouble
    since: datetime


def show_blocked(by: Blocked | None) -> None:
    """Keep in the memo what blocks a run: ``status`` reads it, whether a worker runs or not."""
    workflow.upsert_memo({BLOCKED: by})


def summary(text: str) -> str:
    """A text that fits an activity's summary."""
    return text.encode()[:_SUMMARY_BYTES].decode(errors="ignore")


def standing(counts: RunCounts, total: int | None, position: Position | None) -> str:
    """One Markdown line: how far a run is."""
    of_total = f" of {total:,}" if total is not None else ""
    return f"{counts}{of_total}; position `{position or 'before the first record'}`"


def paused(job: str, held: HeldRecord) -> str:
    """What a person who opens a stuck export needs to know, in Markdown."""
    lines = [
        f"## Paused at {held.object} `{held.record_key}`",
        f"**{held.refusal.code}** since {_time(held.since)}",
        fenced(held.refusal.message),
    ]
    if held.refusal.fields:
        lines.append(f"Fields: {', '.join(f'`{field}`' for field in held.refusal.fields)}")
    if held.refusal.hint:
        lines.append(f"**What to do:** {held.refusal.hint}.")
    lines += [
        "It is tried again by itself; the Pending Activities tab has the last answer and the time of the next attempt. "
        "Nothing behind this record is sent meanwhile.",
        f"- try now: `crm-export retry {job}`, or the signal `retry_now`\n"
        f"- leave it in ExportErrors and carry on: `crm-export skip {job}`, or the signal `skip_record`\n"
        "- never pause: `crm-export settings CONNECTION pause-on-error off`, or the signal `set_pause_on_error`",
    ]
    return "\n\n".join(lines)


def blocked(by: Blocked) -> str:
    """Why a run is blocked, in Markdown."""
    trouble = by.trouble
    lines = [f"## Blocked: {trouble.code}", f"since {_time(by.since)}", fenced(trouble.message)]
    if trouble.hint:
        lines.append(f"**What to do:** {trouble.hint}.")
    lines.append("No record is at fault. The call is tried again by itself, and the run carries on where it stands.")
    return "\n\n".join(lines)


def fenced(text: str) -> str:
    """Text that the CRM wrote, so that it stays text in Markdown."""
    inert = text.replace("```", "'''")
    return f"```\n{inert}\n```"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
