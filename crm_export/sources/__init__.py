"""Sources: records out of SQL."""

from crm_export.sources.reader import Database, SourceReader

__all__ = ["Database", "SourceReader"]
