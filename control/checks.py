"""What an operator tries from this machine, outside Temporal: ``check`` and ``try``."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from control.exports import ANSWER_SECONDS, OperationFailedError
from crm_export.clients import Clients
from crm_export.config import Config, Job
from crm_export.errors import CrmError, StoreError
from crm_export.model import ClosedBy, Refusal
from crm_export.salesforce import Exchange, facts, problems
from crm_export.store import Store


class Tried(BaseModel):
    """One record's export as ``try`` shows it; ``code`` is None when Salesforce took the record."""

    method: str
    path: str
    request: dict[str, Any]
    status: int | None
    response: Any
    code: str | None
    message: str | None
    hint: str | None
    usual_cause: str | None


def check_store(config: Config) -> tuple[list[str], str]:
    """What is wrong with the store, a line each; and a hint where it only waits to be set up, else empty."""
    try:
        with contextlib.closing(Store(config.store)) as store:
            url = store.database.url
            if url.get_backend_name() == "sqlite" and url.database:
                file = Path(url.database)
                if not file.parent.is_dir():
                    return [f"store {store.database.name}: there is no folder {file.parent}: create it"], ""
                if not file.exists():
                    # To look into it would create it.
                    return [], f"the store {store.database.name} is not set up yet: run crm-export setup"
            with store.database.read():
                pass
            try:
                store.require_migrated()
            except StoreError as error:
                return [], str(error)
    except StoreError as error:
        return [str(error)], ""
    return [], ""


async def check_job(config: Config, job: Job) -> list[str]:
    """Everything that is wrong with a job's source and its mapping, a line each."""
    async with _clients(config) as clients:
        found = await asyncio.to_thread(clients.source(job).check)
        crm = clients.crm(job.connection)
        try:
            description, usage = await crm.describe(job.object), await crm.limits()
        except CrmError as error:
            return [*found, f"Salesforce, object {job.object}: {error}"]
        found += problems(description, job.external_id, list(job.fields))
        if usage.used >= usage.maximum:
            found.append(f"Salesforce: all {usage.maximum:,} API requests of the last 24 hours are used up")
        return found


async def try_record(config: Config, job: Job, key: str, *, dry_run: bool) -> Tried:
    """Export one record now; a success closes its open error. Raises OperationFailedError, CrmError, SourceError."""
    async with _clients(config) as clients:
        record = (await asyncio.to_thread(clients.source(job).read_keys, [key])).get(key)
        if record is None:
            raise OperationFailedError(f"source {job.source} has no record {key} for job {job.name}")
        if record.unsendable:
            raise OperationFailedError(f"record {key} cannot be sent: {record.unsendable.message}")
        crm = clients.crm(job.connection)
        if dry_run:
            return _tried(crm.prepared(job.object, job.external_id, key, record.values))
        exchange = await crm.upsert_one(job.object, job.external_id, key, record.values)
    if not isinstance(exchange.result, Refusal):
        await asyncio.to_thread(_close_error, config, job, key)
    return _tried(exchange)


def _close_error(config: Config, job: Job, key: str) -> None:
    store = Store(config.store)
    # A store that is not set up has no error to close.
    with contextlib.suppress(StoreError), contextlib.closing(store):
        store.require_migrated()
        with store.database.write() as connection:
            store.errors.close(connection, job.connection, job.name, [key], ClosedBy.OPERATOR)


def _tried(exchange: Exchange) -> Tried:
    refused = exchange.result if isinstance(exchange.result, Refusal) else None
    return Tried(
        method=exchange.method,
        path=exchange.path,
        request=dict(exchange.body),
        status=exchange.status,
        response=exchange.answer,
        code=refused.code if refused else None,
        message=refused.message if refused else None,
        hint=refused.hint if refused else None,
        usual_cause=_usual_cause(refused.code) if refused else None,
    )


def _usual_cause(code: str) -> str:
    known = facts(code)
    return f"{known.cause} (may heal by waiting)" if known.waits else known.cause


@asynccontextmanager
async def _clients(config: Config) -> AsyncIterator[Clients]:
    clients = Clients(config, None, call_seconds=ANSWER_SECONDS)
    try:
        yield clients
    finally:
        await clients.close()
