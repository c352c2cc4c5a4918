"""The `saa` command: one verb per step of the loop.

Verbs import what they work with inside their functions: `saa --help` waits for no array library and no database.
"""

from flows.cli.app import app, main

__all__ = ["app", "main"]
