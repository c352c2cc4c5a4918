"""The `lexical` generator: finds what words name by measuring it, with no weights.

A phrase means a set of attributes (lexicon.yaml: "crack" is a thin dark line), an attribute is a measured contrast
(attributes.py), and the phrase's evidence is the strongest of its attributes at each pixel. Words outside the lexicon
are reported and have no evidence of their own: such a phrase leaves the saliency map as it is. Boxes surround what
stands out in the saliency map fused with that evidence. It stands in for a text-prompted detector, and is not one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from importlib.resources import files

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from saa_core.generators.attributes import NAMES, Attributes
from saa_core.generators.base import Proposals, Request
from saa_core.language import fuse
from saa_core.regions import prominence, propose_boxes
from saa_core.types import RGB, FloatMap, Query

_VERSION = 1
STRENGTH_MAX = 16.0
"""Strength that evidence of 1 stands for; an unblemished surface has a strength of about 1."""
_POLAR = {name: (f"dark_{name}", f"bright_{name}") for name in ("line", "spot", "area")}
_SUFFIXES = {"ies": "y", "es": "", "s": "", "ed": "", "ing": "", "y": "", "ness": "", "age": "", "er": ""}


@dataclass(frozen=True, slots=True)
class PhraseMeaning:
    """What of a phrase can be measured.

    Attributes:
        attributes: Weight in (0, 1] of each attribute; empty where the phrase says nothing that can be measured.
        unknown: Words that the lexicon does not hold, in the order of the phrase.
    """

    attributes: Mapping[str, float]
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Quality:
    takes: frozenset[str]
    looks: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Lexicon:
    looks: Mapping[str, Mapping[str, float]]
    qualities: Mapping[str, _Quality]
    silent: frozenset[str]
    place: frozenset[str]
    spelling: Mapping[str, str]

    def find(self, word: str) -> str | None:
        """The table's form of a word: as it is, respelt, or without an ending; None if it is not in the table."""
        for form in _forms(word):
            form = self.spelling.get(form, form)
            if form in self.looks or form in self.qualities or form in self.silent or form in self.place:
                return form
        return None


def _table() -> str:
    return files("saa_core.generators").joinpath("lexicon.yaml").read_text(encoding="utf-8")


@cache
def _lexicon() -> _Lexicon:
    content = yaml.safe_load(_table())
    qualities = {
        str(word): _Quality(frozenset(_polar(dict.fromkeys(entry["not"], 1.0))), _polar(entry["looks"]))
        for word, entry in content["qualities"].items()
    }
    return _Lexicon(
        looks={str(word): _polar(weights) for word, weights in content["looks"].items()},
        qualities=qualities,
        silent=frozenset(f"{content['generic']} {content['filler']}".split()),
        place=frozenset(content["place"].split()),
        spelling=content["spelling"],
    )


def _polar(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights with the short forms line, spot and area written out for both polarities."""
    spread = {full: weight for name, weight in weights.items() for full in _POLAR.get(name, (name,))}
    return {**spread, **{name: weight for name, weight in weights.items() if name not in _POLAR}}


def parse_phrase(text: str) -> PhraseMeaning:
    """What a phrase means: its words' attributes, without what its adjectives take away.

    Args:
        text: Such as "broken glass" or "black scratch on the head"; case and punctuation do not matter.

    Example:
        >>> parse_phrase("cracks, of frobnication")
        PhraseMeaning(attributes={'dark_line': 1, 'bright_line': 0.3}, unknown=('frobnication',))
    """
    lexicon = _lexicon()
    found, unknown = _look_up(text, lexicon)
    takes = frozenset[str]().union(*(lexicon.qualities[word].takes for word in found if word in lexicon.qualities))
    looks = _strongest([lexicon.looks[word] for word in found if word in lexicon.looks], takes)
    if not looks:
        looks = _strongest([lexicon.qualities[word].looks for word in found if word in lexicon.qualities], takes)
    return PhraseMeaning(looks, tuple(unknown))


def _look_up(text: str, lexicon: _Lexicon) -> tuple[list[str], list[str]]:
    """Words of the table, up to the place if the phrase names one, and words outside it."""
    found: list[str] = []
    unknown: list[str] = []
    for word in _words(text, lexicon):
        form = lexicon.find(word)
        if form in lexicon.place:
            break
        if form is None:
            unknown.append(word)
        else:
            found.append(form)
    return found, unknown


def _words(text: str, lexicon: _Lexicon) -> Iterator[str]:
    """Words in lower case; a hyphenated one whole where the table holds it ("mouse-bite"), else its parts."""
    for token in re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", text.lower()):
        joined = token.replace("-", "")
        yield from [joined] if lexicon.find(joined) else token.split("-")


def _forms(word: str) -> Iterator[str]:
    yield word
    for suffix, replacement in _SUFFIXES.items():
        stem = word.removesuffix(suffix)
        if stem == word or len(stem) < 3:
            continue
        yield stem + replacement
        yield stem + "e"
        if stem[-1] == stem[-2]:
            yield stem[:-1]  # spotted, chipped


def _strongest(tables: Sequence[Mapping[str, float]], without: frozenset[str]) -> dict[str, float]:
    names = [name for name in NAMES if any(name in table for table in tables) and name not in without]
    return {name: max(table.get(name, 0.0) for table in tables) for name in names}


def strength(attributes: Attributes, meaning: PhraseMeaning) -> FloatMap:
    """How strongly each pixel looks as a phrase says: the largest weighted attribute.

    Returns:
        float32 (h, w), at least 0; about 1 where nothing is wrong, and 0 everywhere if the phrase has no attributes.
    """
    looks = [np.float32(weight) * attributes[name] for name, weight in meaning.attributes.items()]
    return np.maximum.reduce(looks) if looks else np.zeros(attributes.shape, np.float32)


def phrase_evidence(image: RGB, phrases: Sequence[str]) -> NDArray[np.float16]:
    """Dense evidence of each phrase.

    Returns:
        float16 (P, h, w) in [0, 1], `strength` / `STRENGTH_MAX`; a row of zeros says nothing. h x w is half the working
        size of the attributes, its field of view the image's.
    """
    attributes = Attributes(image)
    height, width = (side // 2 for side in attributes.shape)
    evidence = np.zeros((len(phrases), height, width), np.float16)
    for row, phrase in enumerate(phrases):
        looks = strength(attributes, parse_phrase(phrase))
        evidence[row] = np.minimum(cv2.resize(looks, (width, height), interpolation=cv2.INTER_AREA) / STRENGTH_MAX, 1)
    return evidence


class Lexical:
    """The generator."""

    name = "lexical"
    reads_set = True

    @cached_property
    def id(self) -> str:
        """Name, code version, and hash of the word table."""
        return f"lexical-{_VERSION}-{sha256(_table().encode()).hexdigest()[:12]}"

    def parts(self, query: Query) -> tuple[Query, ...]:
        """The query whole: its boxes surround what all phrases together make stand out."""
        return (query,)

    def __call__(self, requests: Sequence[Request]) -> list[Proposals]:
        """Boxes of the fused map, each phrase's score how far the box stands out in the map fused with it alone."""
        return [_propose(request.image, request.query.phrases, request.saliency) for request in requests]


def _propose(image: RGB, phrases: Sequence[str], saliency: FloatMap) -> Proposals:
    evidence = phrase_evidence(image, phrases)
    ones = np.ones(len(phrases), np.float32)
    size = image.shape[0], image.shape[1]
    boxes = propose_boxes(fuse(saliency, evidence, ones), size)
    scores = np.zeros((len(boxes), len(phrases)), np.float32)
    for column in range(len(phrases)):
        alone = fuse(saliency, evidence[column : column + 1], ones[:1])
        scores[:, column] = prominence(alone, boxes, size)
    unknown = dict.fromkeys(word for phrase in phrases for word in parse_phrase(phrase).unknown)
    return Proposals(boxes, scores, evidence, tuple(unknown))
