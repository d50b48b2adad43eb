"""Reading ahead: the source's records, cut into batches while calls are in flight.

A stretch is records that follow one another in the source's order. Without ``partition_by`` it is one batch. With it,
it is a batch for each lane: all records of one parent go through one lane, whose calls follow one another, so that
Salesforce never has to lock a parent for two calls at once (UNABLE_TO_LOCK_ROW).
"""

import asyncio
import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from crm_export.config import Job
from crm_export.model import Position, Record, Refusal

MOST_ROWS = 2_000
"""Rows a query; two such reads are in memory at most."""
MOST_BYTES = 5_000_000
"""Bytes a call. Salesforce names no limit for the request; this is below the 6 MB of an Apex transaction's heap, which
the triggers of such a call share (Apex Developer Guide, "Apex Governor Limits")."""
_MOST_READ_BYTES = 8_000_000


class Source(Protocol):
    """What an export needs of a source; :class:`crm_export.sources.SourceReader` has it."""

    def read(self, after: Position | None, limit: int) -> list[Record]: ...

    def read_keys(self, keys: Sequence[str]) -> dict[str, Record]: ...


@dataclass(eq=False, slots=True)
class Batch:
    """The records of one call. ``refused`` is what became of it: the records left out; None until it is complete."""

    records: list[Record]
    lane: int | None = None
    refused: dict[str, Refusal] | None = None


@dataclass(eq=False, slots=True)
class Stretch:
    """Records in the source's order, and the batches that they are sent in."""

    records: list[Record]
    batches: list[Batch]

    @property
    def complete(self) -> bool:
        return all(batch.refused is not None for batch in self.batches)

    @property
    def refused(self) -> dict[str, Refusal]:
        """What was left out, in the source's order."""
        told = {key: reason for batch in self.batches for key, reason in (batch.refused or {}).items()}
        return {record.key: told[record.key] for record in self.records if record.key in told} if told else told

    @property
    def incomplete_records(self) -> list[Record]:
        """What is not known to be in the CRM, in the source's order."""
        complete = {id(record) for batch in self.batches if batch.refused is not None for record in batch.records}
        return [record for record in self.records if id(record) not in complete]


class Ahead:
    """Stretches from a position on; the next rows are read while these are exported."""

    def __init__(self, source: Source, after: Position | None, job: Job, *, lanes: int) -> None:
        self._source = source
        self._after = after
        self._size = job.batch_size
        self._lanes = lanes if job.partition_by is not None else 1
        # The first read is small, so that the first call is soon on its way, and shows how large the rows are. A next
        # one is twice as long where the last was waited for: hundreds of exports may wait for slow answers, or at
        # their first record, and hold little meanwhile.
        self._rows = self._size * lanes
        self._ready: list[Record] = []
        self._cut_off = 0
        self._reading: asyncio.Task[list[Record]] | None = None
        self._at_end = False
        self._largest = 1

    @property
    def exhausted(self) -> bool:
        return self._at_end and not self._left

    async def next(self, size: int) -> Stretch | None:
        """The next stretch, in batches of at most ``size`` records; None at the source's end."""
        while self._left < size * self._lanes and not self._at_end:
            await self._read_on()
        return self._cut(size) if self._left else None

    @property
    def _left(self) -> int:
        return len(self._ready) - self._cut_off

    async def close(self) -> None:
        if self._reading is not None:
            await asyncio.wait([self._reading])
            self._reading.exception()

    async def _read_on(self) -> None:
        is_waited_for = self._reading is None or not self._reading.done()
        rows = await (self._reading or self._start_reading())
        self._reading = None
        self._at_end = len(rows) < self._rows
        self._ready, self._cut_off = self._ready[self._cut_off :] + rows, 0
        self._largest = max(self._largest, max([len(record.body) for record in rows], default=1))
        if rows and not self._at_end:
            self._after = rows[-1].position
            wanted = 2 * self._rows if is_waited_for else self._rows
            self._rows = max(self._size, min(MOST_ROWS, wanted, _MOST_READ_BYTES // self._largest))
            self._reading = self._start_reading()

    def _start_reading(self) -> asyncio.Task[list[Record]]:
        return asyncio.create_task(asyncio.to_thread(self._source.read, self._after, self._rows))

    def _cut(self, size: int) -> Stretch:
        """As far as no lane has more than one call takes."""
        if self._lanes == 1 and self._largest * size <= MOST_BYTES:
            together = self._take(size)
            return Stretch(together, [Batch(together)])
        batches: dict[int | None, Batch] = {}
        room: dict[int | None, int] = {}
        count = 0
        for record in itertools.islice(self._ready, self._cut_off, None):
            lane = self._lane_of(record)
            batch = batches.setdefault(lane, Batch([], lane))
            room[lane] = room.get(lane, MOST_BYTES) - len(record.body)
            if batch.records and (len(batch.records) == size or room[lane] < 0):
                break
            batch.records.append(record)
            count += 1
        return Stretch(self._take(count), list(batches.values()))

    def _take(self, count: int) -> list[Record]:
        start, self._cut_off = self._cut_off, min(self._cut_off + count, len(self._ready))
        return self._ready[start : self._cut_off]

    def _lane_of(self, record: Record) -> int | None:
        if self._lanes == 1:
            return None
        # Where there is no parent, nothing is shared.
        parent = record.key if record.partition is None else record.partition
        return zlib.crc32(parent.encode(errors="replace")) % self._lanes
