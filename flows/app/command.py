"""The command line as a child of the App's server, which so stays light and never waits for a model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from saa_core.errors import SaaError

_MAIN = "from flows.cli import main; main()"
_DONE, _PARTLY = 0, 2


def saa(*words: str) -> dict[str, Any]:
    """What a verb says under --json, on the workspace that the server was started for.

    Raises:
        SaaError: The verb failed; in its own words.
    """
    # The App's settings are not those of a program that only connects to the same database.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("FIFTYONE_")}
    command = [sys.executable, "-P", "-c", _MAIN, *words, "--json"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", env=variables, check=False
    )
    if done.returncode in (_DONE, _PARTLY):
        return dict(json.loads(done.stdout))
    raise SaaError(_reason(done))


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    try:
        return str(json.loads(done.stdout)["error"])
    except (ValueError, KeyError):
        last = next(reversed(done.stderr.strip().splitlines()), "it said nothing")
        return f"saa ended with exit code {done.returncode}: {last}"
