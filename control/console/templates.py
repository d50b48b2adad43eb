"""Jinja templates with the words that people read: numbers, moments, durations. Everything is escaped."""

import hashlib
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from control.console.people import Person
from control.console.shield import csrf_token


def number(value: float) -> str:
    return f"{value:,.0f}"


def moment(value: datetime | None) -> str:
    """A moment as text that sorts, for everybody the same."""
    return "–" if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def ago(value: datetime | None) -> str:
    return "–" if value is None else f"{duration((datetime.now(UTC) - value).total_seconds())} ago"


def until(value: datetime | None) -> str:
    """How long till then; what is due, or under way, is now."""
    if value is None:
        return "now"
    seconds = (value - datetime.now(UTC)).total_seconds()
    return f"in {duration(seconds)}" if seconds >= 1 else "now"


def duration(seconds: float) -> str:
    """The largest unit that says enough: 42 s, 7 min, 3 h, 2 days."""
    seconds = max(seconds, 0)
    for size, unit in ((172_800, 86_400), (7_200, 3_600), (120, 60)):
        if seconds >= size:
            return f"{seconds // unit:.0f} {'days' if unit == 86_400 else 'h' if unit == 3_600 else 'min'}"
    return f"{seconds:.0f} s"


def breakable(code: str) -> Markup:
    """A code that may go on in the next line after each of its words, where there is no room."""
    return escape(code).replace("_", Markup("_<wbr>"))


_environment = Environment(
    loader=PackageLoader("control.console"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_environment.filters |= {"number": number, "moment": moment, "ago": ago, "until": until, "duration": duration}
_environment.filters["breakable"] = breakable


def page(request: Request, template: str, person: Person | None, status_code: int = 200, **values: Any) -> HTMLResponse:
    """A template as an answer, for this person."""
    text = _environment.get_template(template).render(
        path=request.url.path,
        person=person,
        csrf=csrf_token(request),
        signs_out="person" in request.session,
        **values,
    )
    return HTMLResponse(text, status_code=status_code)


def live(request: Request, template: str, person: Person, **values: Any) -> Response:
    """The part of a page that renews itself: nothing at all where the page has it already."""
    text = part(template, person=person, csrf=csrf_token(request), **values)
    if request.query_params.get("seen") == _digest(text):
        return Response(status_code=204)
    return HTMLResponse(with_digest(text))


def part(template: str, **values: Any) -> Markup:
    return Markup(_environment.get_template(template).render(**values))  # rendered with autoescape


def with_digest(text: Markup) -> Markup:
    """A part with its own digest, which the page sends when it asks for what is new."""
    return text + Markup('<input type="hidden" name="seen" value="{}">').format(_digest(text))


def said(text: str, *, status_code: int = 200) -> Response:
    """One line for the person who pressed a button; the parts of the page renew themselves."""
    answer = HTMLResponse(part("_said.html", text=text, ok=status_code < 400), status_code=status_code)
    answer.headers["HX-Trigger"] = "changed"
    return answer


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
