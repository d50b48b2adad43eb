"""The page Exports: every job, those that need attention first."""

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query
from starlette.requests import Request
from starlette.responses import Response

from control.console.desk import Desk, Given, Operator, Viewer
from control.console.templates import live, page, part, said, with_digest
from control.overview import stuck
from control.status import JobStatus

JOBS_A_PAGE = 50
STATES = ("paused", "blocked", "failed", "running", "idle")
router = APIRouter(include_in_schema=False)

State = Annotated[str, Query(max_length=20)]
Name = Annotated[str, Query(max_length=255)]
Number = Annotated[int, Query(ge=1, le=100_000)]


@router.get("/exports")
async def show(
    request: Request, desk: Given, person: Viewer, state: State = "", job: Name = "", number: Number = 1
) -> Response:
    values = await _values(desk, state, job, number)
    fragment = with_digest(part("_exports.html", person=person, **values))
    return page(request, "exports.html", person, fragment=fragment, states=STATES, **values)


@router.get("/exports/live")
async def renew(
    request: Request, desk: Given, person: Viewer, state: State = "", job: Name = "", number: Number = 1
) -> Response:
    return live(request, "_exports.html", person, **await _values(desk, state, job, number))


async def _values(desk: Desk, state: str, job: str, number: int) -> dict[str, Any]:
    snapshot = await desk.exports.overview.now()
    found = [
        status
        for status in snapshot.jobs
        if (not state or status.state == state) and job.casefold() in status.job.casefold()
    ]
    begin = (number - 1) * JOBS_A_PAGE
    shown = found[begin : begin + JOBS_A_PAGE]
    return {
        "waiting": [status for status in shown if status.state in ("paused", "blocked", "failed")],
        "others": [status for status in shown if status.state not in ("paused", "blocked", "failed")],
        "found": len(found),
        "all": len(snapshot.jobs),
        "stuck": stuck(snapshot.jobs),
        "state": state,
        "job": job,
        "number": number,
        "pages": max(1, -(-len(found) // JOBS_A_PAGE)),
        "problem": snapshot.problem,
        "worker": snapshot.worker,
        "off": snapshot.off,
        "unknown": any(status.state == "unknown" for status in snapshot.jobs),
        "open_errors": _open_errors(snapshot.jobs),
        "at": snapshot.at,
        "actions": await desk.exports.actions(list(desk.config.connections), 10),
    }


def _open_errors(jobs: Iterable[JobStatus]) -> dict[str, int]:
    """How many export errors are open, by connection; without those that have none."""
    found: Counter[str] = Counter()
    for status in jobs:
        found[status.connection] += status.open_errors
    return dict(+found)


@router.post("/exports/{job}/run")
async def run(desk: Given, person: Operator, job: str) -> Response:
    await desk.exports.run(desk.job(job), by=person.name)
    return said(f"{job}: started")


@router.post("/exports/{job}/retry")
async def retry(desk: Given, person: Operator, job: str) -> Response:
    key = await desk.exports.retry(desk.job(job), person.name)
    return said(f"{job}: trying {key or 'again'} now")


@router.post("/exports/{job}/skip")
async def skip(desk: Given, person: Operator, job: str, record_key: Annotated[str, Form()]) -> Response:
    key = await desk.exports.skip(desk.job(job), person.name, record_key)
    return said(f"{job}: left {key} in ExportErrors and carries on")
