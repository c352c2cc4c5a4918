from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrations.splits import Split
from saa_core.errors import SettingsError


def test_the_shares_of_many_lots() -> None:
    counts = Counter(Split(70, 20, 10).part_of(f"lot {number}") for number in range(5000))
    assert {part: round(count / 50) for part, count in counts.items()} == {"train": 70, "val": 20, "test": 10}


def test_a_lot_stays_where_it_is_for_good() -> None:
    """These are promises to data sets that were written before: never change them."""
    parts = [Split().part_of(f"lot {number}") for number in range(12)]
    assert parts == ["train", "train", "train", "val", "test", "train", "train", "train", "train", "val", "test", "val"]


@given(st.text(), st.integers(0, 100))
def test_a_larger_share_only_takes_from_others(lot: str, train: int) -> None:
    before, after = Split(train, 100 - train, 0).part_of(lot), Split(100, 0, 0).part_of(lot)
    assert after == "train"
    assert before in ("train", "val")


def test_text_and_back() -> None:
    assert str(Split.parse("60/30/10")) == "60/30/10"
    assert Split.parse("100/0/0") == Split(100, 0, 0)


@pytest.mark.parametrize("text", ["80/10", "80/10/20", "a/b/c", "80/10/10/0", "-1/100/1", "", "33.3/33.3/33.4"])
def test_what_is_no_split(text: str) -> None:
    with pytest.raises(SettingsError, match="100 together"):
        Split.parse(text)
