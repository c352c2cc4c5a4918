"""Alembic migrations of the catalog, applied when a catalog is opened."""
