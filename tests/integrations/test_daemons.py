"""Servers that do not come up: what is left of the attempt."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from integrations import daemons
from integrations.daemons import Place, Program
from integrations.launching import last_line, spawn, wait_until
from saa_core.errors import ServiceError

ANSWERS = "import http.server, sys; http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), None).serve_forever()"
FAILS = "import sys; print('OSError: address in use'); print('bye'); sys.exit(1)"


@dataclass
class Script:
    """A server that is a line of Python."""

    place: Place
    line: str

    def program(self) -> Program:
        return Program(Path(sys.executable), "1")

    def launch(self, program: Program, port: int, inherited: Sequence[int]) -> subprocess.Popen[bytes]:
        return spawn([str(program.path), "-c", self.line, str(port)], self.place.folder, {}, inherited=inherited)

    def wait(self, port: int, pid: int, alive: Callable[[], bool]) -> None:
        wait_until(lambda: daemons.listens(pid, port), alive, self.place.folder, self.place.url(port), 30)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place("label-studio", tmp_path / "server", 8_600)


def test_a_first_start_that_fails_keeps_no_port(place: Place) -> None:
    with pytest.raises(ServiceError, match="ended while it started: OSError: address in use"):
        daemons.up(place, Script(place, FAILS))
    assert not place.note.exists()


def test_a_later_start_that_fails_keeps_the_port_that_others_know(place: Place) -> None:
    first, _ = daemons.up(place, Script(place, ANSWERS))
    assert daemons.down(place)
    with pytest.raises(ServiceError):
        daemons.up(place, Script(place, FAILS))
    again, started = daemons.up(place, Script(place, ANSWERS))
    assert "address in use" in (place.folder / "server.log.1").read_text()
    assert daemons.down(place)
    assert started
    assert again.port == first.port


@pytest.mark.parametrize(
    ("text", "told"),
    {
        "": "it printed nothing",
        "starting\nready": "ready",
        "ValueError: no\n  at line 3\n": "ValueError: no",
    }.items(),
)
def test_what_a_log_tells(text: str, told: str) -> None:
    assert last_line(text) == told
