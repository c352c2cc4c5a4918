"""Prefect flows that compose tasks, their deployments, and the `saa` command line."""
