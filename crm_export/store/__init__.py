"""The store: ExportErrors, settings and positions, in SQLite or PostgreSQL.

Every method is synchronous and one short transaction; async callers run it in a thread. StoreError is raised where
the database cannot be used.
"""

from crm_export.store.actions import ActionLog, SessionKey
from crm_export.store.api_usage import ApiUsage
from crm_export.store.database import Database
from crm_export.store.error_pages import ErrorPages
from crm_export.store.export_errors import ExportErrorsTable
from crm_export.store.runs import RunLedger, Runs
from crm_export.store.settings import SettingsTable

__all__ = ["RunLedger", "Store"]


class Store:
    """The tables of one store, each by its name."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        self.errors = ExportErrorsTable(self.database)
        self.error_pages = ErrorPages(self.database)
        self.runs = Runs(self.database, self.errors)
        self.settings = SettingsTable(self.database)
        self.api_usage = ApiUsage(self.database)
        self.actions = ActionLog(self.database)
        self.session_key = SessionKey(self.database)

    def migrate(self) -> None:
        self.database.migrate()

    def require_migrated(self) -> None:
        self.database.require_migrated()

    def close(self) -> None:
        self.database.close()
