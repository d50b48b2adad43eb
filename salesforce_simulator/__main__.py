"""``python -m salesforce_simulator``: serve until SIGTERM or Ctrl-C."""

import argparse
import asyncio
import socket
from pathlib import Path

import uvicorn

from salesforce_simulator.app import Simulator, dropping_connections
from salesforce_simulator.fast import App, FastPath
from salesforce_simulator.keep import Keep
from salesforce_simulator.oauth import OAuth


def main() -> None:
    parser = argparse.ArgumentParser(prog="salesforce_simulator", description="A stand-in for Salesforce.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free one)")
    parser.add_argument("--client-id", default="demo", help="the connected app's client ID (default demo)")
    parser.add_argument("--client-secret", default="demo", help="and its secret (default demo)")
    parser.add_argument("--public-key", type=Path, help="PEM file that checks JWT bearer assertions")
    parser.add_argument("--latency", type=float, default=0, help="seconds that each answer takes (default 0)")
    parser.add_argument("--fast", action="store_true", help="keep what is sent and check nothing: for measurements")
    parser.add_argument("--keep", type=Path, help="file in which the org survives this program, even a kill")
    given = parser.parse_args()
    oauth = OAuth(
        client_id=given.client_id,
        client_secret=given.client_secret,
        public_key=given.public_key.read_text() if given.public_key else None,
    )
    app: App = dropping_connections(Simulator(oauth, given.latency, Keep(given.keep)).app())
    asyncio.run(_serve(FastPath(app, given.latency) if given.fast else app, given.host, given.port))


async def _serve(app: App, host: str, port: int) -> None:
    # With its protocol named: asyncio switches Nagle's algorithm off only then, and an answer would wait for 40 ms.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, port))
    config = uvicorn.Config(app, log_level="warning", lifespan="off")
    print(f"listening on http://{host}:{listening.getsockname()[1]}", flush=True)
    await uvicorn.Server(config).serve(sockets=[listening])


if __name__ == "__main__":
    main()
