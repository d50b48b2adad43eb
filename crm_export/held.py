"""One attempt on the record that a paused run holds."""

import asyncio

from crm_export.ahead import Source
from crm_export.config import Job
from crm_export.delivery import MOST_VERSIONS, Crm, Delivery
from crm_export.model import ClosedBy, HeldFate, Record, Refusal
from crm_export.store import RunLedger


async def export_held_record(job: Job, source: Source, crm: Crm, ledger: RunLedger) -> HeldFate | Refusal:
    """Export the held record as the source has it now; gives its fate, or why the CRM refuses it still.

    With the pause setting off by now, it is left out at once. After writing, the row is read once more and exported
    again if it changed meanwhile, so that no older version stays over a newer one.
    """
    assert ledger.held is not None
    key = ledger.held.record_key
    if not await asyncio.to_thread(ledger.read_pause_on_error):
        return await _let_go(ledger, None)
    delivery = Delivery(job, crm)
    written: Record | None = None
    for _ in range(MOST_VERSIONS):
        record = (await asyncio.to_thread(source.read_keys, [key])).get(key)
        if record is None and written is None:
            return await _let_go(ledger, ClosedBy.GONE)
        if record is None or (written is not None and record.body == written.body):
            break
        refused = await delivery.leaving_out([record])
        if key in refused:
            await asyncio.to_thread(ledger.refused_again, refused[key])
            return refused[key]
        written = record
    return await _let_go(ledger, ClosedBy.EXPORT)


async def _let_go(ledger: RunLedger, became: ClosedBy | None) -> HeldFate:
    await asyncio.to_thread(ledger.let_go, became)
    return {ClosedBy.EXPORT: HeldFate.EXPORTED, ClosedBy.GONE: HeldFate.GONE, None: HeldFate.LEFT_OUT}[became]
