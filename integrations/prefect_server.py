"""The workspace's own Prefect server: started, found again, stopped. Its pages show every run.

It listens on the loopback interface and asks for no password: every user of this machine can see and start runs.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from integrations import daemons
from integrations.daemons import Daemon, Place
from integrations.http_daemon import HttpDaemon

NAME = "prefect"
FIRST_PORT = 4300
"""Apart from 4200, which a server of somebody else's takes."""

# The defaults take one task run at a time, and the server is busy for a minute after a thousand of them.
_BATCHES = ("TASK_RUN_RECORDER", "EVENT_PERSISTER")
_VARIABLES = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # The pages of the second version ask a server outside, whatever is set.
    "PREFECT_SERVER_UI_V2_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_API_HOST": "127.0.0.1",
    "PREFECT_SERVER_API_PORT": "{port}",  # the pages call the port that is named here
    "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
    "PREFECT_API_URL": "",
    **{f"PREFECT_SERVER_SERVICES_{service}_BATCH_SIZE": "100" for service in _BATCHES},
    **{f"PREFECT_SERVER_SERVICES_{service}_READ_BATCH_SIZE": "100" for service in _BATCHES},
}


def running(workspace: Path) -> Daemon | None:
    """The server of this workspace if its process lives; nothing is sent to it.

    Raises:
        ServiceError: It lives, but the command that started it was killed before it could write down where.
    """
    return daemons.running(place_in(workspace))


def api_url(server: Daemon) -> str:
    """What PREFECT_API_URL has to be for it."""
    return f"http://127.0.0.1:{server.port}/api"


def place_in(workspace: Path) -> Place:
    """Where the server of a workspace is kept."""
    return Place(NAME, workspace.resolve() / "services" / NAME, FIRST_PORT)


def server_in(workspace: Path) -> HttpDaemon:
    """How the server of a workspace is started."""
    place = place_in(workspace)
    variables = _VARIABLES | {"PREFECT_HOME": str(place.folder / "home")}
    where = ("--host", "127.0.0.1", "--port", "{port}", "--lifespan", "on", "--log-level", "warning")
    # Not `prefect server start`, whose server is a child that a kill of its parent leaves behind.
    application = ("--factory", "prefect.server.api.server:create_app")
    return HttpDaemon(place, version("prefect"), "uvicorn", (*application, *where), variables, "/api/health")
