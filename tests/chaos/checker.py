"""Whether the contract was kept, judged from outside: from the source, the CRM's own file, the tables, and Temporal.

Nothing here uses the engine. Each check gives what it found wrong, a line each.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowExecutionStatus

from tests.chaos.source import Change, Source
from tests.chaos.world import JOBS, VERSION_FIELD, World

_CODES = {
    "accounts": "FIELD_CUSTOM_VALIDATION_EXCEPTION",
    "leads": "STRING_TOO_LONG",
    "touchpoints": "STRING_TOO_LONG",
}
_JOB_OF = {settings["object"]: job for job, settings in JOBS.items()}
_ONE_AT_A_TIME = [job for job, settings in JOBS.items() if settings.get("concurrency", 1) == 1]


@dataclass(frozen=True)
class Write:
    """A record as the CRM wrote it."""

    seq: int
    job: str
    key: str
    version: int
    at: float


@dataclass
class CrmFile:
    """The CRM's own account of what it wrote and refused, read on from where the last look ended."""

    path: Path
    writes: list[Write] = field(default_factory=list)
    refusals: Counter[tuple[str, str]] = field(default_factory=Counter)
    _read: int = 0

    def read_on(self) -> int:
        """Gives how many writes there were by now."""
        with self.path.open("rb") as file:
            file.seek(self._read)
            whole, end, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(end)
        for line in map(json.loads, whole.splitlines()):
            for write in line.get("writes", []):
                version = write["values"][VERSION_FIELD[write["object"]]]
                at = datetime.fromisoformat(write["at"]).timestamp()
                self.writes.append(Write(write["seq"], _JOB_OF[write["object"]], write["key"], int(version), at))
            for refused in line.get("refused", []):
                self.refusals[_JOB_OF[refused["object"]], refused["key"]] += 1
        return len(self.writes)

    def last(self) -> dict[tuple[str, str], int]:
        """The version that the CRM has of each record."""
        return {(write.job, write.key): write.version for write in self.writes}


@dataclass(frozen=True)
class _Hold:
    run_id: str
    key: str
    version: int
    since: datetime


class Watch:
    """Looks at what is held, again and again, while the faults are played: no later record may be written meanwhile."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._crm = CrmFile(world.crm_file)
        self._holds: dict[str, _Hold] = {}
        self._ever_open: set[tuple[str, str]] = set()
        self._since = 0
        self.found: list[str] = []
        self.looks = 0

    def look(self) -> None:
        # The number of writes is taken before the store is asked, and again after: what lies between is not judged.
        before = self._crm.read_on()
        rows = self._world.rows(
            "store", "SELECT job, run_id, held_key, held_position, held_since FROM positions WHERE held_key IS NOT NULL"
        )
        errors = self._world.rows("store", "SELECT job, record_key FROM export_errors WHERE state != 'closed'")
        holds = {
            row["job"]: _Hold(
                row["run_id"],
                row["held_key"],
                int((row["held_position"].get("cursor") or {"value": 0})["value"]),
                row["held_since"],
            )
            for row in rows
            if row["job"] in _ONE_AT_A_TIME
        }
        # A re-export may write what was open when its page began.
        self._ever_open |= {(row["job"], row["record_key"]) for row in errors}
        for job, hold in holds.items():
            if self._holds.get(job) == hold:
                self._judge(job, hold, self._crm.writes[self._since : before])
        self.looks += 1
        self._holds, self._since = holds, self._crm.read_on()

    def _judge(self, job: str, hold: _Hold, writes: list[Write]) -> None:
        for write in writes:
            behind = write.version > hold.version if hold.version else write.key > hold.key
            if write.job == job and behind and (job, write.key) not in self._ever_open:
                self.found.append(f"{job} {write.key} (write {write.seq}) was written while {hold.key} was held")


def paused_in_order(world: World, job: str, held_key: str) -> Iterator[str]:
    """Of a job without a cursor that is paused: each of the first rows before the held one is in the CRM, or open."""
    crm = CrmFile(world.crm_file)
    crm.read_on()
    written = {write.key for write in crm.writes if write.job == job}
    errors = world.rows("store", f"SELECT record_key FROM export_errors WHERE job = '{job}' AND state != 'closed'")
    open_keys = {row["record_key"] for row in errors}
    for number in range(10):
        key = f"K{number:03d}"
        if key < held_key and key not in written and key not in open_keys:
            yield f"{job} is paused at {held_key}, and {key} before it is neither in the CRM nor open"


def end_state(world: World, source: Source, *, rule_dropped: bool) -> Iterator[str]:
    """Once all is quiet and everything was exported, and exported again."""
    crm = CrmFile(world.crm_file)
    crm.read_on()
    last = crm.last()
    table = world.rows("store", "SELECT * FROM export_errors ORDER BY id")
    not_closed = [row for row in table if row["state"] != "closed"]
    for (job, key), count in Counter((row["job"], row["record_key"]) for row in not_closed).items():
        if count > 1:
            yield f"{job} {key} has {count} open rows"
    errors = {(row["job"], row["record_key"]): row for row in not_closed}
    for job in JOBS:
        rows = source.rows(job)
        for key, (version, fine) in rows.items():
            error, in_crm = errors.pop((job, key), None), last.get((job, key))
            if in_crm == version and error is not None:
                yield f"{job} {key} is in the CRM in its version {version}, and open with {error['code']}"
            if in_crm != version and error is None:
                yield f"{job} {key} is in the CRM in version {in_crm}, not {version}, and no error is open"
            takes = fine or (job == "accounts" and rule_dropped)
            if takes and error is not None:
                yield f"{job} {key} has no fault, and is open with {error['code']}"
            if not takes and error is not None and error["code"] != _CODES[job]:
                yield f"{job} {key} is open with {error['code']}, not {_CODES[job]}"
        yield from (f"{job} {key} is open, and not in the source" for of, key in errors if of == job)
    yield from _attempts(world, crm, table)
    yield from _never_stale(crm, source.changes, table)


def _attempts(world: World, crm: CrmFile, table: list[dict[str, Any]]) -> Iterator[str]:
    """Each attempt on a held record that a worker told of is counted; none is that the CRM never saw."""
    counted: Counter[tuple[str, str]] = Counter()
    for row in table:
        counted[row["job"], row["record_key"]] += row["attempts"]
    told: Counter[tuple[str, str]] = Counter()
    for line in _logged(world):
        if line.get("event") == "held record tried" and line.get("fate") == "refused again":
            told[line["job"], line["record_key"]] += 1
    for record, count in counted.items():
        if count > crm.refusals[record]:
            yield f"{' '.join(record)} has {count} attempts, and the CRM refused it {crm.refusals[record]} times"
    for record, count in told.items():
        if counted[record] < count + 1:
            yield f"{' '.join(record)} was refused {count} times while it was held, and has {counted[record]} attempts"


def _never_stale(crm: CrmFile, changes: list[Change], table: list[dict[str, Any]]) -> Iterator[str]:
    """A re-export that closed a row had written what the source had at that moment, whatever changed meanwhile."""
    history: dict[tuple[str, str], list[Change]] = defaultdict(list)
    for change in changes:
        history[change.job, change.key].append(change)
    writes: dict[tuple[str, str], list[Write]] = defaultdict(list)
    for write in crm.writes:
        writes[write.job, write.key].append(write)
    for row in table:
        if row["closed_by"] != "reexport":
            continue
        record = row["job"], row["record_key"]
        opened, closed = row["first_failed_at"].timestamp(), row["closed_at"].timestamp()
        while_open = [write for write in writes[record] if opened - 0.01 <= write.at <= closed + 0.01]
        if not any(write.version >= _version_at(history[record], write.at) for write in while_open):
            yield f"{' '.join(record)}: the re-export closed its error, and left an old version in the CRM"


def _version_at(history: list[Change], at: float) -> int:
    known = [change.version for change in history if change.at <= at and change.version is not None]
    return max(known, default=0)


def _logged(world: World) -> Iterator[dict[str, Any]]:
    for log in world.folder.glob("worker-*.log"):
        for line in log.read_text(errors="replace").splitlines():
            # A line that a kill tore is none.
            if line.startswith("{") and line.endswith("}"):
                yield json.loads(line)


async def temporal_is_well(client: Client) -> list[str]:
    """No workflow failed, and none has a task that fails."""
    found = []
    async for run in client.list_workflows():
        if run.status in (WorkflowExecutionStatus.FAILED, WorkflowExecutionStatus.TIMED_OUT):
            found.append(f"workflow {run.id} {run.status.name.lower()}")
        if "TemporalReportedProblems" in run.search_attributes:
            found.append(f"workflow {run.id}: {run.search_attributes['TemporalReportedProblems']}")
    return found


def tracebacks(world: World) -> Iterator[str]:
    """What no log of a worker may hold."""
    for log in world.folder.glob("worker-*.log"):
        for line in log.read_text(errors="replace").splitlines():
            if "Failed activation" in line or "Nondeterminism" in line or "AssertionError" in line:
                yield f"{log.name}: {line[:500]}"
