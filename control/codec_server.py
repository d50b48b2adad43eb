"""``crm-export codec-server``: lets the Temporal UI and CLI show what is encrypted, to those who may read it.

Temporal's own protocol (docs.temporal.io, "Codec Server"): ``POST /decode`` and ``POST /encode`` take and give
``{"payloads": […]}`` as protobuf's JSON. The keys stay here: the Temporal server and its UI's server never see them,
the browser asks for itself. It listens on this machine alone; elsewhere only those are answered who know
``CRM_EXPORT_CODEC_TOKEN``.
"""

import hmac
import ipaddress
import os
from collections.abc import Mapping
from urllib.parse import urlsplit

import click
from google.protobuf import json_format
from temporalio.api.common.v1 import Payloads

from activities.codec import KEYS_VARIABLE, DecryptionError, Encryption, encryption
from crm_export.errors import ConfigError

TOKEN_VARIABLE = "CRM_EXPORT_CODEC_TOKEN"
_MOST_BYTES = 20_000_000
"""A page of history in the UI: some hundred payloads, each 2 MB at most and mostly a few hundred bytes."""


@click.command(name="codec-server")
@click.option("--host", default="127.0.0.1", show_default=True, help=f"Elsewhere than here it needs {TOKEN_VARIABLE}.")
@click.option("--port", default=8888, show_default=True, type=click.IntRange(1, 65535), help="Listen here.")
@click.option(
    "--ui", metavar="URL", help="The Temporal UI that may ask (default: TEMPORAL_UI_URL, or the dev server's)."
)
def codec_server(host: str, port: int, ui: str | None) -> int:
    """Decrypt payloads for the Temporal UI and CLI. Keys come from CRM_EXPORT_PAYLOAD_KEYS."""
    app = build(os.environ, host, ui or os.environ.get("TEMPORAL_UI_URL", "http://localhost:8233"))
    import uvicorn

    click.echo(f"codec server http://{host}:{port}: name it in the Temporal UI (the glasses), or --codec-endpoint")
    uvicorn.run(app, host=host, port=port, log_level="warning")  # type: ignore[arg-type]
    return 0


def build(environ: Mapping[str, str], host: str, ui: str) -> object:
    """The ASGI program. Raises ConfigError without keys, or without a token where others than this machine may ask."""
    codec, token = encryption(environ), environ.get(TOKEN_VARIABLE, "")
    if codec is None:
        raise ConfigError(f"{KEYS_VARIABLE} is not set: there is nothing to decrypt with")
    if not token and not _is_loopback(host):
        raise ConfigError(f"{host} is not this machine alone: set {TOKEN_VARIABLE}, which everybody must send who asks")
    try:
        return _program(codec, token, host, ui)
    except ImportError as error:
        raise ConfigError(
            f"the codec server is not installed ({error.name}): pip install '.[codec]' in crm-export's folder"
        ) from None


def _program(codec: Encryption, token: str, host: str, ui: str) -> object:
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.cors import CORSMiddleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    async def answer(request: Request) -> Response:
        given = request.headers.get("Authorization", "")
        if token and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            return JSONResponse({"error": "Authorization: Bearer … is needed"}, 401)
        if int(request.headers.get("Content-Length", 0)) > _MOST_BYTES:
            return JSONResponse({"error": f"more than {_MOST_BYTES:,} bytes"}, 413)
        try:
            asked = json_format.Parse(await request.body(), Payloads(), ignore_unknown_fields=True)
            work = codec.decode if request.url.path == "/decode" else codec.encode
            return JSONResponse(json_format.MessageToDict(Payloads(payloads=await work(asked.payloads))))
        except (json_format.ParseError, UnicodeDecodeError):
            return JSONResponse({"error": 'needs {"payloads": […]} as JSON'}, 400)
        except DecryptionError as error:
            return JSONResponse({"error": str(error)}, 400)

    origin = urlsplit(ui)
    # A name that another site resolves to this machine is not this machine's name.
    hosts = ["localhost", "127.0.0.1"] if _is_loopback(host) else ["*"]
    return Starlette(
        routes=[Route("/decode", answer, methods=["POST"]), Route("/encode", answer, methods=["POST"])],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
            Middleware(
                CORSMiddleware,
                allow_origins=[f"{origin.scheme}://{origin.netloc}"],
                allow_methods=["POST"],
                allow_headers=["Authorization", "Content-Type", "X-Namespace"],
                allow_credentials=True,
            ),
        ],
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
