"""How many calls of a connection's daily API limit are spent; a day is one of UTC."""

import threading
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock

from sqlalchemy import select

from crm_export.errors import CrmError
from crm_export.store.database import Database
from crm_export.store.schema import api_usage, settings

# Calls are taken in lots, so that counting them costs no transaction a call: small ones, of which a worker that dies
# wastes little, and larger ones where a lot does not last for a second.
_SMALLEST_LOT = 10
_LARGEST_LOT = 640
DAILY_API_LIMIT = "DAILY_API_LIMIT"


@dataclass(slots=True)
class _Lot:
    day: date
    size: int
    left: int
    taken_at: float


class ApiUsage:
    """Counts calls across all workers and refuses them above ``daily_api_limit`` until the next day."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._taking = threading.Lock()
        self._lots: dict[str, _Lot] = {}

    def spend_taken(self, name: str) -> bool:
        """Count one call without asking the store; False when that needs ``spend``."""
        today = datetime.now(UTC).date()
        with self._lock:
            lot = self._lots.get(name)
            if lot is None or lot.day != today or lot.left == 0:
                return False
            lot.left -= 1
            return True

    def spend(self, name: str) -> None:
        """Count one call. Raises CrmError ``DAILY_API_LIMIT`` when the day's calls are used up."""
        while True:
            with self._taking:
                if self.spend_taken(name):
                    return
                self._take(name, datetime.now(UTC).date())

    def used(self, name: str) -> int:
        """Calls of today, counting those that a worker has taken and not yet made."""
        with self._database.read() as connection:
            statement = select(api_usage.c.calls).where(
                api_usage.c.connection == name, api_usage.c.day == datetime.now(UTC).date()
            )
            return connection.execute(statement).scalar() or 0

    def _take(self, name: str, today: date) -> None:
        last = self._lots.get(name)
        hurried = last is not None and time.monotonic() - last.taken_at < 1
        wanted = min(last.size * 2, _LARGEST_LOT) if last is not None and hurried else _SMALLEST_LOT
        with self._database.write() as connection:
            limit = connection.execute(
                select(settings.c.daily_api_limit).where(settings.c.connection == name)
            ).scalar_one_or_none()
            statement = self._database.insert(api_usage).values(connection=name, day=today, calls=0)
            connection.execute(statement.on_conflict_do_nothing())
            of_today = (api_usage.c.connection == name, api_usage.c.day == today)
            used = connection.execute(select(api_usage.c.calls).where(*of_today).with_for_update()).scalar_one()
            size = wanted if limit is None else min(wanted, limit - used)
            if size <= 0:
                midnight = datetime.combine(today + timedelta(days=1), clock(), UTC)
                raise CrmError(
                    DAILY_API_LIMIT,
                    f"the {limit:,} calls a day that connection {name} may make are used up until {midnight:%H:%M} UTC",
                    hint="wait, or raise daily_api_limit",
                    retry_after=midnight - datetime.now(UTC),
                )
            connection.execute(api_usage.update().where(*of_today).values(calls=used + size))
        with self._lock:
            self._lots[name] = _Lot(today, size, size, time.monotonic())
