"""The page Settings > CRM > General of a connection, with the data inconsistency acknowledgement."""

from typing import Annotated, Any

from fastapi import APIRouter, Form
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from control.acknowledgement import ACKNOWLEDGEMENT
from control.console.desk import Desk, Given, Operator, Viewer
from control.console.templates import live, page, part, said, with_digest
from crm_export.model import BATCH_SIZES, MOST_CALLS

_HELD_SHOWN = 10
router = APIRouter(include_in_schema=False)

OnOff = Annotated[bool, Form()]


@router.get("/settings")
async def first(desk: Given, person: Viewer) -> Response:
    return RedirectResponse(f"/settings/{desk.connection(None)}", status_code=303)


@router.get("/settings/{connection}")
async def show(request: Request, desk: Given, person: Viewer, connection: str) -> Response:
    values = await _values(desk, desk.connection(connection))
    fragment = with_digest(part("_settings.html", person=person, **values))
    connections = list(desk.config.connections)
    return page(request, "settings.html", person, fragment=fragment, connections=connections, **values)


@router.get("/settings/{connection}/live")
async def renew(request: Request, desk: Given, person: Viewer, connection: str) -> Response:
    return live(request, "_settings.html", person, **await _values(desk, desk.connection(connection)))


async def _values(desk: Desk, connection: str) -> dict[str, Any]:
    return {
        "connection": connection,
        "settings": await desk.exports.settings(connection),
        "calls_today": await desk.exports.calls_today(connection),
        "changes": await desk.exports.changes(connection),
        "sizes": BATCH_SIZES,
        "most_calls": MOST_CALLS,
    }


@router.get("/settings/{connection}/acknowledgement")
async def acknowledgement(request: Request, desk: Given, person: Viewer, connection: str) -> Response:
    """The dialog that precedes switching pause off."""
    name = desk.connection(connection)
    held = await desk.exports.held(name)
    return page(
        request,
        "_acknowledgement.html",
        person,
        connection=name,
        acknowledgement=ACKNOWLEDGEMENT,
        held=held[:_HELD_SHOWN],
        held_count=len(held),
        open_errors=await desk.exports.open_errors(name),
    )


@router.post("/settings/{connection}/export_enabled")
async def export_enabled(desk: Given, person: Operator, connection: str, on: OnOff) -> Response:
    await desk.exports.set_export_enabled(desk.connection(connection), on, person.name)
    return said(f"Export to CRM is {_word(on)}")


@router.post("/settings/{connection}/pause_on_error")
async def pause_on_error(
    desk: Given, person: Operator, connection: str, on: OnOff, acknowledged: Annotated[bool, Form()] = False
) -> Response:
    """Off is taken with the acknowledgement alone."""
    if not on and not acknowledged:
        return said("switching it off takes the data inconsistency acknowledgement", status_code=422)
    told = await desk.exports.set_pause_on_error(desk.connection(connection), on, person.name)
    released = f"; released: {', '.join(told.released)}" if told.released else ""
    return said(f"Pause on export error is {_word(on)}{released}")


@router.post("/settings/{connection}/daily_api_limit")
async def daily_api_limit(
    desk: Given, person: Operator, connection: str, calls: Annotated[int, Form(ge=1, le=MOST_CALLS)]
) -> Response:
    await desk.exports.set_daily_api_limit(desk.connection(connection), calls, person.name)
    return said(f"Daily CRM API limit is {calls:,}")


@router.post("/settings/{connection}/export_batch_size")
async def export_batch_size(
    desk: Given, person: Operator, connection: str, records: Annotated[int, Form()]
) -> Response:
    if records not in BATCH_SIZES:
        return said(f"the export batch size is one of {', '.join(map(str, BATCH_SIZES))}", status_code=422)
    await desk.exports.set_export_batch_size(desk.connection(connection), records, person.name)
    return said(f"Export batch size is {records}")


@router.get("/permissions")
async def permissions(request: Request, desk: Given, person: Viewer) -> Response:
    """What the integration user needs in Salesforce, of what is configured."""
    objects: dict[str, set[str]] = {}
    for job in desk.config.jobs.values():
        objects.setdefault(job.object, set()).update((job.external_id, *job.fields))
    shown = {name: sorted(fields) for name, fields in sorted(objects.items())}
    return page(request, "permissions.html", person, objects=shown)


def _word(on: bool) -> str:
    return "on" if on else "off"
