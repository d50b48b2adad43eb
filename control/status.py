"""How a job stands, in the contract's words, read from the store and from Temporal's description of its run."""

from datetime import UTC, datetime

from pydantic import BaseModel
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.client import WorkflowExecution, WorkflowExecutionDescription, WorkflowExecutionStatus
from temporalio.converter import DataConverter

from activities.temporal import ui_url
from crm_export.config import Job
from crm_export.model import HeldRecord, RunState
from crm_export.salesforce import facts
from workflows import shown
from workflows.shown import EXPORT_STATE, ExportState


class Held(BaseModel):
    """A held record as ``status --json`` shows it (fixed keys)."""

    key: str
    code: str
    message: str
    fields: tuple[str, ...]
    hint: str
    since: datetime
    attempts: int
    next_attempt_at: datetime | None
    usual_cause: str = ""


class Blocked(BaseModel):
    """What blocks a run, as ``status --json`` shows it (fixed keys, and more). ``message`` is the whole line that
    Temporal shows, ``reason`` and ``hint`` are its parts."""

    code: str
    message: str
    since: datetime | None
    next_attempt_at: datetime | None = None

    @property
    def reason(self) -> str:
        return self._parts()[0]

    @property
    def hint(self) -> str:
        return self._parts()[1]

    def _parts(self) -> tuple[str, str]:
        text = self.message.removeprefix(f"{self.code} · ")
        reason, dot, hint = text.rpartition(" · ")
        return (reason, hint) if dot else (text, "")


class JobStatus(BaseModel):
    """One job as ``status --json`` shows it (fixed keys, and more)."""

    job: str
    connection: str
    state: str
    exported: int
    failed: int
    gone: int
    total: int | None
    rate: float | None
    position: str | None
    held: Held | None
    blocked: Blocked | None
    open_errors: int
    workflow_id: str | None
    run_id: str | None
    ui_url: str | None
    started_at: datetime | None
    next_run_at: datetime | None
    reason: str | None
    object: str = ""
    updated_at: datetime | None = None

    @property
    def done(self) -> int:
        """Records that the run has dealt with."""
        return self.exported + self.failed + self.gone

    @property
    def share(self) -> float | None:
        """How far the run is, 0 to 1. Rows that change under way are met again: there may be more than were counted."""
        return min(self.done / self.total, 1) if self.total else None

    @property
    def seconds_left(self) -> float | None:
        if self.state != "running" or not self.rate or self.total is None:
            return None
        return max(self.total - self.done, 0) / self.rate


_WORDS: dict[str, str] = {ExportState.PAUSED: "paused", ExportState.BLOCKED: "blocked"}


def state_word(described: WorkflowExecution | None) -> tuple[str, str | None]:
    """``idle``, ``running``, ``paused``, ``blocked`` or ``failed``, and why where a run stopped by itself."""
    if described is None:
        return "idle", None
    if described.status is WorkflowExecutionStatus.RUNNING:
        state = described.typed_search_attributes.get(EXPORT_STATE)
        return _WORDS.get(state or "", "running"), None
    word = ended_word(described)
    return ("idle", None) if word in ("completed", "canceled") else ("failed", f"the last run was {word}")


def ended_word(described: WorkflowExecution) -> str:
    """How a run ended, as Temporal calls it."""
    return described.status.name.lower().replace("_", " ") if described.status else "unknown"


def job_status(
    job: Job,
    state: RunState,
    *,
    word: str,
    reason: str | None,
    described: WorkflowExecutionDescription | None,
    blocked: Blocked | None,
    open_errors: int,
    workflow_id: str | None,
    run_id: str | None,
    began: datetime | None,
    namespace: str,
    next_run_at: datetime | None,
) -> JobStatus:
    """One job's status of what the store (``state``) and Temporal (the rest) know."""
    if word in ("running", "blocked") and _is_of_the_run_before(state, workflow_id, began):
        # The store hears of a run once its source has answered.
        state = RunState(run=state.run, position=state.position, started_at=began)
    rate = None
    if state.started_at and state.updated_at and state.counts.exported:
        rate = state.counts.exported / max((state.updated_at - state.started_at).total_seconds(), 0.001)
    return JobStatus(
        job=job.name,
        connection=job.connection,
        state=word,
        exported=state.counts.exported,
        failed=state.counts.refused,
        gone=state.counts.gone,
        total=state.total,
        rate=rate,
        position=str(state.position) if state.position else None,
        held=held_shown(state.held, described) if word == "paused" and state.held else None,
        blocked=blocked,
        open_errors=open_errors,
        workflow_id=workflow_id,
        run_id=run_id,
        ui_url=ui_url(workflow_id, run_id, namespace) if workflow_id else None,
        started_at=state.started_at,
        next_run_at=next_run_at,
        reason=reason,
        object=job.object,
        updated_at=state.updated_at,
    )


def _is_of_the_run_before(state: RunState, workflow_id: str | None, began: datetime | None) -> bool:
    if state.run is None or state.run.workflow_id != workflow_id:
        return state.run is not None
    # Two runs that a Schedule starts in one second have one workflow ID.
    return bool(state.completed and state.updated_at and began and state.updated_at < began)


def held_shown(held: HeldRecord, described: WorkflowExecutionDescription | None) -> Held:
    pending = _pending(described, "export_held_record")
    return Held(
        key=held.record_key,
        code=held.refusal.code,
        message=held.refusal.message,
        fields=held.refusal.fields,
        hint=held.refusal.hint,
        since=held.since,
        attempts=held.attempts,
        next_attempt_at=_next_attempt(pending),
        usual_cause=facts(held.refusal.code).cause,
    )


async def blocked_shown(
    described: WorkflowExecutionDescription | None, converter: DataConverter, but_not: str | None = None
) -> Blocked | None:
    """The job-level trouble of a blocked run, or of a paused one whose attempts fail for another reason than
    ``but_not``, the code with which its record is refused."""
    pending = _pending(described)
    if described is None or pending is None or state_word(described)[0] not in ("blocked", "paused"):
        return None
    code, message = await _last_failure(pending, converter)
    if state_word(described)[0] == "paused":
        if code in ("", but_not):
            return None
        return Blocked(code=code, message=message, since=None, next_attempt_at=_next_attempt(pending))
    memo = await described.memo_value(shown.BLOCKED, None, type_hint=shown.Blocked)
    if memo is None:
        return None
    # The last attempt's failure is newer; there is none while the first is under way.
    return Blocked(
        code=code or memo.trouble.code,
        message=message or str(memo.trouble),
        since=memo.since,
        next_attempt_at=_next_attempt(pending),
    )


async def blocked_text(described: WorkflowExecutionDescription, converter: DataConverter) -> str | None:
    """What blocks a run, in one line."""
    if state_word(described)[0] != "blocked":
        return None
    blocked = await blocked_shown(described, converter)
    return blocked.message if blocked else None


def _pending(
    described: WorkflowExecutionDescription | None, activity_type: str | None = None
) -> PendingActivityInfo | None:
    if described is None:
        return None
    for pending in described.raw_description.pending_activities:
        if activity_type in (None, pending.activity_type.name):
            return pending
    return None


async def _last_failure(pending: PendingActivityInfo, converter: DataConverter) -> tuple[str, str]:
    """Code and message; empty while the first attempt is under way. (The server keeps them, perhaps encrypted.)"""
    if not pending.HasField("last_failure"):
        return "", ""
    error = await converter.decode_failure(pending.last_failure)
    return (getattr(error, "type", None) or "", str(getattr(error, "message", error)))


def _next_attempt(pending: PendingActivityInfo | None) -> datetime | None:
    """None while an attempt is under way."""
    if pending is None or not pending.HasField("next_attempt_schedule_time"):
        return None
    return pending.next_attempt_schedule_time.ToDatetime(UTC)
