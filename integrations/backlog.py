"""How many reviews of a product no refinement has seen yet."""

from __future__ import annotations

from integrations.catalog import Catalog


def waiting(catalog: Catalog, product: str) -> int:
    """Reviews that came since the last refinement of a product began to read them."""
    return catalog.count_reviews(product) - int(catalog.cursor(_cursor(product)) or 0)


def note_seen(catalog: Catalog, product: str, reviews: int) -> None:
    """Note that a refinement has seen so many reviews; those that came meanwhile wait for the next."""
    catalog.add_reviews([], cursor=(_cursor(product), str(reviews)))


def is_enough(waiting: int, new: int, step: int) -> bool:
    """Whether the newest reviews made the backlog reach another multiple of `step`.

    So one refinement is asked for, and not another one by every review that comes before it has begun.

    Example:
        >>> [is_enough(waiting, 4, 10) for waiting in (9, 13, 17, 21)]
        [False, True, False, True]
    """
    return waiting // step > (waiting - new) // step


def _cursor(product: str) -> str:
    return f"refined/{product}"
