"""Reviews that no refinement has seen, and when there are enough of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from integrations.backlog import is_enough, note_seen, waiting
from integrations.catalog import Catalog


def test_what_came_meanwhile_waits_for_the_next(tmp_path: Path) -> None:
    with Catalog(f"sqlite:///{tmp_path}/catalog.sqlite") as catalog:
        assert waiting(catalog, "plate") == 0
        note_seen(catalog, "plate", 0)
        assert waiting(catalog, "plate") == 0
        note_seen(catalog, "plate", -3)  # as if three had come since
        assert waiting(catalog, "plate") == 3
        assert waiting(catalog, "cap") == 0


@given(batches=st.lists(st.integers(1, 25), max_size=30), step=st.integers(1, 12))
def test_it_is_asked_once_for_each_step_at_most_and_never_too_late(batches: Sequence[int], step: int) -> None:
    backlog = asked = 0
    for new in batches:
        backlog += new
        asked += is_enough(backlog, new, step)
    assert asked <= backlog // step
    assert (asked > 0) == (backlog >= step)
