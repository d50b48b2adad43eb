"""The worker process: connect, register, run, stop."""

import asyncio
import ctypes
import gc
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import NoReturn, TypeVar

import click
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.worker import Worker, WorkerDeploymentConfig
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from activities.endings import Heartbeats
from activities.export import ExportActivities
from activities.export_errors import ExportErrorsActivities
from activities.reexport import ReexportActivities
from activities.settings import SettingsActivities
from activities.temporal import TASK_QUEUE, TemporalUnreachableError, connect, runtime
from crm_export import exports_yaml
from crm_export.clients import Clients
from crm_export.config import Config
from crm_export.errors import ConfigError, StoreError
from crm_export.log import configure
from crm_export.store import Store
from workflows.asked import Checked
from workflows.export import ExportWorkflow
from workflows.export_errors import ExportErrors
from workflows.reexport import CRMExportExportError
from workflows.settings import CrmSettings

WORKFLOWS = [ExportWorkflow, ExportErrors, CRMExportExportError, CrmSettings]
SANDBOX = SandboxedWorkflowRunner(
    restrictions=SandboxRestrictions.default.with_passthrough_modules("activities", "crm_export", "workflows")
)
"""The project's own modules are imported once, not once a workflow: a third of the time to start one."""

INTERCEPTORS = [Heartbeats(), Checked()]

GRACE = timedelta(seconds=30)
"""A page ends at its next batch when the worker is asked to stop; this is for a slow last call."""
STICKY = timedelta(seconds=5)
"""So long a killed worker's workflows wait for it before another takes them over."""
ACTIVITIES = 100
"""At a time: each page holds at most two reads' rows in memory. More wait in the task queue, each connection's share
alike."""
THREADS = 128
"""Each waits for a database; one export reads and stores at most two things at a time."""
_WAIT_SECONDS = 2.0

logger = logging.getLogger("crm_export.worker")
T = TypeVar("T")


def build(
    client: Client,
    clients: Clients,
    task_queue: str = TASK_QUEUE,
    *,
    activities_at_once: int = ACTIVITIES,
    version: WorkerDeploymentVersion | None = None,
) -> Worker:
    """A worker with every workflow and activity of the project; with a ``version``, a versioned one."""
    exports = ExportActivities(clients)
    errors = ExportErrorsActivities(clients, task_queue)
    reexports = ReexportActivities(clients)
    settings = SettingsActivities(clients)
    return Worker(
        client,
        task_queue=task_queue,
        workflows=WORKFLOWS,
        activities=[
            exports.begin_run,
            exports.export_page,
            exports.export_held_record,
            exports.leave_out_held_record,
            exports.set_run_setting,
            exports.finish_run,
            errors.report_errors,
            errors.summarise_errors,
            errors.notify,
            errors.start_reexport,
            errors.start_reexport_only,
            reexports.begin_reexport,
            reexports.reexport_page,
            reexports.tell_paused_runs,
            settings.load_settings,
            settings.change_setting,
            settings.tell_exports,
        ],
        workflow_runner=SANDBOX,
        max_concurrent_activities=activities_at_once,
        interceptors=INTERCEPTORS,
        # A paused export may wait for weeks: it moves on to the version that is current, and needs no old worker.
        deployment_config=WorkerDeploymentConfig(version, True, VersioningBehavior.AUTO_UPGRADE) if version else None,
        graceful_shutdown_timeout=GRACE,
        sticky_queue_schedule_to_start_timeout=STICKY,
    )


def version_of(environ: Mapping[str, str]) -> WorkerDeploymentVersion | None:
    """The worker's version, by the variables that Temporal's Worker Controller sets; None without. Raises ConfigError.

    A versioned worker gets nothing to do until its version is made current (docs/deployment.md).
    """
    name, build_id = environ.get("TEMPORAL_DEPLOYMENT_NAME"), environ.get("TEMPORAL_WORKER_BUILD_ID")
    if bool(name) != bool(build_id):
        raise ConfigError("TEMPORAL_DEPLOYMENT_NAME and TEMPORAL_WORKER_BUILD_ID go together: set both, or neither")
    return WorkerDeploymentVersion(name, build_id) if name and build_id else None


async def run(config: Config, stop: asyncio.Event) -> None:
    """Work until ``stop`` is set; then calls in flight end, and what they did is kept.

    A store that is not set up, or a server that is not up yet, is waited for.
    """
    temporal_runtime, version = runtime(os.environ), version_of(os.environ)
    prepare_process()
    store = Store(config.store)
    clients = Clients(config, store)
    try:
        await _waited_for(lambda: asyncio.to_thread(store.require_migrated), StoreError, stop)
        client = await _waited_for(lambda: connect(temporal_runtime), TemporalUnreachableError, stop)
        if client is None:
            return
        async with build(client, clients, version=version):
            what = {"task_queue": TASK_QUEUE, "namespace": client.namespace}
            version_text = version.to_canonical_string() if version else None
            logger.info("worker started", extra={**what, "version": version_text})
            await stop.wait()
            logger.info("worker stopping")
        logger.info("worker stopped")
    finally:
        await clients.close()


def prepare_process() -> None:
    """Settings of a whole process, which no library should make."""
    # What exists by now lives as long as the process. To look through it for cycles again and again, because records
    # come by the thousand, took a quarter of the time to read them.
    gc.collect()
    gc.freeze()
    # Each thread that reads would keep freed memory of its own: a fifth more for a million records than for few.
    _use_few_arenas()
    # asyncio.to_thread() takes its threads from here, for the store and for the sources: the default is six on two
    # cores, and as many slow sources would hold up every export.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="io"))


def _use_few_arenas() -> None:
    """glibc's mallopt(M_ARENA_MAX), as its manual page names it; other C libraries have no arenas."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(-8, 2)


async def _waited_for(attempt: Callable[[], Awaitable[T]], error: type[Exception], stop: asyncio.Event) -> T | None:
    said = ""
    while not stop.is_set():
        try:
            return await attempt()
        except error as reason:
            if str(reason) != said:
                logger.warning("waiting", extra={"reason": str(reason)})
                said = str(reason)
            try:
                await asyncio.wait_for(stop.wait(), _WAIT_SECONDS)
            except TimeoutError:
                continue
    return None


def main(config_file: str | None = None) -> int:
    """Run a worker until SIGTERM or SIGINT; gives the exit status."""
    configure()
    # What an event is about stands in fields of its own.
    workflow.logger.workflow_info_on_message = False
    activity.logger.activity_info_on_message = False
    try:
        config = exports_yaml.load(exports_yaml.find(config_file, os.environ), os.environ)
    except ConfigError as error:
        print(f"crm-export: {error}", file=sys.stderr)
        return 2

    async def until_stopped() -> None:
        stop = asyncio.Event()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
        await run(config, stop)

    try:
        asyncio.run(until_stopped())
    except (ConfigError, StoreError) as error:
        print(f"crm-export: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    return 0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "config_file", metavar="FILE", help="Configuration (default: exports.yaml).")
def command(config_file: str | None) -> NoReturn:
    """Run a worker until SIGTERM or SIGINT, the same as crm-export worker."""
    sys.exit(main(config_file))


if __name__ == "__main__":
    command()
