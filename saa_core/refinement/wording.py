"""Phrases in what people write: split, cleaned, compared.

English, as the models are; words of other languages pass as they are. Nothing here knows what a word means.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

COLOURS = ("black", "white", "dark", "bright", "red", "yellow", "brown", "blue", "green", "orange", "purple", "gray")
SHAPES = ("small", "large", "round", "thin", "long", "curved", "jagged", "irregular")
MOST_WORDS = 5
"""A text of more words is a remark, not a phrase."""
MOST_LETTERS = 60


def _words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ATTRIBUTES = {*COLOURS, *SHAPES} | _words_of("grey light pale shiny tiny little big huge short wide deep fine")
_NOUN_WORDS = 2
_STATES = _words_of("broken bent torn worn burnt missing open loose dirty rough uneven wet oily rusty dusty")
_STATE_ENDING = re.compile(r"[^e]ed$")  # scratched, not bleed
_PLACES = _words_of("on in at near inside outside around along across under below above over beside behind")
_LINKS = _PLACES | _words_of("of with without from to by between")
_STOP = _words_of(
    "a an the this that these those some any several many there here it its is are was were be been has have i we "
    "maybe perhaps probably possibly likely very quite really just also please see looks seems like mm cm px"
)
_SAYS_OTHERWISE = _words_of("no not none nothing never ok okay good normal false unsure annotation polygon prediction")
"""Such a text calls the image good or talks about the labeling; a model would look for what is denied."""
_CONJUNCTIONS = frozenset(("and", "or"))
_BETWEEN_PHRASES = re.compile(r"[.,;:/|&+\n、。]")

Key = frozenset[str]


def phrases_in(text: str) -> list[str]:
    """The phrases that a text holds.

    Args:
        text: As somebody wrote it; punctuation, "and" and "or" separate phrases.

    Returns:
        In lower case, without stop words, digits and punctuation, each a valid `saa_core.prompts.Phrase` and a fixed
        point of this function. Not among them: what denies a defect, what talks about the labeling, remarks.

    Example:
        >>> phrases_in("3 Scratches on the rim, a black hole. No cracks.")
        ['scratches on rim', 'black hole']
    """
    parts = (part for piece in _BETWEEN_PHRASES.split(_normal(text)) for part in _split(_words(piece)))
    return [phrase for phrase in map(_clean, parts) if phrase]


def key(text: str) -> Key:
    """What tells phrases apart: their words in the singular, in any order and case."""
    return frozenset(map(_singular, _words(_normal(text))))


def noun(phrase: str) -> str:
    """What a cleaned phrase calls the defect, without leading attributes and without the place.

    Returns:
        At most two words; empty if there is no such noun or if it is a state ("broken"), not a thing.

    Example:
        >>> noun("small black hole on rim"), noun("black broken")
        ('hole', '')
    """
    words = phrase.split()
    words = words[: next((index for index, word in enumerate(words) if word in _PLACES), len(words))]
    while words and words[0] in _ATTRIBUTES:
        words = words[1:]
    if not words or len(words) > _NOUN_WORDS or words[-1] in _STATES or _STATE_ENDING.search(words[-1]):
        return ""
    return " ".join(words)


def _normal(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower()).replace("’", "'")


def _words(normal: str) -> Iterator[str]:
    """Letters and their marks, in any script; hyphens and apostrophes inside a word stay."""
    letters = (c if c in "-'" or unicodedata.category(c)[0] in "LM" else " " for c in normal)
    return filter(None, (token.strip("-'") for token in "".join(letters).split()))


def _split(words: Iterable[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word in _CONJUNCTIONS:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _clean(words: list[str]) -> str:
    """The phrase that these words are, empty if they are none."""
    if any(word in _SAYS_OTHERWISE or word.endswith("n't") for word in words):
        return ""
    kept = [word for word in words if word not in _STOP]
    while kept and kept[0] in _LINKS:
        kept = kept[1:]
    while kept and kept[-1] in _LINKS:
        kept = kept[:-1]
    phrase = " ".join(kept)
    return phrase if len(kept) <= MOST_WORDS and 2 <= len(phrase) <= MOST_LETTERS else ""


def _singular(word: str) -> str:
    """English nouns in -s; what it makes of other words does not matter, as long as it is always the same."""
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "zes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) else word
