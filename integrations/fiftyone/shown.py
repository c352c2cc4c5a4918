"""What of a product FiftyOne was last given, kept in the catalog: whether it is behind can be told without it."""

from __future__ import annotations

from integrations.catalog import Catalog


def note_shown(catalog: Catalog, database: str, product: str, run: str, reviews: int) -> None:
    """Note that FiftyOne has a run of a product, and so many of its reviews."""
    catalog.add_reviews([], cursor=(_cursor(database, product), f"{run} {reviews}"))


def is_behind(catalog: Catalog, database: str, product: str, run: str) -> bool | None:
    """Whether FiftyOne lacks this run or reviews that the catalog has; None if it was never given the product."""
    shown = catalog.cursor(_cursor(database, product))
    return None if shown is None else shown != f"{run} {catalog.count_reviews(product)}"


def _cursor(database: str, product: str) -> str:
    return f"fiftyone/{database}/{product}"
