"""A page of the daily re-export: open errors, each record exported as the source has it now."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import attrgetter

from crm_export.ahead import Source
from crm_export.config import Job
from crm_export.delivery import MOST_VERSIONS, Crm, Delivery
from crm_export.errors import CrmError, JobLevelError, SourceError, StoreError
from crm_export.export import job_trouble
from crm_export.model import Category, ErrorState, ExportError, Record, ReexportOnly, ReexportPage, Refusal
from crm_export.salesforce import MOST_RECORDS, facts
from crm_export.store import Store

PAGE_ROWS = 2_000
"""Open errors a page: 10 full calls, some seconds to a minute."""
_job = attrgetter("job")


async def reexport_page(
    connection: str,
    run_id: str,
    jobs: Callable[[str], tuple[Job, Source] | None],
    crm: Crm,
    store: Store,
    *,
    after: int,
    until: int,
    should_stop: Callable[[], bool],
    only: ReexportOnly | None = None,
    rows: int = PAGE_ROWS,
) -> ReexportPage:
    """Export the records of the open errors behind row ``after`` up to ``until``, at most ``rows`` of them.

    ``jobs`` gives a job's configuration and source, None for one that is not configured any more. A job in trouble of
    its own (its source, its mapping) is left for the next day, and holds up no other; its errors stay open. Each
    call's outcome is stored at once, under ``run_id``, so that an attempt after a kill repeats none.
    """
    due = await asyncio.to_thread(store.errors.due, connection, run_id, after, until, rows, only)
    page = ReexportPage(after=after, finished=len(due) < rows)
    # Errors of several jobs lie mixed: a call takes those of one. Where the page ends early it begins anew at the same
    # row, less what has been settled.
    for name, of_job in groupby(sorted(due, key=_job), key=_job):
        errors = list(of_job)
        for start in range(0, len(errors), MOST_RECORDS):
            if should_stop():
                return page.model_copy(update={"finished": False})
            batch = errors[start : start + MOST_RECORDS]
            try:
                if name not in page.not_tried:
                    page = await _settle(page, batch, run_id, jobs(name), crm, store)
            except (JobLevelError, StoreError) as error:
                if not _is_of_one_job(error):
                    return page.model_copy(update={"trouble": job_trouble(error), "finished": False})
                page = page.model_copy(update={"not_tried": {**page.not_tried, name: str(job_trouble(error))}})
    return page.model_copy(update={"after": due[-1].id}) if due else page


def _is_of_one_job(error: JobLevelError | StoreError) -> bool:
    """Whether other jobs of the connection may fare better: not with its sign-in, its limits, or an outage."""
    if isinstance(error, CrmError):
        return facts(error.code).category in (Category.PERMISSION, Category.DATA, Category.REFERENCE)
    return isinstance(error, SourceError)


async def _settle(
    page: ReexportPage,
    batch: Sequence[ExportError],
    run_id: str,
    known: tuple[Job, Source] | None,
    crm: Crm,
    store: Store,
) -> ReexportPage:
    """Export one call's records again and store what became of them."""
    name = batch[0].job
    if known is None:
        raise SourceError("NOT_CONFIGURED", f"job {name} is not in this worker's exports.yaml")
    job, source = known
    rows = {error.record_key: error.id for error in batch}
    exported, gone, refused = await _export_again(Delivery(job, crm), source, list(rows))
    await asyncio.to_thread(
        store.errors.settle,
        run_id,
        exported=[rows[key] for key in exported],
        gone=[rows[key] for key in gone],
        refused={rows[key]: refusal for key, refusal in refused.items()},
    )
    return _add(page, batch, exported, gone, refused)


async def _export_again(
    delivery: Delivery, source: Source, keys: Sequence[str]
) -> tuple[list[str], list[str], dict[str, Refusal]]:
    """Export the records as they are now; gives the keys exported, those gone from the source, and the refused.

    What changed in the source while it was written is exported again, until what the CRM has is what the source has.
    """
    records = await asyncio.to_thread(source.read_keys, keys)
    gone = [key for key in keys if key not in records]
    refused: dict[str, Refusal] = {}
    to_send: list[Record] = list(records.values())
    for _ in range(MOST_VERSIONS):
        if not to_send:
            break
        refused_now = await delivery.leaving_out(to_send)
        sent = {record.key: record for record in to_send}
        refused = {key: reason for key, reason in refused.items() if key not in sent} | refused_now
        now = await asyncio.to_thread(source.read_keys, list(sent))
        to_send = [record for key, record in now.items() if record.body != sent[key].body]
    exported = [key for key in records if key not in refused]
    return exported, gone, refused


def _add(
    page: ReexportPage,
    batch: Sequence[ExportError],
    exported: Sequence[str],
    gone: Sequence[str],
    refused: dict[str, Refusal],
) -> ReexportPage:
    done = {*exported, *gone}
    released = [error.job for error in batch if error.state is ErrorState.HELD and error.record_key in done]
    return page.model_copy(
        update={
            "exported": page.exported + len(exported),
            "gone": page.gone + len(gone),
            "refused": page.refused + len(refused),
            "released": (*page.released, *released),
        }
    )
