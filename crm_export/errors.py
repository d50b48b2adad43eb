"""Everything crm-export raises, on one page.

Refusals are data (:class:`crm_export.model.Refusal`); what is raised here is trouble. Each message is one line for
a person: what failed, where, what to do. None holds a field's value or a credential.
"""

from datetime import timedelta


class CrmExportError(Exception):
    """Base of every error of this project."""


class ConfigError(CrmExportError):
    """``exports.yaml`` cannot be used; the message names the file, the line or key, and what is allowed."""

    def __init__(self, message: str) -> None:
        # A key of the file may hold a line break, or what moves a terminal's cursor.
        super().__init__("".join(character if character.isprintable() else " " for character in message))


class JobLevelError(CrmExportError):
    """A call could not be made or was refused as a whole: no single record is the cause.

    ``code`` is Salesforce's error code, or one of ours for what Salesforce does not name (``CONNECTION_FAILED``).
    ``retry_after`` is the CRM's own hint on when to call again; None when it gave none.
    """

    def __init__(self, code: str, message: str, *, hint: str = "", retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" + (f" · {self.hint}" if self.hint else "")


class CrmError(JobLevelError):
    """The CRM, the sign-in to it or the way to it is the cause."""


class SourceError(JobLevelError):
    """The source database is the cause: unreachable, table or column missing, rows that have no place in order."""


class StoreError(CrmExportError):
    """The store (ExportErrors, settings, positions) cannot be used."""


class SupersededError(CrmExportError):
    """Another attempt of the same run has taken over; this one must write nothing more. It may be tried again: the
    other one is perhaps an older attempt, whose process was stopped for a while."""


class ReplacedError(SupersededError):
    """Another run of the same job has begun; this one is over."""
