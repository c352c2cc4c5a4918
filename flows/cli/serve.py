"""`saa serve`: the doorbell that Label Studio rings, the pulls that follow, and the deployments beside it."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.common import JsonOption, WorkspaceOption, answer, print_json, say
from integrations.label_studio.doorbell import PAUSE, Bell, Doorbell, Metrics
from saa_core.errors import SaaError, ServiceError, SettingsError

if TYPE_CHECKING:
    from uvicorn import Server

    from integrations.settings import Settings

_ANYWHERE = {"0.0.0.0", "::", ""}

_GRACE = 3
"""Seconds that open connections get when the service stops."""


def serve(
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; beyond this machine, put something with TLS in front.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any that is free.")] = 8765,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the service: pull experts' reviews as soon as they are made, and label, refine and publish by itself.

    Example: `saa serve`

    It prints the address that `saa push label-studio --webhook` takes. Beside the doorbell it runs the deployments of
    the Prefect server that PREFECT_API_URL names, or of the workspace's own (`saa services up prefect`): what arrived
    in watched folders, what events ask for, the nightly run. Without a server it is the doorbell alone. Ctrl-C or
    SIGTERM stops it once the pull it is at has ended; other runs are cancelled, and taken up by the next start. A ring
    that nobody heard is made good by the next one, or by the nightly run.

    Prometheus finds its figures at /metrics: on a loopback address without a secret, elsewhere with the doorbell's as
    bearer token (the file secrets/webhook of the workspace).
    """
    from flows.bundles import catalog_to_read
    from flows.runtime import use_server
    from flows.start import collect
    from integrations.label_studio.webhook import webhook_secret
    from integrations.metrics import CONTENT_TYPE, WorkspaceMetrics
    from integrations.settings import Settings

    settings = Settings.load(workspace=workspace)
    folder = settings.workspace.absolute()
    secret = webhook_secret(folder)
    with listen(host, port) as listener, ExitStack() as beside:
        url = address_of(host, listener)

        def ready() -> None:
            _announce(url, as_json)
            if use_server(folder):
                beside.enter_context(_deployed(settings, url))
            else:
                say("no Prefect server, so the doorbell alone: `saa services up prefect` starts one")

        told = WorkspaceMetrics(lambda: catalog_to_read(settings))
        metrics = Metrics(told.text, CONTENT_TYPE, private=not is_loopback(listener))
        run(listener, secret, lambda product: collect(product, folder).sentence(), metrics, ready)


@contextmanager
def _deployed(settings: Settings, url: str) -> Iterator[None]:
    """Run the deployments beside the doorbell at `url`."""
    from flows.serving import Deployments

    if settings.doorbell is None and settings.label_studio_url is None:
        os.environ["SAA_DOORBELL"] = url  # where the runs let the workspace's own Label Studio ring
    deployments = Deployments(settings, say)
    deployments.start()
    try:
        yield
    finally:
        deployments.stop()


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections from now on.

    Raises:
        SettingsError: The address is not one of this machine, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        # create_server adds the address in brackets.
        reason = str(error.strerror or error).partition(" (")[0]
        raise SettingsError(f"{host} port {port}", f"{reason}; --host and --port name others") from error


def run(
    listener: socket.socket,
    secret: str,
    pull: Callable[[str], str],
    metrics: Metrics,
    ready: Callable[[], None],
    pause: float = PAUSE,
) -> None:
    """Answer rings until SIGINT or SIGTERM, and return when the running pull has ended. In the main thread.

    Args:
        listener: Where the requests come from.
        secret: What they have to bring.
        pull: Pulls a product's reviews and says in a sentence what came.
        metrics: Told to Prometheus.
        ready: Called when the signals do what is said here; requests wait already.
        pause: Seconds from a ring to its pull.

    Raises:
        ServiceError: The service ended without being told to.
    """
    from uvicorn import Config, Server

    bell = Bell(lambda product: say(f"{product}: {pull(product)}"), _failed, pause)
    # Requests are not logged: their headers hold the secret.
    app = Doorbell(secret, bell.ring, metrics)
    config = Config(app, access_log=False, log_level="error", ws="none", timeout_graceful_shutdown=_GRACE)
    server = Server(config)
    worker = threading.Thread(target=_work, args=(bell, server), daemon=True)
    worker.start()
    _until_told_to_stop(server, listener, ready)
    say("stopping; a pull that runs is finished first")
    bell.stop()
    worker.join()


def _work(bell: Bell, server: Server) -> None:
    """Pull for as long as the server runs; it must not go on taking rings that nobody hears."""
    try:
        bell.run()
    finally:
        server.should_exit = True


def _until_told_to_stop(server: Server, listener: socket.socket, ready: Callable[[], None]) -> None:
    # The server stops for both signals and, when it has, hands them to whoever handled them before. A second Ctrl-C
    # comes when these handlers are gone again, and ends the process at once.
    told = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.default_int_handler) for number in told]
    try:
        ready()
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        return
    finally:
        for number, handler in zip(told, before, strict=True):
            signal.signal(number, handler)
    raise ServiceError("the doorbell", "ended without being told to; start it again")


def _failed(product: str, error: Exception) -> None:
    reason = str(error) if isinstance(error, SaaError) else f"{type(error).__name__}: {error}"
    say(f"error: {product}: {reason}", style="red")


def _announce(url: str, as_json: bool) -> None:
    if as_json:
        print_json({"url": url})
    else:
        answer(f"the doorbell is at {url}: `saa push label-studio --product P --webhook {url}`")
    # Whoever waits for the address reads it through a pipe.
    sys.stdout.flush()


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine reaches the listener."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def address_of(host: str, listener: socket.socket) -> str:
    """Where others reach the listener; "anywhere" is no address for them, so there it is this machine's name."""
    name = socket.gethostname() if host in _ANYWHERE else host
    return f"http://{f'[{name}]' if ':' in name else name}:{listener.getsockname()[1]}"
