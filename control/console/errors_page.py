"""The page Export errors: what Salesforce refused, by cause and one by one, and exporting it again."""

import csv
import io
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from datetime import time as clock
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query
from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from control.console.desk import Desk, Given, Operator, Viewer
from control.console.templates import live, page, part, said, with_digest
from crm_export.model import ErrorFilter, ExportError, OpenCause, ReexportOnly
from crm_export.salesforce import facts

ROWS_A_PAGE = 50
LARGEST_ID = 2**53 - 1
"""The largest number that every JSON reader takes exactly."""
RowId = Annotated[int, Field(ge=1, le=LARGEST_ID)]
# A NUL has no place in PostgreSQL's text.
Text = Annotated[str, Field(max_length=255, pattern=r"^[^\x00]*$")]
_COLUMNS = (
    *("connection", "job", "object", "record_key", "code", "message", "fields", "category", "hint", "state"),
    *("attempts", "first_failed_at", "last_failed_at", "closed_at", "closed_by"),
)
router = APIRouter(include_in_schema=False)


class Wanted(BaseModel):
    """The page's filter, as its form and its links carry it; empty is any."""

    model_config = ConfigDict(extra="ignore")

    connection: str | None = None
    job: Text = ""
    code: Text = ""
    state: Literal["unresolved", "open", "held", "closed", "all"] = "unresolved"
    since: date | None = None
    key: Text = ""
    before: RowId | None = None
    after: RowId | None = None

    @field_validator("since", "before", "after", "connection", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return value or None

    def rows(self, connection: str) -> ErrorFilter:
        return ErrorFilter(
            connection=connection,
            job=self.job or None,
            code=self.code or None,
            state=self.state,
            since=datetime.combine(self.since, clock(), UTC) if self.since else None,
            key=self.key or None,
        )

    def query(self, **other: object) -> str:
        """The filter as a link's query; ``other`` replaces what it says."""
        values = {**self.model_dump(exclude={"before", "after"}, exclude_defaults=True), **other}
        return urlencode({name: value for name, value in values.items() if value not in (None, "")})


Filter = Annotated[Wanted, Query()]


@router.get("/errors")
async def show(request: Request, desk: Given, person: Viewer, wanted: Filter) -> Response:
    values = await _values(desk, wanted)
    fragment = with_digest(part("_errors.html", person=person, **values))
    connections = list(desk.config.connections)
    return page(request, "errors.html", person, fragment=fragment, connections=connections, **values)


@router.get("/errors/live")
async def renew(request: Request, desk: Given, person: Viewer, wanted: Filter) -> Response:
    return live(request, "_errors.html", person, **await _values(desk, wanted))


async def _values(desk: Desk, wanted: Wanted) -> dict[str, Any]:
    connection = desk.connection(wanted.connection)
    exports = desk.exports
    rows = wanted.rows(connection)
    errors = await exports.error_page(rows, ROWS_A_PAGE + 1, before=wanted.before, after=wanted.after)
    back = wanted.after is not None
    more = len(errors) > ROWS_A_PAGE
    errors = errors[-ROWS_A_PAGE:] if back else errors[:ROWS_A_PAGE]
    newer = errors and (wanted.before is not None or (back and more))
    older = errors and (more or back)
    causes, open_errors = await exports.overview.causes(connection)
    snapshot = await exports.overview.now()
    return {
        "connection": connection,
        "wanted": wanted,
        "errors": errors,
        "newer": wanted.query(after=errors[0].id) if newer else None,
        "older": wanted.query(before=errors[-1].id) if older else None,
        "causes": causes,
        "open_errors": open_errors,
        "total": _total(wanted, causes, open_errors),
        "reexports": [run for run in snapshot.reexports if run.connection == connection],
        "problem": snapshot.problem,
        "jobs": desk.jobs_of(connection),
        "actions": [one for one in await exports.actions([connection], 20) if one.action == "re-export"][:5],
    }


def _total(wanted: Wanted, causes: Sequence[OpenCause], open_errors: int) -> int | None:
    """How many rows the filter finds, where the causes say it; to count them by a search takes too long for a page."""
    if wanted.state != "unresolved" or wanted.since or wanted.key:
        return None
    if sum(cause.count for cause in causes) != open_errors:
        # There are more causes than are told.
        return None if wanted.job or wanted.code else open_errors
    return sum(cause.count for cause in causes if wanted.job in ("", cause.job) and wanted.code in ("", cause.code))


@router.get("/errors/{connection}/{row_id}")
async def one(request: Request, desk: Given, person: Viewer, connection: str, row_id: int) -> Response:
    error = None
    if 0 < row_id <= LARGEST_ID:
        error = await desk.exports.error(desk.connection(connection), row_id)
    if error is None:
        raise HTTPException(404, "there is no such error")
    return page(request, "error.html", person, error=error, usual_cause=facts(error.code).cause)


@router.post("/errors/{connection}/reexport")
async def reexport(
    desk: Given,
    person: Operator,
    connection: str,
    scope: Annotated[Literal["chosen", "cause", "everything"], Form()],
    ids: Annotated[list[RowId] | None, Form()] = None,
    job: Annotated[Text | None, Form()] = None,
    code: Annotated[Text | None, Form()] = None,
) -> Response:
    """Export again what was chosen, all of a cause, or everything."""
    name = desk.connection(connection)
    if scope == "everything":
        running = await desk.exports.reexport(name, person.name)
        return said(_told("everything", running.started))
    if scope == "chosen" and not ids:
        return said("choose errors first", status_code=422)
    only = ReexportOnly(ids=tuple(ids or ())) if scope == "chosen" else ReexportOnly(job=job, code=code)
    started = await desk.exports.reexport_only(name, only, person.name)
    return said(_told(str(only), started.started))


def _told(what: str, started: bool) -> str:
    if started:
        return f"re-export of {what}: started"
    return "a re-export is under way already: no other is started beside it; try again when it has ended"


@router.get("/errors.csv")
async def download(desk: Given, person: Viewer, wanted: Filter) -> Response:
    """All rows of the filter, oldest first, as they are read."""
    connection = desk.connection(wanted.connection)
    headers = {"Content-Disposition": f'attachment; filename="export-errors-{connection}.csv"'}
    return csv_of(desk.exports.every_error(wanted.rows(connection)), headers)


def csv_of(errors: Iterator[ExportError], headers: dict[str, str]) -> StreamingResponse:
    return StreamingResponse(_lines(errors), media_type="text/csv; charset=utf-8", headers=headers)


def _lines(errors: Iterator[ExportError]) -> Iterator[str]:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for count, error in enumerate(errors, start=1):
        values = error.model_dump(mode="json") | {"fields": " ".join(error.fields)}
        writer.writerow([_inert(values[name]) for name in _COLUMNS])
        if count % 500 == 0:
            yield _taken(text)
    yield _taken(text)


def _taken(text: io.StringIO) -> str:
    value = text.getvalue()
    text.seek(0)
    text.truncate()
    return value


def _inert(value: Any) -> Any:
    """A spreadsheet takes what begins like this for a formula; a CRM's message must not become one."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
