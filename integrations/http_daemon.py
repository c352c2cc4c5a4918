"""How a daemon that answers a GET is started: a command of this Python, with its log, on the loopback interface."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from integrations.daemons import Place, Program, listens
from integrations.files import cannot_write
from saa_core.errors import ServiceError

_PATIENCE = 180.0
"""Seconds that a start may take, on a machine that does much else."""


@dataclass(frozen=True, slots=True)
class HttpDaemon:
    """How one of our own programs is started, see `daemons.Server`.

    Attributes:
        place: Where it is kept.
        version: Of its program.
        module: What Python runs, with `arguments`; `{port}` in them, and in values of `variables`, is its port.
        arguments: Of the command line.
        variables: Of its environment, over ours.
        path: What answers when it is up.
    """

    place: Place
    version: str
    module: str
    arguments: tuple[str, ...]
    variables: Mapping[str, str]
    path: str

    def program(self) -> Program:
        """The interpreter."""
        return Program(Path(sys.executable), self.version)

    def launch(self, program: Program, port: int, inherited: Sequence[int]) -> subprocess.Popen[bytes]:
        """Start it, so that it outlives this process.

        Raises:
            StoreError: Its folder cannot be written.
        """
        folder = self.place.folder
        ours = {name: value.replace("{port}", str(port)) for name, value in self.variables.items()}
        # -P: no file beside the user is taken for a module.
        command = [str(program.path), "-P", "-m", self.module]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
            with self.place.log.open("wb") as log:
                return subprocess.Popen(
                    [*command, *(word.replace("{port}", str(port)) for word in self.arguments)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=os.environ | ours,
                    pass_fds=inherited,
                    start_new_session=True,
                )
        except OSError as error:
            raise cannot_write(str(folder), error) from error

    def wait(self, port: int, pid: int, alive: Callable[[], bool]) -> None:
        """Wait until it answers.

        Raises:
            ServiceError: It ended, or took too long.
        """
        url, end = self.place.url(port), time.monotonic() + _PATIENCE
        while alive():
            if self.answers(port, pid):
                return
            if time.monotonic() > end:
                raise ServiceError(url, f"it did not answer for {_PATIENCE:.0f} s; see {self.place.log}")
            time.sleep(0.1)
        said = self.place.log.read_text("utf-8", errors="replace").strip().splitlines() or ["it printed nothing"]
        raise ServiceError(url, f"it ended while it started: {said[-1][:200]} (see {self.place.log})")

    def answers(self, port: int, pid: int) -> bool:
        """Whether this process, and no other, answers there."""
        if not listens(pid, port):
            return False
        try:
            # No proxy of the user's stands between us and the loopback interface.
            return httpx.get(self.place.url(port) + self.path, timeout=10, trust_env=False).is_success
        except httpx.TransportError:
            return False

    def prove(self, port: int, pid: int) -> None:
        """Show that what answers there is this process.

        Raises:
            ServiceError: Nothing of its answers.
        """
        if not self.answers(port, pid):
            reason = f"our server runs (pid {pid}) but does not answer; it may be starting, see {self.place.log}"
            raise ServiceError(self.place.url(port), reason)
