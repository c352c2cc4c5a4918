"""What becomes of the texts that people write: which phrases they hold, and when two phrases are one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saa_core.prompts import Phrase
from saa_core.refinement.wording import MOST_LETTERS, MOST_WORDS, key, noun, phrases_in

PIECES = (
    "Scratch scratches, a the black hole holes; and or on of RIM no isn't 3 0.5 mm worn-out 'tis' İ ﬁbre Kratzer "
    "क्षति 划痕、 black_hole -and- ed"
)
WRITTEN = st.text() | st.lists(st.sampled_from(PIECES.split(" ")), max_size=9).map(" ".join)


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("Scratch", ["scratch"]),
        ("there is a small scratch", ["small scratch"]),
        ("scratch, dent; hole/chip", ["scratch", "dent", "hole", "chip"]),
        ("scratch and dent or hole", ["scratch", "dent", "hole"]),
        ("Scratches. Dents.", ["scratches", "dents"]),
        ("black_hole", ["black hole"]),
        ("scratch2, 3 dents, 0.5 mm", ["scratch", "dents"]),
        ("scratch on the rim", ["scratch on rim"]),
        ("on the rim, made of", ["rim", "made"]),
        ("worn-out 'thread'", ["worn-out thread"]),
        ("scratch (deep)", ["scratch deep"]),
        ("划痕、凹陷", ["划痕", "凹陷"]),
        ("ＤＥＮＴ，ﬁbre", ["dent", "fibre"]),
        ("no scratch, it isn’t a dent, image is good, hole", ["hole"]),
        ("the annotation is too big", []),
        ("x", []),
        ("  ", []),
        ("of the", []),
    ],
)
def test_phrases_in_a_text(text: str, phrases: list[str]) -> None:
    assert phrases_in(text) == phrases


def test_a_remark_is_no_phrase() -> None:
    longest = " ".join(["dent"] * MOST_WORDS)
    assert phrases_in(longest) == [longest]
    assert phrases_in(f"{longest} dent") == []
    assert phrases_in("d" * MOST_LETTERS) == ["d" * MOST_LETTERS]
    assert phrases_in("d" * (MOST_LETTERS + 1)) == []


@given(WRITTEN)
def test_what_comes_out_is_a_phrase_that_comes_out_again(text: str) -> None:
    for phrase in phrases_in(text):
        assert Phrase(text=phrase).text == phrase
        assert phrases_in(phrase) == [phrase]
        assert key(phrase)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("scratch", "Scratches"),
        ("hole", "holes"),
        ("cavity", "cavities"),
        ("box", "boxes"),
        ("glass", "glasses"),
        ("crease", "creases"),
        ("round black hole", "black round holes"),
        ("metal_nut", "metal nuts 2"),
    ],
)
def test_one_phrase_in_two_forms(one: str, other: str) -> None:
    assert key(one) == key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("strip", "stripe"), ("scratch", "scratch on rim"), ("rus", "rust"), ("black hole", "white hole"), ("pi", "pies")],
)
def test_two_phrases(one: str, other: str) -> None:
    assert key(one) != key(other)


@pytest.mark.parametrize(
    ("phrase", "name"),
    [
        ("hole", "hole"),
        ("small black hole on rim", "hole"),
        ("wick hole", "wick hole"),
        ("bleed", "bleed"),
        ("broken part", "broken part"),
        ("broken", ""),
        ("very scratched", ""),
        ("black", ""),
        ("on rim", ""),
        ("loss of paint", ""),
    ],
)
def test_noun_of_a_phrase(phrase: str, name: str) -> None:
    assert noun(phrase) == name
