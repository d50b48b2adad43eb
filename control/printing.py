"""What the command line prints for people."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Self

from rich.console import Console
from rich.json import JSON
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from control.acknowledgement import ACKNOWLEDGEMENT
from control.checks import Tried
from control.exports import RunProgress
from control.status import JobStatus
from crm_export.model import ExportError, SettingChange, Settings

_WIDE = 240
"""Columns where nobody looks: a file or a pipe gets whole lines."""
NO_WORKER = "no worker runs: nothing is exported until one does (crm-export worker)"
_STYLE = {"paused": "bold yellow", "blocked": "bold red", "failed": "bold red", "running": "green"}


def _console(**given: Any) -> Console:
    # Text from records and from the CRM is never taken for markup.
    console = Console(markup=False, highlight=False, soft_wrap=True, **given)
    if not console.is_terminal:
        console.width = _WIDE
    return console


def problems(found: Mapping[str, Sequence[str]]) -> None:
    for job, lines in found.items():
        if not lines:
            _console().print(f"ok  {job}")
        for line in lines:
            _console().print(f"{job}: {line}")


def what_to_do(job: str) -> str:
    return (
        f"it is retried by itself; retry it now: crm-export retry {job} · "
        f"leave it in ExportErrors: crm-export skip {job} · where it stands: crm-export status {job}"
    )


def statuses(found: Sequence[JobStatus]) -> None:
    console = _console()
    for status in found:
        console.print(Text.assemble((status.job, "bold"), "  ", (status.state, _STYLE.get(status.state, ""))))
        # Rows that change while a run is under way are met again: there may be more than were counted.
        done = status.exported + status.failed + status.gone
        of_total = f" of {status.total:,}" if status.total is not None and status.total >= done else ""
        rate = f", {status.rate:,.0f} a second" if status.rate and status.state == "running" else ""
        console.print(f"  {status.exported:,} exported{of_total}, {status.failed:,} failed{rate}")
        if status.position:
            console.print(f"  position {status.position}")
        if status.held:
            held = status.held
            console.print(f"  held     {held.key} since {_time(held.since)}, {counted(held.attempts, 'attempt')}")
            console.print(f"  {held.code}: {held.message}" + (f" [{', '.join(held.fields)}]" if held.fields else ""))
            console.print(f"  to do    {held.hint}")
            operator = f"crm-export retry {status.job} · crm-export skip {status.job}"
            console.print(f"  next     {_next(held.next_attempt_at)} · {operator}")
        if status.blocked:
            blocked = status.blocked
            if blocked.since:
                console.print(f"  blocked  since {_time(blocked.since)}")
            console.print(f"  {blocked.code}: {blocked.reason}")
            if blocked.hint:
                console.print(f"  to do    {blocked.hint}")
            console.print(f"  next     {_next(blocked.next_attempt_at)}, by itself · crm-export retry {status.job}")
        if status.reason:
            console.print(f"  {status.reason}")
        if status.open_errors:
            console.print(f"  {counted(status.open_errors, 'open error')}: crm-export errors {status.job}")
        if status.ui_url:
            console.print(f"  {status.ui_url}")


def errors(found: Sequence[ExportError], *, narrowed: bool) -> None:
    """A table of errors; ``narrowed``: not simply all that are open."""
    if not found:
        _console().print("no errors match" if narrowed else "no open errors")
        return
    table = Table("job", "record", "state", "code", "message", "attempts", "since", box=None, pad_edge=False)
    for error in found:
        fields = f" [{', '.join(error.fields)}]" if error.fields else ""
        state = error.state if error.closed_by is None else f"{error.state} ({error.closed_by})"
        row = (error.job, error.record_key, state, error.code, error.message + fields)
        table.add_row(*map(Text, row), str(error.attempts), _time(error.first_failed_at))
    _console().print(table)
    hints = {error.code: error.hint for error in found if error.hint}
    for code, hint in hints.items():
        _console().print(f"{code}: {hint}")


def settings(connection: str, now: Settings, calls_today: int, changes: Sequence[SettingChange]) -> None:
    console = _console()
    console.print(Text(connection, "bold"))
    console.print(f"  Export to CRM          {_on(now.export_enabled)}")
    if now.export_enabled:
        console.print(f"  Pause on export error  {_on(now.pause_on_error)}")
    console.print(f"  Daily CRM API limit    {now.daily_api_limit:,} ({calls_today:,} used today)")
    console.print(f"  Export batch size      {now.export_batch_size}")
    for change in changes[:10]:
        console.print(f"  {_time(change.at)}  {change.setting}: {change.old} → {change.new}, by {change.by}")


def acknowledgement(connection: str, held: Sequence[ExportError]) -> str:
    """The data inconsistency acknowledgement that precedes switching pause off."""
    return (
        "Data inconsistency acknowledgement\n"
        f"With pause on export error off, a record that Salesforce refuses is left out and the exports of {connection} "
        "go on.\n"
        f"{ACKNOWLEDGEMENT}\n"
        f"Records held now, which would be left out: {len(held)}"
        + (f" ({', '.join(f'{error.job} {error.record_key}' for error in held[:10])})" if held else "")
        + ".\nRecords that were left out are in ExportErrors, and are exported again every day."
    )


def exchange(tried: Tried) -> None:
    console = _console()
    console.print(f"{tried.method} {tried.path}")
    console.print(JSON.from_data(tried.request))
    if tried.status is None:
        console.print("dry run: nothing was sent")
        return
    console.print(f"HTTP {tried.status}")
    if tried.response is not None:
        console.print(JSON.from_data(tried.response))
    if tried.code:
        console.print(f"refused: {tried.code}: {tried.message}\nto do: {tried.hint}\nusual cause: {tried.usual_cause}")
    else:
        console.print("Salesforce took the record")


class RunBar:
    """A progress bar of one run, on standard error: records, rate, time left, failed."""

    def __init__(self, job: str, *, quiet: bool) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failed]}"),
            console=Console(stderr=True),
            disable=quiet,
        )
        self._task = self._bar.add_task(job, total=None, rate="", failed="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, progress: RunProgress) -> None:
        state = progress.state
        counts = state.counts
        done = counts.exported + counts.refused + counts.gone
        rate = ""
        if state.started_at and state.updated_at:
            seconds = max((state.updated_at - state.started_at).total_seconds(), 0.1)
            rate = f"{done / seconds:,.0f}/s"
        failed = progress.blocked or f"{counts.refused:,} failed"
        self._bar.update(self._task, total=state.total, completed=done, rate=rate, failed=failed)


def counted(number: int, noun: str) -> str:
    """A number of things: 1 attempt, 2 attempts."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _next(attempt: datetime | None) -> str:
    return _time(attempt) if attempt else "now"


def _on(value: bool) -> str:
    return "on" if value else "off"


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
