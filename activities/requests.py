"""What activities are asked, and what they answer: one model each, beside the words of :mod:`crm_export.model`."""

from datetime import timedelta

from crm_export.model import JobTrouble, Model, OpenCause, Position, ReexportOnly, RunCounts, RunRef, Settings


class JobRequest(Model):
    """What an activity is asked to do for a run. ``patient``: job-level trouble is raised, for Temporal to retry
    without end, instead of being part of the result."""

    run: RunRef
    patient: bool = False


class RunPlan(Model):
    """The job as configured now, as far as its workflow needs it. ``under_way`` is another run of the job, by its
    workflow ID, that has not ended."""

    heartbeat: timedelta = timedelta(seconds=30)
    blocked_after: timedelta = timedelta(minutes=2)
    export_enabled: bool = True
    under_way: str | None = None
    total: int | None = None
    position: Position | None = None
    counts: RunCounts = RunCounts()
    trouble: JobTrouble | None = None


class PageRequest(JobRequest):
    """``seconds`` is about how long the page may take; a patient page is one batch."""

    seconds: float


class RunSetting(Model):
    """The pause setting of one run alone; None gives it the connection's again."""

    run: RunRef
    pause_on_error: bool | None


class FinishRequest(Model):
    """``completed``: at the source's end. Otherwise the run was cancelled, or failed, before it."""

    run: RunRef
    completed: bool


class ErrorReport(Model):
    """What a run tells its connection's ExportErrors workflow: small, whatever the number of failures.

    Without a job it says that the table has changed."""

    connection: str
    job: str = ""
    workflow_id: str = ""
    refused_by_code: dict[str, int] = {}
    first_keys: tuple[str, ...] = ()
    held: str | None = None
    blocked: str | None = None


class ErrorsSummary(Model):
    """What is open on a connection: by job and cause, most first, since when; ``held`` has the paused runs' error
    texts by job, and ``blocked`` what blocks others. ``not_told`` is carried over when the inbox continues as new: what
    is blocked by now, where that differs from what people were told."""

    connection: str
    open_errors: int = 0
    causes: tuple[OpenCause, ...] = ()
    held: dict[str, str] = {}
    blocked: dict[str, str] = {}
    not_told: dict[str, str] | None = None


class Notice(Model):
    """One line for people about a connection's exports."""

    connection: str
    text: str


class SettingRequest(Model):
    """One setting to change, and who asked."""

    connection: str
    setting: str
    value: bool | int
    by: str


class SettingsTold(Model):
    """The answer to a change: the settings now, which runs were told, and which held records that released."""

    settings: Settings
    told: tuple[str, ...] = ()
    released: tuple[str, ...] = ()


class ReexportRequest(Model):
    """One page of a re-export: the open errors behind row ``after`` up to row ``until``."""

    connection: str
    run_id: str
    until: int
    after: int = 0
    patient: bool = False
    only: ReexportOnly | None = None


MOST_CHOSEN = 1_000
"""A re-export takes so many chosen rows at most: its input stays small."""


class ReexportWanted(Model):
    """Who wants which of a connection's open errors exported again now."""

    connection: str
    only: ReexportOnly
    by: str


class ReexportStarted(Model):
    """The answer: the re-export, and whether it was started; one that is under way already goes on."""

    workflow_id: str
    run_id: str | None
    started: bool


class ReexportReleased(Model):
    """The jobs of a connection whose held record a re-export exported, or found gone."""

    connection: str
    jobs: tuple[str, ...]


class ReexportPlan(Model):
    """``until`` is the newest open error when the re-export began; later ones are for the next."""

    export_enabled: bool
    until: int
    blocked_after: timedelta = timedelta(minutes=2)
