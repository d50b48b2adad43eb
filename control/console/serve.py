"""The console as a process."""

import uvicorn

from control.console.app import application
from control.exports import exports
from crm_export.config import Config
from crm_export.errors import CrmExportError

_LAST_REQUESTS_SECONDS = 5


class ConsoleError(CrmExportError):
    """The console cannot listen where it should."""


async def serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT. Raises StoreError where setup has not been run, ConsoleError for a taken port."""
    async with exports(config, lazy=True) as facade:
        app = application(config, facade, await facade.session_key())
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                host=config.console.host,
                port=config.console.port,
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=_LAST_REQUESTS_SECONDS,
            )
        )
        try:
            await server.serve()
        except SystemExit:
            host, port = config.console.host, config.console.port
            raise ConsoleError(f"the console cannot listen on {host}:{port}: is the port taken? see --port") from None
