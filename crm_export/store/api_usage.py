"""How many calls of a connection's daily API limit are spent; a day is one of UTC."""

import threading
from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import select

from crm_export.errors import CrmError
from crm_export.store.database import Database
from crm_export.store.schema import api_usage, settings

# Calls are taken in small lots, so that counting them costs no transaction a call. A worker that dies wastes at most
# what is left of its lot.
_LOT = 10
DAILY_API_LIMIT = "DAILY_API_LIMIT"


class ApiUsage:
    """Counts calls across all workers and refuses them above ``daily_api_limit`` until the next day."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._lots: dict[str, tuple[date, int]] = {}

    def spend(self, name: str) -> None:
        """Count one call. Raises CrmError ``DAILY_API_LIMIT`` when the day's calls are used up."""
        with self._lock:
            today = datetime.now(UTC).date()
            day, left = self._lots.get(name, (today, 0))
            if day != today or left == 0:
                left = self._take(name, today)
            self._lots[name] = (today, left - 1)

    def used(self, name: str) -> int:
        """Calls of today, counting those that a worker has taken and not yet made."""
        with self._database.read() as connection:
            statement = select(api_usage.c.calls).where(
                api_usage.c.connection == name, api_usage.c.day == datetime.now(UTC).date()
            )
            return connection.execute(statement).scalar() or 0

    def _take(self, name: str, today: date) -> int:
        with self._database.write() as connection:
            limit = connection.execute(
                select(settings.c.daily_api_limit).where(settings.c.connection == name)
            ).scalar_one_or_none()
            statement = self._database.insert(api_usage).values(connection=name, day=today, calls=0)
            connection.execute(statement.on_conflict_do_nothing())
            of_today = (api_usage.c.connection == name, api_usage.c.day == today)
            used = connection.execute(select(api_usage.c.calls).where(*of_today).with_for_update()).scalar_one()
            lot = _LOT if limit is None else min(_LOT, limit - used)
            if lot <= 0:
                midnight = datetime.combine(today + timedelta(days=1), time(), UTC)
                raise CrmError(
                    DAILY_API_LIMIT,
                    f"the {limit:,} calls a day that connection {name} may make are used up until {midnight:%H:%M} UTC",
                    hint="wait, or raise daily_api_limit",
                    retry_after=midnight - datetime.now(UTC),
                )
            connection.execute(api_usage.update().where(*of_today).values(calls=used + lot))
        return lot
