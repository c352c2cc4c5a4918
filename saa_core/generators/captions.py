"""Captions of a text-prompted detector, and which of their tokens each phrase owns.

Text as in the authors' released program: lower case, stripped, closed by '.'; phrases of one caption stand between '.'.
A phrase's tokens are told by their place in the text, never by decoding them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from saa_core.types import BoolMask

if TYPE_CHECKING:
    from transformers import BertTokenizerFast

LONGEST = 256
"""Tokens of a caption at most, its [CLS] and [SEP] included, as GroundingDINO was trained."""
_REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class Caption:
    """A text for one pass of the detector.

    Attributes:
        text: As the tokenizer reads it; empty where no phrase has words.
        tokens: Ids of its L tokens, [CLS] first and [SEP] last.
        spans: For each phrase the places of its tokens among the L, without separators and without unknown tokens;
            empty where the phrase has none.
        unknown: Words of the phrases that consist of unknown tokens only, each once.
    """

    text: str
    tokens: tuple[int, ...]
    spans: tuple[tuple[int, ...], ...]
    unknown: tuple[str, ...]


class Captions:
    """Writes captions and reads their tokens; remembers the last ones. Threads may share it.

    Args:
        tokenizer: A fast tokenizer of BERT's, uncased.
    """

    def __init__(self, tokenizer: BertTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._lock = Lock()  # a fast tokenizer refuses a second thread
        self._silent = {tokenizer.unk_token_id, *tokenizer.convert_tokens_to_ids([".", ","])}
        self.write = lru_cache(_REMEMBERED)(self._write)
        self._length = lru_cache(_REMEMBERED)(self._tokens_of)

    def _write(self, phrases: tuple[str, ...]) -> Caption:
        """The caption of phrases that share it; more than `LONGEST` tokens are cut off."""
        cleaned = [clean(phrase) for phrase in phrases]
        text = caption_text(cleaned)
        with self._lock:
            encoded = self._tokenizer(text, truncation=True, max_length=LONGEST, return_offsets_mapping=True)
        tokens, places = encoded["input_ids"], encoded["offset_mapping"]
        own = [slot for slot, (start, end) in enumerate(places) if start < end and tokens[slot] not in self._silent]
        ranges = _ranges(cleaned)
        spans = [tuple(slot for slot in own if low <= places[slot][0] < high) for low, high in ranges]
        return Caption(text, tuple(tokens), tuple(spans), self._unknown(phrases))

    def _unknown(self, phrases: Sequence[str]) -> tuple[str, ...]:
        words = dict.fromkeys(word for phrase in phrases for word in phrase.split())
        return tuple(word for word in words if {self._tokenizer.unk_token}.issuperset(self._tokenize(word.lower())))

    def _tokenize(self, text: str) -> list[str]:
        with self._lock:
            return list(self._tokenizer.tokenize(text))

    def _tokens_of(self, phrase: str) -> int:
        return len(self._tokenize(clean(phrase)))

    def groups(self, phrases: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """Phrases in captions of at most `LONGEST` tokens: as few as their order allows, no phrase cut in two."""
        group: list[str] = []
        room = LONGEST - 2
        for phrase in phrases:
            length = self._length(phrase) + 1  # and its '.'
            if group and length > room:
                yield tuple(group)
                group, room = [], LONGEST - 2
            group.append(phrase)
            room -= length
        if group:
            yield tuple(group)

    def saying(self, words: str, caption: Caption, fired: BoolMask) -> BoolMask:
        """Which boxes a caption's tokens describe with certain words, as the released program tells background.

        Args:
            words: What the description must contain to count; lower case.
            caption: The caption.
            fired: bool (n, L): the tokens that describe each box.

        Returns:
            bool (n,): the words are in the text that the box's tokens, in their order, decode to.
        """
        patterns, pattern_of = np.unique(fired, axis=0, return_inverse=True)
        tokens = np.array(caption.tokens)
        with self._lock:
            said = [words in self._tokenizer.decode(tokens[pattern]) for pattern in patterns]
        return np.array(said, bool)[pattern_of.reshape(-1)]


def clean(phrase: str) -> str:
    """A phrase as it stands in a caption, without the '.' that closes it.

    >>> clean(" White print. ")
    'white print'
    """
    return phrase.lower().strip().rstrip(".").rstrip()


def caption_text(cleaned: Sequence[str]) -> str:
    """The text of cleaned phrases; empty where none has words.

    >>> caption_text(["crack", "", "white print"])
    'crack. white print.'
    """
    return ". ".join(filter(None, cleaned)) + "." if any(cleaned) else ""


def _ranges(cleaned: Sequence[str]) -> Iterator[tuple[int, int]]:
    """First and last character, exclusive, of each phrase in the text of all."""
    place = 0
    for phrase in cleaned:
        yield place, place + len(phrase)
        place += len(phrase) + 2 if phrase else 0
