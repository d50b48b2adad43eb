"""The way to Temporal: one ``connect()`` for the worker, the command line and the tests, so that none differs."""

import asyncio
import os
from urllib.parse import quote

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig

TASK_QUEUE = "crm-export"
CONNECT_SECONDS = 10


class TemporalUnreachableError(Exception):
    """No Temporal server answers; the message names the address and what to do."""


async def connect() -> Client:
    """Connect as ``TEMPORAL_ADDRESS``, ``TEMPORAL_NAMESPACE``, the other variables and the profile say.

    Raises TemporalUnreachableError after 10 seconds without an answer.
    """
    config = ClientConfig.load_client_connect_config()
    config.setdefault("target_host", "localhost:7233")
    try:
        return await asyncio.wait_for(Client.connect(**config, data_converter=pydantic_data_converter), CONNECT_SECONDS)
    except (RuntimeError, TimeoutError) as error:
        reason = "no answer" if isinstance(error, TimeoutError) else _reason(str(error))
        raise TemporalUnreachableError(
            f"cannot reach Temporal at {config['target_host']} ({reason}): "
            "start it (crm-export dev runs one), or set TEMPORAL_ADDRESS"
        ) from None


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
