"""What every page and every call of the API works with: the configuration and the façade."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.exceptions import HTTPException
from starlette.requests import Request

from control.console.people import Person, viewer
from control.console.shield import api_operator, operator
from control.exports import Exports
from crm_export.config import Config, Job


@dataclass(frozen=True)
class Desk:
    """One console's configuration and façade."""

    config: Config
    exports: Exports

    def job(self, name: str) -> Job:
        """Raises HTTPException 404."""
        if name not in self.config.jobs:
            raise HTTPException(404, f"there is no job {name}")
        return self.config.jobs[name]

    def connection(self, name: str | None) -> str:
        """A connection's name; the first one where none is given. Raises HTTPException 404."""
        found = next(iter(self.config.connections), None) if name is None else name
        if found is None or found not in self.config.connections:
            raise HTTPException(404, f"there is no connection {found}" if found else "no connection is configured")
        return found

    def jobs_of(self, connection: str) -> list[str]:
        return [job.name for job in self.config.jobs.values() if job.connection == connection]


def desk(request: Request) -> Desk:
    found: Desk = request.app.state.desk
    return found


Given = Annotated[Desk, Depends(desk)]
Viewer = Annotated[Person, Depends(viewer)]
Operator = Annotated[Person, Depends(operator)]
ApiOperator = Annotated[Person, Depends(api_operator)]
