"""How a daemon that answers a GET is started: a command of this Python, with its log, on the loopback interface."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from integrations.daemons import Place, Program, listens
from integrations.launching import silent, spawn, wait_until

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
        ours = {name: value.replace("{port}", str(port)) for name, value in self.variables.items()}
        # -P: no file beside the user is taken for a module.
        command = [str(program.path), "-P", "-m", self.module]
        command += [word.replace("{port}", str(port)) for word in self.arguments]
        return spawn(command, self.place.folder, os.environ | ours, inherited=inherited)

    def wait(self, port: int, pid: int, alive: Callable[[], bool]) -> None:
        """Wait until it answers.

        Raises:
            ServiceError: It ended, or took too long.
        """
        wait_until(lambda: self.answers(port, pid), alive, self.place.folder, self.place.url(port), _PATIENCE)

    def answers(self, port: int, pid: int) -> bool:
        """Whether this process, and no other, answers there."""
        if not listens(pid, port):
            return False
        import httpx

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
            raise silent(self.place.url(port), pid, self.place.folder)
