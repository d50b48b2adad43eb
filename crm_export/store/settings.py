"""A connection's settings with their change log."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from crm_export.errors import StoreError
from crm_export.model import SettingChange, Settings
from crm_export.store.database import Database
from crm_export.store.schema import positions, setting_changes, settings

_MOST_NAME = 255


class SettingsTable:
    """Keeps what the settings workflow decides."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, name: str, first: Settings) -> Settings:
        """Store a connection's first settings; where it has some already, those stay."""
        statement = self._database.insert(settings).values(connection=name, **first.model_dump())
        with self._database.write() as connection:
            connection.execute(statement.on_conflict_do_nothing())
        return self.get(name)

    def get(self, name: str) -> Settings:
        with self._database.read() as connection:
            row = connection.execute(select(settings).where(settings.c.connection == name)).one_or_none()
        if row is None:
            raise StoreError(f"connection {name} has no settings yet: run crm-export setup")
        return Settings.model_validate(dict(row._mapping))

    def change(self, name: str, setting: str, value: bool | int, by: str) -> Settings:
        """Change one setting for good and log who did it.

        A new ``pause_on_error`` counts for every run: what single runs were told before is forgotten.
        """
        with self._database.write() as connection:
            of_connection = settings.c.connection == name
            row = connection.execute(select(settings).where(of_connection).with_for_update()).one_or_none()
            if row is None:
                raise StoreError(f"connection {name} has no settings yet: run crm-export setup")
            old: dict[str, Any] = dict(row._mapping)
            connection.execute(update(settings).where(of_connection).values({setting: value}))
            if setting == "pause_on_error":
                connection.execute(update(positions).where(positions.c.connection == name).values(pause_on_error=None))
            if old[setting] != value:
                connection.execute(
                    insert(setting_changes).values(
                        connection=name,
                        setting=setting,
                        old=_word(old[setting]),
                        new=_word(value),
                        by=by.replace("\0", "")[:_MOST_NAME],
                        at=datetime.now(UTC),
                    )
                )
        return Settings.model_validate({**old, setting: value})

    def changes(self, name: str, most: int = 50) -> list[SettingChange]:
        """The change log, newest first."""
        statement = (
            select(setting_changes)
            .where(setting_changes.c.connection == name)
            .order_by(setting_changes.c.id.desc())
            .limit(most)
        )
        with self._database.read() as connection:
            return [SettingChange.model_validate(dict(row._mapping)) for row in connection.execute(statement)]


def pause_on_error(connection: Connection, name: str, of_run: bool | None) -> bool:
    """The setting that counts for a run: its own, else the connection's, else the default, on."""
    if of_run is not None:
        return of_run
    stored = connection.execute(
        select(settings.c.pause_on_error).where(settings.c.connection == name)
    ).scalar_one_or_none()
    return True if stored is None else stored


def _word(value: bool | int) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
