"""What an export has done, on its way into the store: at most a second behind, at the cost of two writes a second.

The store's write is not waited for while calls go on. Yet no call starts when the last write that was seen to succeed
began over a second ago: an attempt that lost its run to another, for instance because its process was stopped for a
while, sends nothing more.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from crm_export.model import HeldRecord, Record, Refusal
from crm_export.store import RunLedger

_STORE_AFTER = 0.5
_SURE_FOR = 1.0
_SETTING_SURE_FOR = 0.05
"""Seconds. The setting is read again before each call that may leave records out, but not for calls that follow one
another as fast as nobody can switch."""
_MOST_REFUSED = 6_000
_MOST_KEYS = 20_000
FIRST_KEYS = 10
"""So many record keys name a page's refused records; the table has them all."""


@dataclass(slots=True)
class _Entries:
    """Records that follow one another in the source: the keys of the exported ones, the refused ones, and the last."""

    exported: list[str] = field(default_factory=list)
    refused: dict[str, Refusal] = field(default_factory=dict)
    last: Record | None = None

    @property
    def are_many(self) -> bool:
        return len(self.refused) >= _MOST_REFUSED or len(self.exported) >= _MOST_KEYS

    def followed_by(self, later: "_Entries") -> "_Entries":
        return _Entries(self.exported + later.exported, self.refused | later.refused, later.last or self.last)


class Journal:
    """Takes what is complete, in the source's order, and writes it to the ledger in few transactions."""

    def __init__(self, ledger: RunLedger) -> None:
        self._ledger = ledger
        self._entries = _Entries()
        self._being_stored = _Entries()
        self._storing: asyncio.Task[None] | None = None
        self._sure_at = self._setting_read_at = time.monotonic()
        self.refused_by_code: dict[str, int] = {}
        self.first_keys: list[str] = []

    def add(self, records: Sequence[Record], refused: Mapping[str, Refusal]) -> None:
        """These, the next ones of the source, are in the CRM, but for the refused ones, which are left out."""
        entries = self._entries
        entries.exported += [record.key for record in records if record.key not in refused]
        entries.refused.update(refused)
        entries.last = records[-1]

    @property
    def seconds_until_due(self) -> float | None:
        """When ``keep_up`` should be called at the latest; None while there is nothing to store."""
        if self._entries.last is None or self._storing is not None:
            return None
        return max(self._sure_at + _STORE_AFTER - time.monotonic(), 0)

    async def keep_up(self) -> None:
        """Store what is due; wait for the store only where a call must not start before. Raises StoreError, and
        SupersededError."""
        if self._storing is not None and self._storing.done():
            await self._stored()
        age = time.monotonic() - self._sure_at
        if self._storing is None and (self._entries.are_many or age >= _STORE_AFTER):
            self._start_storing()
        if self._storing is not None and (self._entries.are_many or age >= _SURE_FOR):
            await self._stored()

    async def flush(self) -> None:
        """Store everything. Raises StoreError, and SupersededError."""
        if self._storing is not None:
            await self._stored()
        if self._entries.last is not None:
            self._start_storing()
            await self._stored()

    async def pause_on_error(self, *, exactly: bool = False) -> bool:
        """The setting; ``exactly``: as it is stored now."""
        if self._ledger.pause_on_error and not exactly:
            # A call that is all-or-none does no harm, and what it finds is looked at again.
            return True
        if exactly or time.monotonic() - self._setting_read_at >= _SETTING_SURE_FOR:
            self._setting_read_at = time.monotonic()
            return await asyncio.to_thread(self._ledger.read_pause_on_error)
        return self._ledger.pause_on_error

    async def close(self) -> None:
        """Wait for what is being stored."""
        if self._storing is not None:
            await asyncio.wait([self._storing])
            self._storing.exception()

    async def hold(self, record: Record, refusal: Refusal) -> HeldRecord:
        """Store everything, and that the run stays before this record."""
        await self.flush()
        held = await asyncio.to_thread(self._ledger.hold, record.key, record.position, refusal)
        self._count({held.record_key: refusal})
        return held

    def _start_storing(self) -> None:
        self._being_stored, self._entries = self._entries, _Entries()
        self._storing = asyncio.create_task(self._store(self._being_stored))

    async def _stored(self) -> None:
        storing, self._storing = self._storing, None
        assert storing is not None
        try:
            await storing
        except BaseException:
            # What comes later must not be stored without this.
            self._entries = self._being_stored.followed_by(self._entries)
            raise

    async def _store(self, entries: _Entries) -> None:
        began = time.monotonic()
        position = entries.last.position if entries.last else None
        await asyncio.to_thread(self._ledger.advance, position, exported=entries.exported, refused=entries.refused)
        self._sure_at = began
        self._count(entries.refused)

    def _count(self, refused: Mapping[str, Refusal]) -> None:
        for key, refusal in refused.items():
            self.refused_by_code[refusal.code] = self.refused_by_code.get(refusal.code, 0) + 1
            if len(self.first_keys) < FIRST_KEYS:
                self.first_keys.append(key)
