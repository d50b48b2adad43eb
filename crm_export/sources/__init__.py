"""Sources: records out of SQL."""

from crm_export.sources.database import Database
from crm_export.sources.reader import SourceReader

__all__ = ["Database", "SourceReader"]
