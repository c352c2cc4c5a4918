"""Captions: their text, the tokens each phrase owns, and how many phrases share one."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saa_core.generators.captions import LONGEST, Captions, clean
from saa_core.generators.grounding_model import tokenizer
from tests.foundation import WORDS, words_folder

KNOWN = [word for word in WORDS if word.isalpha()]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tokenizer(words_folder(tmp_path_factory.mktemp("words")), len(WORDS))


@pytest.fixture(scope="module")
def captions(words: Any) -> Captions:
    return Captions(words)


def tokens_of(captions: Captions, words: Any, *phrases: str) -> list[list[str]]:
    """The tokens that each phrase owns."""
    caption = captions.write(phrases)
    return [words.convert_ids_to_tokens([caption.tokens[slot] for slot in span]) for span in caption.spans]


class TestText:
    @pytest.mark.parametrize(
        ("phrases", "text"),
        [
            (("Defect on Bottle",), "defect on bottle."),
            (("defect.",), "defect."),
            ((" crack ", "white print. "), "crack. white print."),
            (("crack", " ", "hole"), "crack. hole."),
            (("", "."), ""),
        ],
    )
    def test_is_as_in_the_released_program(self, captions: Captions, phrases: tuple[str, ...], text: str) -> None:
        assert captions.write(phrases).text == text

    def test_begins_and_ends_with_the_models_own_tokens(self, captions: Captions, words: Any) -> None:
        tokens = captions.write(("crack", "hole")).tokens
        assert words.convert_ids_to_tokens(list(tokens)) == ["[CLS]", "crack", ".", "hole", ".", "[SEP]"]


class TestSpans:
    def test_a_phrase_owns_its_words_and_no_separator(self, captions: Captions, words: Any) -> None:
        assert tokens_of(captions, words, "defect on bottle") == [["defect", "on", "bottle"]]
        assert tokens_of(captions, words, "dark, long crack") == [["dark", "long", "crack"]]

    def test_phrases_of_one_caption_own_tokens_of_their_own(self, captions: Captions, words: Any) -> None:
        expected = [["white", "print"], ["crack"], ["black", "hole", "##s"]]
        assert tokens_of(captions, words, "White print", "crack", "black holes") == expected

    def test_a_word_in_two_phrases_belongs_to_each_where_it_stands(self, captions: Captions) -> None:
        assert captions.write(("black hole", "hole", "hole")).spans == ((1, 2), (4,), (6,))

    def test_letters_that_the_tokenizer_changes_do_not_shift_the_next_phrase(
        self, captions: Captions, words: Any
    ) -> None:
        # Accents are stripped, a dotted capital I is two letters in lower case, and a zero-width space is no letter.
        assert tokens_of(captions, words, "cräck", "\u0130 hole\u200b", "spot") == [["crack"], ["hole"], ["spot"]]

    def test_other_marks_count_as_words(self, captions: Captions, words: Any) -> None:
        assert tokens_of(captions, words, "black-white") == [["black", "-", "white"]]

    @given(st.lists(st.lists(st.sampled_from([*KNOWN, "holes", "☃", "-", ","]), max_size=4), min_size=1, max_size=6))
    def test_each_phrase_owns_what_it_has_alone(self, captions: Captions, words: Any, phrases: list[list[str]]) -> None:
        texts = [" ".join(phrase) for phrase in phrases]
        alone = [tokens_of(captions, words, text)[0] for text in texts]
        assert tokens_of(captions, words, *texts) == alone


class TestUnknownWords:
    def test_are_those_of_unknown_tokens_only_each_once(self, captions: Captions) -> None:
        caption = captions.write(("Frobnicated crack", "frob holes", "frob"))
        assert caption.unknown == ("Frobnicated", "frob")

    @pytest.mark.parametrize("phrase", ["", " ", ".", "\u200b", "☃ frob"])
    def test_a_phrase_without_known_words_owns_nothing(self, captions: Captions, phrase: str) -> None:
        caption = captions.write(("crack", phrase))
        assert caption.spans == ((1,), ())
        assert set(caption.unknown) == set(phrase.split()) - {"."}


class TestGroups:
    def test_few_phrases_share_one_caption(self, captions: Captions) -> None:
        assert list(captions.groups(("crack", "hole", "spot"))) == [("crack", "hole", "spot")]
        assert list(captions.groups(())) == []

    def test_300_phrases_take_as_few_captions_as_hold_them(self, captions: Captions) -> None:
        phrases = [f"{KNOWN[i % len(KNOWN)]} {KNOWN[i // len(KNOWN)]} holes" for i in range(300)]
        groups = list(captions.groups(phrases))
        lengths = [len(captions.write(group).tokens) for group in groups]
        assert [phrase for group in groups for phrase in group] == phrases
        assert max(lengths) <= LONGEST
        assert len(groups) == -(-300 * 5 // (LONGEST - 2))

    def test_a_caption_may_be_exactly_as_long_as_allowed(self, captions: Captions) -> None:
        phrases = ("crack",) * 127
        assert [len(group) for group in captions.groups(phrases)] == [127]
        assert len(captions.write(phrases).tokens) == LONGEST
        assert [len(group) for group in captions.groups((*phrases, "hole"))] == [127, 1]

    def test_a_phrase_longer_than_a_caption_stands_alone_and_is_cut_off(self, captions: Captions) -> None:
        long = " ".join(["crack"] * 400)
        assert list(captions.groups(("hole", long, "spot"))) == [("hole",), (long,), ("spot",)]
        caption = captions.write((long,))
        assert len(caption.tokens) == LONGEST
        assert caption.spans == (tuple(range(1, LONGEST - 1)),)


class TestSaying:
    def test_words_are_read_from_the_tokens_in_their_order(self, captions: Captions) -> None:
        caption = captions.write(("defect on bottle",))
        fired = np.zeros((5, len(caption.tokens)), bool)
        fired[0, [1, 2, 3]] = fired[1, 3] = fired[2, [0, 1]] = fired[3, [1, 3]] = True
        assert captions.saying("bottle", caption, fired).tolist() == [True, True, False, True, False]
        assert captions.saying("defect bottle", caption, fired).tolist() == [False, False, False, True, False]
        assert captions.saying("bottle", caption, fired[:0]).tolist() == []


def test_threads_share_one_tokenizer(words: Any) -> None:
    captions = Captions(words)
    phrases = [(f"{first} {second}", third) for first in KNOWN[:8] for second in KNOWN[:8] for third in KNOWN[:3]]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(captions.write, phrases))
    assert together == [Captions(words).write(each) for each in phrases]


def test_clean_is_idempotent() -> None:
    for phrase in (" A. ", "x..", "no. 5", "..", ""):
        assert clean(clean(phrase)) == clean(phrase)


def test_the_real_vocabulary_has_no_unknown_words(shared: Path) -> None:
    vocabulary = shared / "weights" / "bert-base-uncased-vocab.txt"
    if not vocabulary.is_file():
        pytest.skip("needs the vocabulary of bert-base-uncased in ../shared/weights")
    from transformers import BertTokenizerFast

    real = BertTokenizerFast(vocab_file=str(vocabulary))
    captions = Captions(real)
    assert captions.write(("frobnicated wick", "chewinggum")).unknown == ()
    assert tokens_of(captions, real, "metal_nut")[0] == ["metal", "_", "nut"]
    assert captions.write(("\u2603",)).unknown == ("\u2603",)
