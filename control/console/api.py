"""The JSON API: the same façade and the same permissions as the pages, described by OpenAPI."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from activities.requests import MOST_CHOSEN, ReexportStarted
from control.acknowledgement import ACKNOWLEDGEMENT
from control.console.desk import ApiOperator, Desk, Given, Viewer
from control.console.errors_page import LARGEST_ID, csv_of
from control.status import JobStatus
from crm_export.model import (
    MOST_CALLS,
    ErrorFilter,
    ExportError,
    OpenCause,
    OperatorAction,
    ReexportOnly,
    SettingChange,
    Settings,
)


def _moment(value: Any) -> Any:
    """pydantic takes a number for a moment too; the document promises text."""
    if not isinstance(value, str) or not _DATE_TIME.match(value):
        raise ValueError("a moment is written 2026-11-24T03:00:00Z")
    return value


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        # Before or after all that can be stored.
        return value.replace(tzinfo=UTC)


_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]")
Moment = Annotated[datetime, BeforeValidator(_moment), AfterValidator(_in_utc)]


class Problem(BaseModel):
    """What went wrong, in one line."""

    error: str


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body is not JSON"},
    401: {"model": Problem, "description": "Nobody is signed in"},
    403: {"model": Problem, "description": "The role does not allow it, or the request comes from another site"},
    404: {"model": Problem, "description": "There is no such job, connection or error"},
    409: {"model": Problem, "description": "It cannot be done now; the message says why"},
    422: {"model": Problem, "description": "The request is not understood"},
    503: {"model": Problem, "description": "The store does not answer"},
}
router = APIRouter(prefix="/api", responses=_PROBLEMS)

# JSON does not tell 5.0 from 5.
Whole = BeforeValidator(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value)
RowId = Annotated[int, Field(ge=1, le=LARGEST_ID), Whole]
# A NUL has no place in PostgreSQL's text.
Text = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00]*$")]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class RunAsked(_Asked):
    """``full``: from the first record, whatever was exported before."""

    full: bool = False


class RunStarted(BaseModel):
    """The run that was started."""

    workflow_id: str


class SkipAsked(_Asked):
    """The held record to leave out; where the run holds another by now, nothing is done."""

    record_key: Text


class RecordKey(BaseModel):
    """The held record, None where only a job-level error is tried again."""

    record_key: str | None


class Nothing(_Asked):
    """An empty object."""


class SettingsAsked(_Asked):
    """The settings to change. Switching ``pause_on_error`` off takes ``acknowledged``: true, for the data inconsistency
    acknowledgement."""

    export_enabled: bool | None = None
    pause_on_error: bool | None = None
    acknowledged: bool = False
    daily_api_limit: Annotated[int, Field(ge=1, le=MOST_CALLS), Whole] | None = None
    export_batch_size: Annotated[Literal[25, 50, 100, 200], Whole] | None = None


class SettingsNow(Settings):
    """The settings with the calls that are used today."""

    calls_today: int


class Acknowledgement(BaseModel):
    """What switching pause off means now."""

    text: str
    held: list[ExportError]
    open_errors: int


class ErrorPage(BaseModel):
    """Errors, newest first; ``next`` is ``before`` of the next page, None at the end."""

    errors: list[ExportError]
    next: int | None


class ReexportAsked(_Asked):
    """Errors by their IDs, or of a job, a code or both; nothing of it: everything that is open."""

    ids: Annotated[list[RowId], Field(max_length=MOST_CHOSEN)] = []
    job: Text | None = None
    code: Text | None = None


class _Filter(BaseModel):
    model_config = ConfigDict(extra="forbid")

    job: Text | None = None
    code: Text | None = None
    state: Literal["unresolved", "open", "held", "closed", "all"] = "unresolved"
    since: Moment | None = None
    key: Text | None = None

    def of(self, connection: str) -> ErrorFilter:
        values = self.model_dump(include={"job", "code", "state", "since", "key"})
        return ErrorFilter(connection=connection, **values)


class _PageFilter(_Filter):
    before: RowId | None = None
    limit: Annotated[int, Field(ge=1, le=1_000)] = 100


@router.get("/jobs")
async def list_jobs(desk: Given, person: Viewer) -> list[JobStatus]:
    """Every job, those that need attention first; at most a second or so old."""
    return list((await desk.exports.overview.now()).jobs)


@router.get("/jobs/{job}")
async def show_job(desk: Given, person: Viewer, job: str) -> JobStatus:
    """One job, as it stands now."""
    [status] = await desk.exports.status([desk.job(job)])
    return status


@router.post("/jobs/{job}/run")
async def run_job(desk: Given, person: ApiOperator, job: str, asked: RunAsked) -> RunStarted:
    """Start a run now."""
    running = await desk.exports.run(desk.job(job), full=asked.full, by=person.name)
    return RunStarted(workflow_id=running.handle.id)


@router.post("/jobs/{job}/retry")
async def retry_job(desk: Given, person: ApiOperator, job: str, asked: Nothing) -> RecordKey:
    """Try the held record, or what blocks the job, now."""
    return RecordKey(record_key=await desk.exports.retry(desk.job(job), person.name))


@router.post("/jobs/{job}/skip")
async def skip_record(desk: Given, person: ApiOperator, job: str, asked: SkipAsked) -> RecordKey:
    """Leave the held record in ExportErrors and carry on after it."""
    return RecordKey(record_key=await desk.exports.skip(desk.job(job), person.name, asked.record_key))


@router.get("/connections")
async def list_connections(desk: Given, person: Viewer) -> list[str]:
    """The connections' names."""
    return list(desk.config.connections)


@router.get("/connections/{connection}/settings")
async def show_settings(desk: Given, person: Viewer, connection: str) -> SettingsNow:
    """The settings as they are now."""
    return await _settings(desk, desk.connection(connection))


@router.patch("/connections/{connection}/settings")
async def change_settings(desk: Given, person: ApiOperator, connection: str, asked: SettingsAsked) -> SettingsNow:
    """Change settings, one after the other."""
    name = desk.connection(connection)
    exports = desk.exports
    if asked.pause_on_error is False and not asked.acknowledged:
        raise HTTPException(409, "pause_on_error: switching it off takes acknowledged: true")
    if asked.export_enabled is not None:
        await exports.set_export_enabled(name, asked.export_enabled, person.name)
    if asked.pause_on_error is not None:
        await exports.set_pause_on_error(name, asked.pause_on_error, person.name)
    if asked.daily_api_limit is not None:
        await exports.set_daily_api_limit(name, asked.daily_api_limit, person.name)
    if asked.export_batch_size is not None:
        await exports.set_export_batch_size(name, asked.export_batch_size, person.name)
    return await _settings(desk, name)


async def _settings(desk: Desk, connection: str) -> SettingsNow:
    settings = await desk.exports.settings(connection)
    return SettingsNow(**settings.model_dump(), calls_today=await desk.exports.calls_today(connection))


@router.get("/connections/{connection}/acknowledgement")
async def show_acknowledgement(desk: Given, person: Viewer, connection: str) -> Acknowledgement:
    """What switching pause on export error off would mean now."""
    name = desk.connection(connection)
    return Acknowledgement(
        text=ACKNOWLEDGEMENT,
        held=await desk.exports.held(name),
        open_errors=await desk.exports.open_errors(name),
    )


@router.get("/connections/{connection}/changes")
async def list_changes(desk: Given, person: Viewer, connection: str) -> list[SettingChange]:
    """The settings' change log, newest first."""
    return await desk.exports.changes(desk.connection(connection))


@router.get("/connections/{connection}/actions")
async def list_actions(desk: Given, person: Viewer, connection: str) -> list[OperatorAction]:
    """Who asked for runs, retries, skips and re-exports, newest first."""
    return await desk.exports.actions([desk.connection(connection)], 100)


@router.get("/connections/{connection}/errors")
async def list_errors(
    desk: Given, person: Viewer, connection: str, wanted: Annotated[_PageFilter, Query()]
) -> ErrorPage:
    """A page of the ExportErrors table."""
    rows = wanted.of(desk.connection(connection))
    errors = await desk.exports.error_page(rows, wanted.limit + 1, before=wanted.before)
    more = len(errors) > wanted.limit
    errors = errors[: wanted.limit]
    return ErrorPage(errors=errors, next=errors[-1].id if more else None)


@router.get(
    "/connections/{connection}/errors.csv",
    response_class=Response,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
)
async def download_errors(
    desk: Given, person: Viewer, connection: str, wanted: Annotated[_Filter, Query()]
) -> Response:
    """The ExportErrors table as CSV, oldest first."""
    return csv_of(desk.exports.every_error(wanted.of(desk.connection(connection))), {})


@router.get("/connections/{connection}/errors/{row_id}")
async def show_error(desk: Given, person: Viewer, connection: str, row_id: RowId) -> ExportError:
    """One row of the ExportErrors table."""
    error = await desk.exports.error(desk.connection(connection), row_id)
    if error is None:
        raise HTTPException(404, "there is no such error")
    return error


@router.get("/connections/{connection}/causes")
async def list_causes(desk: Given, person: Viewer, connection: str) -> list[OpenCause]:
    """What is open by job and code, the commonest first."""
    causes, _ = await desk.exports.overview.causes(desk.connection(connection))
    return causes


@router.post("/connections/{connection}/reexport")
async def reexport(desk: Given, person: ApiOperator, connection: str, asked: ReexportAsked) -> ReexportStarted:
    """Export open errors again now."""
    name = desk.connection(connection)
    if not (asked.ids or asked.job or asked.code):
        running = await desk.exports.reexport(name, person.name)
        return ReexportStarted(
            workflow_id=running.handle.id, run_id=running.handle.first_execution_run_id, started=running.started
        )
    only = ReexportOnly(ids=tuple(asked.ids), job=asked.job, code=asked.code)
    return await desk.exports.reexport_only(name, only, person.name)
