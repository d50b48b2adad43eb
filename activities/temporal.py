"""The way to Temporal: one ``connect()`` for the worker, the command line and the tests, so that none differs."""

import asyncio
import logging
import os
from collections.abc import Mapping
from urllib.parse import quote

from temporalio.client import Client
from temporalio.common import Priority
from temporalio.envconfig import ClientConfig, ClientConnectConfig
from temporalio.runtime import (
    LogForwardingConfig,
    LoggingConfig,
    PrometheusConfig,
    Runtime,
    TelemetryConfig,
    TelemetryFilter,
)

from activities.codec import data_converter
from crm_export.errors import ConfigError

TASK_QUEUE = "crm-export"
_FAIRNESS_KEY_BYTES = 64
CONNECT_SECONDS = 10
METRICS_VARIABLE = "CRM_EXPORT_METRICS"
_core_logger = logging.getLogger("temporalio.core")


class TemporalUnreachableError(Exception):
    """No Temporal server answers; the message names the address and what to do."""


async def connect(runtime: Runtime | None = None, *, lazy: bool = False) -> Client:
    """Connect as ``TEMPORAL_ADDRESS``, ``TEMPORAL_NAMESPACE``, the other variables and the profile say; ``lazy``: with
    the first call.

    Raises TemporalUnreachableError after 10 seconds without an answer, and ConfigError for settings or keys that are
    none.
    """
    converter = data_converter(os.environ)
    config = _client_config()
    try:
        connecting = Client.connect(**config, data_converter=converter, runtime=runtime, lazy=lazy)
        return await asyncio.wait_for(connecting, CONNECT_SECONDS)
    except (RuntimeError, TimeoutError) as error:
        reason = "no answer" if isinstance(error, TimeoutError) else _reason(str(error))
        raise TemporalUnreachableError(
            f"cannot reach Temporal at {config['target_host']} ({reason}): "
            "start it (crm-export dev runs one), or set TEMPORAL_ADDRESS"
        ) from None
    except ValueError as error:
        raise _unusable(f"{config['target_host']}: {error}") from None


def _client_config() -> ClientConnectConfig:
    try:
        config = ClientConfig.load_client_connect_config()
    except OSError as error:
        raise _unusable(f"cannot read {error.filename}: {error.strerror}") from None
    except (RuntimeError, ValueError) as error:
        # What follows the first line quotes the file, which may hold a key.
        raise _unusable(str(error).splitlines()[0].removeprefix("Configuration loading error: ")) from None
    if "://" in config.setdefault("target_host", "localhost:7233"):
        raise _unusable(f"{config['target_host']}: an address is HOST:PORT alone")
    return config


def _unusable(what: str) -> ConfigError:
    return ConfigError(
        f"Temporal's settings cannot be used ({what}): see TEMPORAL_ADDRESS, TEMPORAL_PROFILE, the other TEMPORAL_ "
        "variables, and the file that TEMPORAL_CONFIG_FILE names"
    )


def fair(connection: str) -> Priority:
    """The share of the workers that a connection's workflows and their activities get: each connection the same,
    however many exports it has (docs.temporal.io, "Task Queue Fairness"; a server of one's own has it by
    deploy/dynamicconfig.yaml). What runs inherits it from the workflow, and over continuing as new."""
    return Priority(fairness_key=connection.encode()[:_FAIRNESS_KEY_BYTES].decode(errors="ignore"))


def runtime(environ: Mapping[str, str]) -> Runtime:
    """The SDK's runtime: its log goes where Python's does, and its metrics to Prometheus at ``CRM_EXPORT_METRICS``
    (host:port) where that is set. Raises ConfigError."""
    log = LoggingConfig(TelemetryFilter(core_level="WARN", other_level="ERROR"), LogForwardingConfig(_core_logger))
    address = environ.get(METRICS_VARIABLE)
    metrics = PrometheusConfig(bind_address=address) if address else None
    try:
        return Runtime(telemetry=TelemetryConfig(logging=log, metrics=metrics))
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"{METRICS_VARIABLE}={address}: no metrics can be served there ({error})") from None


def _reason(error: str) -> str:
    """The SDK's words for a failed connection are its Rust structures."""
    known = {
        "ConnectionRefused": "connection refused",
        "dns error": "no such host",
        "certificate": "its TLS certificate is not trusted",
        "Unimplemented": "what answers there is not Temporal",
        "PermissionDenied": "permission denied",
        "Unauthenticated": "not signed in: see TEMPORAL_API_KEY",
    }
    return next((words for sign, words in known.items() if sign in error), error.split("\n")[0][:200])


def ui_url(workflow_id: str, run_id: str | None, namespace: str) -> str:
    """A workflow's page in the Temporal UI, which ``TEMPORAL_UI_URL`` names (default: the dev server's)."""
    base = os.environ.get("TEMPORAL_UI_URL", "http://localhost:8233").rstrip("/")
    page = f"{base}/namespaces/{quote(namespace, safe='')}/workflows/{quote(workflow_id, safe='')}"
    return f"{page}/{run_id}/history" if run_id else page
