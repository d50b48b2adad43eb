"""A page: batches in the source's order, stop at the refused record, resume. The heart.

Records are read ahead while calls are in flight, and at most ``concurrency`` calls are. The position moves only over
what is complete: after a crash the next attempt begins where everything before is in the CRM or in ExportErrors.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

from crm_export.ahead import Ahead, Batch, Source, Stretch
from crm_export.config import Job
from crm_export.delivery import Crm, Delivery, Stop
from crm_export.errors import JobLevelError, StoreError
from crm_export.journal import Journal
from crm_export.model import JobTrouble, PageResult, Position, Record, Refusal
from crm_export.store import RunLedger


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
    trouble = None if ledger.held else await page.export()
    return PageResult(
        position=ledger.position,
        counts=ledger.counts,
        refused_by_code=page.journal.refused_by_code,
        first_keys=tuple(page.journal.first_keys),
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
        self._calls_at_once = 1 if one_batch else job.concurrency
        self._ahead = Ahead(source, ledger.position, job, lanes=self._calls_at_once)
        self._delivery = Delivery(job, crm)
        self._stretches: deque[Stretch] = deque()
        self._waiting: deque[Batch] = deque()
        self._in_flight: dict[asyncio.Task[dict[str, Refusal] | None], Batch] = {}
        self._ends_at = time.monotonic() + seconds
        self._should_stop = should_stop
        self._one_batch = one_batch
        self._calls = 0
        self.journal = Journal(ledger)
        self.finished = False

    async def export(self) -> JobTrouble | None:
        """Export until the page ends; gives the job-level error that ended it, if one did."""
        trouble: JobTrouble | None = None
        try:
            await self._export()
        except (JobLevelError, StoreError) as error:
            trouble = job_trouble(error)
        finally:
            # Once the page has ended, it writes nothing more.
            await self._settle()
            await self._ahead.close()
            await self.journal.close()
        try:
            await self.journal.flush()
        except StoreError as error:
            trouble = trouble or job_trouble(error)
        return trouble

    async def _export(self) -> None:
        while True:
            await self._start_calls()
            if not self._in_flight:
                self.finished = self._ahead.exhausted and not self._stretches
                return
            done, _ = await asyncio.wait(
                self._in_flight, timeout=self.journal.seconds_until_due, return_when=asyncio.FIRST_COMPLETED
            )
            wrote = [self._complete(call) for call in done]
            if not all(wrote) and not await self._up_to_refused():
                return

    async def _start_calls(self) -> None:
        """Start calls in the source's order, as many as may be in flight behind the first that is not complete."""
        await self.journal.keep_up()
        while self._begun < self._calls_at_once and not self._must_end():
            if not self._waiting:
                stretch = await self._ahead.next(self._delivery.call_size)
                if stretch is None:
                    return
                self._stretches.append(stretch)
                self._waiting.extend(stretch.batches)
                await self.journal.keep_up()
            lane = self._waiting[0].lane
            if lane is not None and any(batch.lane == lane for batch in self._in_flight.values()):
                return
            self._calls += 1
            batch = self._waiting.popleft()
            self._in_flight[asyncio.create_task(self._send(batch))] = batch

    @property
    def _begun(self) -> int:
        return sum(len(stretch.batches) for stretch in self._stretches) - len(self._waiting)

    def _must_end(self) -> bool:
        if self._one_batch and self._calls:
            return True
        return time.monotonic() >= self._ends_at or self._should_stop()

    async def _send(self, batch: Batch) -> dict[str, Refusal] | None:
        """What was refused and left out; None when nothing was written, since a record may have to be held."""
        if not await self.journal.pause_on_error():
            return await self._delivery.leaving_out(batch.records)
        if len(batch.records) > self._delivery.call_size:
            return None
        return {} if await self._delivery.all_at_once(batch.records) else None

    def _complete(self, call: asyncio.Task[dict[str, Refusal] | None]) -> bool:
        """Note what an ended call wrote; False when it wrote nothing. Raises what the call raised."""
        batch = self._in_flight.pop(call)
        batch.refused = call.result()
        if batch.refused is None:
            return False
        while self._stretches and self._stretches[0].complete:
            stretch = self._stretches.popleft()
            self.journal.add(stretch.records, stretch.refused)
        return True

    async def _settle(self) -> None:
        """Wait for what is still in flight."""
        while self._in_flight:
            done, _ = await asyncio.wait(self._in_flight)
            for call in done:
                if call.exception() is None:
                    self._complete(call)
                else:
                    del self._in_flight[call]

    async def _up_to_refused(self) -> bool:
        """Write, in the source's order and with no other call in flight, what is left of the stretches that were begun,
        up to the first refused record, and hold there; True when nothing had to be held after all.

        Calls that were in flight behind that record may have landed; no new one is started.
        """
        await self._settle()
        self._waiting.clear()
        while self._stretches:
            if not await self._stretch_up_to_refused(self._stretches[0]):
                return False
            self._stretches.popleft()
        return True

    async def _stretch_up_to_refused(self, stretch: Stretch) -> bool:
        records, left_out = stretch.records, stretch.refused
        to_write = stretch.incomplete_records
        while to_write:
            await self.journal.keep_up()
            if not await self.journal.pause_on_error(exactly=True):
                left_out |= await self._delivery.leaving_out(to_write)
                break
            part = await self._delivery.next_part(to_write)
            to_here = records.index(to_write[part.index if isinstance(part, Stop) else part - 1])
            if isinstance(part, Stop):
                self._add(records[:to_here], left_out)
                await self.journal.hold(records[to_here], part.refusal)
                return False
            self._add(records[: to_here + 1], left_out)
            records, to_write = records[to_here + 1 :], to_write[part:]
        self._add(records, left_out)
        return True

    def _add(self, records: list[Record], left_out: dict[str, Refusal]) -> None:
        if records:
            of_these = {record.key: left_out[record.key] for record in records if record.key in left_out}
            self.journal.add(records, of_these)


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
