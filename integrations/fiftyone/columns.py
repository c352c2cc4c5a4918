"""Writing a field of many samples: only where it differs, all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from saa_core.errors import ServiceError


@dataclass(frozen=True, slots=True)
class Cell:
    """What a field of one sample is to be.

    Attributes:
        token: What is read back at the tokens' paths where the sample has it already.
        make: Gives the value; called only where it is needed.
    """

    token: tuple[Any, ...]
    make: Callable[[], Any]


def put(dataset: Any, field: str, cells: Mapping[str, Cell], tokens: Sequence[str] = ("",)) -> int:
    """Write the cells of a field that differ from what is there.

    Args:
        dataset: With the field declared.
        field: Its name.
        cells: By image key; keys without a sample are left out.
        tokens: Paths below the field whose values together tell one content from another; "" is the field itself.

    Returns:
        How many were written.

    Raises:
        ServiceError: mongod does not answer; what was written so far stays, the next call writes the rest.
    """
    paths = [f"{field}.{token}" if token else field for token in tokens]
    with database_errors():
        keys, *values = dataset.values(["key", *paths])
        found = dict(zip(keys, zip(*values, strict=True), strict=True))
        changed = {key: cell.make() for key, cell in cells.items() if key in found and found[key] != cell.token}
        if changed:
            dataset.set_values(field, changed, key_field="key", dynamic=False)
    return len(changed)


def put_plain(dataset: Any, field: str, values: Mapping[str, Any]) -> int:
    """As `put`, of values that are their own tokens."""
    return put(dataset, field, {key: Cell((value,), partial(_same, value)) for key, value in values.items()})


def _same(value: Any) -> Any:
    return value


@contextmanager
def database_errors() -> Iterator[None]:
    """What the driver raises when mongod is gone, in the words of ours.

    Raises:
        ServiceError: mongod does not answer.
    """
    from pymongo.errors import PyMongoError

    try:
        yield
    except PyMongoError as error:
        reason = str(error).partition(",")[0]
        raise ServiceError(
            "mongod", f"{reason}; `saa services up fiftyone`, then run the same command again"
        ) from error
