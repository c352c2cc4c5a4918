"""The deployments beside the doorbell: Prefect's runner in a thread of its own, started again when it falls.

It ends when its Prefect server stays away for a while, and the server may have lost what was registered there. So each
start registers everything anew: deployments with their schedules, which a stop has paused, triggers, automations. What
was missed meanwhile is done at once, not in the night.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from integrations.catalog import Catalog
from integrations.settings import Settings

if TYPE_CHECKING:
    from prefect.runner import Runner

_AT_ONCE = 4
"""Runs at once; each is a process."""
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0

_MISSED = ("collect", "publish", "curate")
"""What events and the doorbell may have asked for while nobody was there, or from a run that was killed. They change
nothing where nothing was missed."""

_SECONDS_BETWEEN_LOOKS = "5"
_ENVIRONMENT = {
    # A run's log is on its page; of the service's own, warnings say enough.
    "PREFECT_LOGGING_LEVEL": "INFO",
    "PREFECT_LOGGING_TO_API_ENABLED": "true",
    "PREFECT_RUNNER_SERVER_LOG_LEVEL": "ERROR",
}


class Deployments:
    """Runs every deployment of a workspace, from `start` to `stop`.

    Args:
        settings: Of the site.
        say: Told in a line what becomes of it; from another thread.
    """

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._say = say
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._work, name="deployments", daemon=True)

    def start(self) -> None:
        """Begin; returns at once, as the server may yet have to come up."""
        os.environ.update(_ENVIRONMENT)
        os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", _SECONDS_BETWEEN_LOOKS)
        os.environ["SAA_WORKSPACE"] = str(self._settings.workspace.absolute())
        self._thread.start()

    def stop(self) -> None:
        """Pause the schedules, cancel the runs that work, and return when all have ended."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _work(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        pause = _FIRST_PAUSE
        while not self._stopping.is_set():
            try:
                await self._once()
                pause = _FIRST_PAUSE
            except Exception as error:
                self._say(f"deployments: {_told(error)}; again in {pause:.0f} s")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _once(self) -> None:
        """Register everything and run it until told to stop, or until Prefect's runner gives up."""
        from prefect.runner import Runner

        from flows.automations import HEARTBEAT

        runner = Runner(name="saa", heartbeat_seconds=HEARTBEAT, limit=_AT_ONCE)
        await self._register(runner)
        working = asyncio.create_task(runner.start())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not working.done():
            await runner.astop()
        await working

    async def _register(self, runner: Runner) -> None:
        from prefect.client.orchestration import get_client

        from flows.automations import drop_late_runs, ensure_automations
        from flows.deployments import deployments

        known = deployments(self._settings)
        ids = {each.name: await runner.aadd_deployment(each.for_runner()) for each in known}
        async with get_client() as client:
            await ensure_automations(client)
            dropped = await drop_late_runs(client, list(ids.values()))
            if self._has_products():
                for name in _MISSED:
                    await client.create_flow_run_from_deployment(ids[name])
            where = client.api_url
        missed = f", {dropped} runs that were missed are dropped" if dropped else ""
        self._say(f"deployments on {where}: {', '.join(each.name for each in known)}{missed}")

    def _has_products(self) -> bool:
        with Catalog(self._settings.catalog_url) as catalog:
            return bool(catalog.products())


def _told(error: BaseException) -> str:
    """An error in a line; of a group, its first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
