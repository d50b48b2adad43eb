"""A page: batches in the source's order, stop at the refused record, resume. The heart.

Records are read ahead while calls are in flight, and at most ``concurrency`` calls are. The position moves only over
what is complete: after a crash the next attempt begins where everything before is in the CRM or in ExportErrors.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from crm_export.config import Job
from crm_export.delivery import Crm, Delivery, Stop
from crm_export.errors import JobLevelError, StoreError
from crm_export.model import JobTrouble, PageResult, Position, Record, Refusal
from crm_export.store import RunLedger

READ_ROWS = 2_000
"""Rows a query; two such reads are in memory at most."""
FIRST_KEYS = 10
"""So many record keys name a page's refused records; the table has them all."""


class Source(Protocol):
    """What an export needs of a source; :class:`crm_export.sources.SourceReader` has it."""

    def read(self, after: Position | None, limit: int) -> list[Record]: ...

    def read_keys(self, keys: Sequence[str]) -> dict[str, Record]: ...


async def export_page(
    job: Job,
    source: Source,
    crm: Crm,
    ledger: RunLedger,
    *,
    seconds: float,
    should_stop: Callable[[], bool],
    one_batch: bool = False,
) -> PageResult:
    """Export from the ledger's position for about ``seconds``, or ``one_batch``.

    Ends early at a record that must be held, at the source's end, when ``should_stop()``, and at a job-level error,
    which is part of the result; a call in flight always ends first.
    """
    page = _Page(job, source, crm, ledger, seconds, should_stop, one_batch)
    trouble: JobTrouble | None = None
    try:
        if ledger.held is None:
            await page.export()
    except (JobLevelError, StoreError) as error:
        trouble = job_trouble(error)
    finally:
        await page.settle_all()
    return PageResult(
        position=ledger.position,
        counts=ledger.counts,
        refused_by_code=page.refused_by_code,
        first_keys=tuple(page.first_keys),
        held=ledger.held,
        trouble=trouble,
        finished=page.finished,
    )


def job_trouble(error: JobLevelError | StoreError) -> JobTrouble:
    """A job-level error as data; a store that fails is one as well, since no record is its cause."""
    if isinstance(error, StoreError):
        return JobTrouble(code="STORE_FAILED", message=str(error), hint="see that the store's database answers")
    return JobTrouble(code=error.code, message=error.message, hint=error.hint, retry_after=error.retry_after)


class _Page:
    def __init__(
        self,
        job: Job,
        source: Source,
        crm: Crm,
        ledger: RunLedger,
        seconds: float,
        should_stop: Callable[[], bool],
        one_batch: bool,
    ) -> None:
        self._job = job
        self._ledger = ledger
        self._delivery = Delivery(job, crm)
        self._batches = _Batches(source, ledger.position, job.batch_size)
        self._in_flight: deque[tuple[list[Record], asyncio.Task[dict[str, Refusal] | None]]] = deque()
        self._ends_at = time.monotonic() + seconds
        self._should_stop = should_stop
        self._batches_left = 1 if one_batch else None
        self.refused_by_code: dict[str, int] = {}
        self.first_keys: list[str] = []
        self.finished = False

    async def export(self) -> None:
        while True:
            await self._start_calls()
            if not self._in_flight:
                self.finished = self._batches.exhausted
                return
            batch, call = self._in_flight[0]
            refused = await call
            self._in_flight.popleft()
            if refused is not None:
                await self._advance(batch, refused)
            elif not await self._up_to_refused(batch):
                return

    async def settle_all(self) -> None:
        """Wait for what is still in flight: once the page has ended, it writes nothing more."""
        while self._in_flight:
            _, call = self._in_flight.popleft()
            await asyncio.wait([call])
            if not call.cancelled():
                call.exception()
        await self._batches.close()

    async def _start_calls(self) -> None:
        while len(self._in_flight) < self._job.concurrency and not self._must_end():
            batch = await self._batches.next()
            if not batch:
                return
            if self._batches_left is not None:
                self._batches_left -= 1
            self._in_flight.append((batch, asyncio.create_task(self._send(batch))))

    def _must_end(self) -> bool:
        return self._batches_left == 0 or time.monotonic() >= self._ends_at or self._should_stop()

    async def _send(self, batch: list[Record]) -> dict[str, Refusal] | None:
        """What was refused and left out; None when nothing was written, since a record may have to be held."""
        if not self._ledger.pause_on_error:
            return await self._delivery.leaving_out(batch)
        if len(batch) > self._delivery.call_size:
            return None
        return {} if await self._delivery.all_at_once(batch) else None

    async def _up_to_refused(self, batch: list[Record]) -> bool:
        """Write the batch up to its first refused record and hold there; True when nothing had to be held after all.

        No other call is started meanwhile. Batches behind this one that were in flight may have landed or not: they
        are sent again afterwards, which an upsert by external ID allows.
        """
        behind = [records for records, _ in self._in_flight]
        while self._in_flight:
            _, call = self._in_flight.popleft()
            await asyncio.wait([call])
            call.exception()
        while batch:
            if not await asyncio.to_thread(self._ledger.read_pause_on_error):
                await self._advance(batch, await self._delivery.leaving_out(batch))
                break
            part = await self._delivery.next_part(batch)
            if isinstance(part, Stop):
                return await self._hold(batch[part.index], part.refusal)
            await self._advance(batch[:part], {})
            batch = batch[part:]
        self._batches.put_back(behind)
        return True

    async def _hold(self, record: Record, refusal: Refusal) -> bool:
        held = await asyncio.to_thread(self._ledger.hold, record.key, record.position, refusal)
        self._count({held.record_key: refusal})
        return False

    async def _advance(self, batch: list[Record], refused: dict[str, Refusal]) -> None:
        exported = [record.key for record in batch if record.key not in refused]
        await asyncio.to_thread(self._ledger.advance, batch[-1].position, exported=exported, refused=refused)
        self._count(refused)

    def _count(self, refused: dict[str, Refusal]) -> None:
        for key, refusal in refused.items():
            self.refused_by_code[refusal.code] = self.refused_by_code.get(refusal.code, 0) + 1
            if len(self.first_keys) < FIRST_KEYS:
                self.first_keys.append(key)


class _Batches:
    """The source's records from a position on, cut into batches, one read ahead of what is asked for."""

    def __init__(self, source: Source, after: Position | None, size: int) -> None:
        self._source = source
        self._after = after
        self._size = size
        self._ready: deque[list[Record]] = deque()
        self._reading: asyncio.Task[list[Record]] | None = None
        self._at_end = False

    @property
    def exhausted(self) -> bool:
        return self._at_end and not self._ready

    async def next(self) -> list[Record]:
        """The next batch; empty at the source's end."""
        if not self._ready and not self._at_end:
            rows = await (self._reading or self._read())
            self._reading = None
            self._ready.extend(rows[start : start + self._size] for start in range(0, len(rows), self._size))
            self._at_end = len(rows) < READ_ROWS
            if rows and not self._at_end:
                self._after = rows[-1].position
                self._reading = asyncio.create_task(self._read())
        return self._ready.popleft() if self._ready else []

    def put_back(self, batches: list[list[Record]]) -> None:
        self._ready.extendleft(reversed(batches))

    async def close(self) -> None:
        if self._reading is not None:
            await asyncio.wait([self._reading])
            self._reading.exception()

    async def _read(self) -> list[Record]:
        return await asyncio.to_thread(self._source.read, self._after, READ_ROWS)


def first_position(
    job: Job, rewind: Callable[[Position], Position | None], last: Position | None, completed: bool
) -> Position | None:
    """Where a new run starts, given where the last one stood.

    An unfinished run is carried on. After a finished one, a job with a cursor goes on there, less its ``lookback`` for
    rows that were committed late; a job without a cursor starts anew, since it cannot tell what has changed.
    """
    if last is None or not completed:
        return last
    if job.cursor is None:
        return None
    return rewind(last) if job.lookback else last
