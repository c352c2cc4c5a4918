"""The `saa` command: one verb per step of the loop."""

from flows.cli.app import app, main

__all__ = ["app", "main"]
