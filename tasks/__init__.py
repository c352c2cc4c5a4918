"""Prefect tasks: thin wrappers, one module per step of the loop, without logic of their own."""
