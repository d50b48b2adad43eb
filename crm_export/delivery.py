"""Sending one job's records, and finding out which of them the CRM refuses for themselves.

A trigger that throws, or a governor limit, refuses every record of a call though one of them, or their number, is
the cause. Such calls are split until the records that are refused alone are found (product.md, Attribution).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from crm_export.config import Job
from crm_export.errors import CrmError
from crm_export.model import Category, Record, Refusal, RolledBack, UpsertResult, Written
from crm_export.salesforce import ObjectDescription, facts, unwritable

MOST_VERSIONS = 20
"""So often a record that changes in the source while it is written is written once more; one busier than that is met
again by its cursor."""


class Crm(Protocol):
    """What an export needs of a CRM; :class:`crm_export.salesforce.Salesforce` has it."""

    async def upsert(
        self,
        object_name: str,
        external_id: str,
        records: Sequence[bytes],
        *,
        all_or_none: bool,
    ) -> list[UpsertResult]: ...

    async def describe(self, object_name: str) -> ObjectDescription: ...


@dataclass(frozen=True, slots=True)
class Stop:
    """Where an all-or-none delivery ends: before ``index``, whose record the CRM refuses."""

    index: int
    refusal: Refusal


class Delivery:
    """Delivers records of one job, in the two ways of the contract: up to the first refused one, or without them."""

    def __init__(self, job: Job, crm: Crm) -> None:
        self._job = job
        self._crm = crm
        self.call_size = job.batch_size
        """Records a call. Shrinks where only smaller calls go through (a governor limit)."""

    async def all_at_once(self, records: Sequence[Record]) -> bool:
        """One all-or-none call. True: every record is in the CRM. False: none is, because of a refused one."""
        if any([record.unsendable for record in records]):  # noqa: C419 – a generator takes thrice as long
            return False
        return _all_written(await self._call(records, all_or_none=True))

    async def next_part(self, records: Sequence[Record]) -> int | Stop:
        """Write the longest part from the start that all-or-none calls find; gives its length, at least one.

        Gives a Stop where the CRM refuses a record for itself: what is before it is in the CRM, and nothing else.
        """
        unsendable = next((i for i, record in enumerate(records) if record.unsendable), len(records))
        if unsendable == 0:
            refusal = records[0].unsendable
            assert refusal is not None
            return Stop(0, refusal)
        size = min(unsendable, self.call_size)
        while True:
            results = await self._call(records[:size], all_or_none=True)
            refused = [(i, result) for i, result in enumerate(results) if isinstance(result, Refusal)]
            if not refused:
                return size
            first, refusal = refused[0]
            if first == 0 and (size == 1 or not facts(refusal.code).shared):
                return Stop(0, refusal)
            if first > 0:
                size = first
                continue
            size = (size + 1) // 2
            self.call_size = size

    async def leaving_out(self, records: Sequence[Record]) -> dict[str, Refusal]:
        """Write every record that the CRM accepts; gives why it refused the others, by record key, in order."""
        refused = {record.key: record.unsendable for record in records if record.unsendable}
        sendable = [record for record in records if not record.unsendable]
        for start in range(0, len(sendable), self.call_size):
            refused |= await self._attributed(sendable[start : start + self.call_size])
        return {record.key: refused[record.key] for record in records if record.key in refused}

    async def _attributed(self, records: Sequence[Record]) -> dict[str, Refusal]:
        results = await self._call(records, all_or_none=False)
        refused: dict[str, Refusal] = {}
        suspects: list[Record] = []
        for record, result in zip(records, results, strict=True):
            if isinstance(result, Refusal):
                if len(records) > 1 and facts(result.code).shared:
                    suspects.append(record)
                else:
                    refused[record.key] = result
        if suspects:
            half = (len(suspects) + 1) // 2
            for part in (suspects[:half], suspects[half:]):
                if part:
                    refused |= await self._attributed(part)
            if not refused:
                # Their number was the cause: send no more at once than went through.
                self.call_size = min(self.call_size, half)
        return refused

    async def _call(self, records: Sequence[Record], *, all_or_none: bool) -> list[UpsertResult]:
        """Raises CrmError where the call's failure is no record's own, though the CRM says it record by record."""
        job = self._job
        bodies = [record.body for record in records]
        results = await self._crm.upsert(job.object, job.external_id, bodies, all_or_none=all_or_none)
        if _all_written(results):
            return results
        refusals = [result for result in results if isinstance(result, Refusal)]
        if not refusals and any(isinstance(result, RolledBack) for result in results):
            raise CrmError("UNEXPECTED_ANSWER", f"Salesforce wrote no {job.object} record and named no error")
        if len(refusals) == len(results) and all(r.category is Category.PERMISSION for r in refusals):
            await self._raise_if_missing_for_all()
        return results

    async def _raise_if_missing_for_all(self) -> None:
        """A permission that every record lacks is one problem of the job; the object's description tells."""
        job = self._job
        missing = unwritable(await self._crm.describe(job.object), job.external_id, list(job.fields))
        if missing is not None:
            raise missing


def _all_written(results: Sequence[UpsertResult]) -> bool:
    return set(map(type, results)) <= {Written}
