"""Words to attributes to regions, on images drawn for the purpose."""

import doctest
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from saa_core.generators import Proposals, Request, attributes, lexical
from saa_core.generators.attributes import NAMES, Attributes
from saa_core.generators.lexical import Lexical, parse_phrase, phrase_evidence
from saa_core.types import RGB, FloatMap, Query
from tests.contracts.generator import RegionGeneratorContract

FLAT = np.full((50, 75), 0.1, np.float32)


class TestLexicalIsAGenerator(RegionGeneratorContract):
    @pytest.fixture
    def generator(self) -> Lexical:
        return Lexical()


def ask(image: RGB, phrases: Sequence[str], saliency: FloatMap) -> Proposals:
    (found,) = Lexical()([Request(image, Query(tuple(phrases)), saliency)])
    return found


def surface(height: int = 200, width: int = 300, seed: int = 0) -> RGB:
    """Grey with some noise."""
    noise = np.random.default_rng(seed).normal(128, 4, (height, width, 1))
    return np.repeat(noise, 3, axis=2).clip(0, 255).astype(np.uint8)


# Where each drawing is, as slices of rows and columns of the surface.
PLACES = {
    "dark line": np.s_[40:60, 30:150],
    "bright line": np.s_[140:160, 30:150],
    "dark spot": np.s_[40:60, 200:220],
    "bright spot": np.s_[140:160, 200:220],
    "red stain": np.s_[80:120, 240:280],
    "blue stain": np.s_[80:120, 190:230],
}


def drawn() -> RGB:
    image = surface()
    cv2.line(image, (30, 45), (149, 55), (50, 50, 50), 2)
    cv2.line(image, (30, 155), (149, 145), (210, 210, 210), 2)
    cv2.circle(image, (210, 50), 4, (40, 40, 40), -1)
    cv2.circle(image, (210, 150), 4, (220, 220, 220), -1)
    cv2.ellipse(image, (260, 100), (18, 18), 0, 0, 360, (160, 110, 110), -1)
    cv2.ellipse(image, (210, 100), (18, 18), 0, 0, 360, (120, 122, 175), -1)
    return image


def strongest_place(evidence: NDArray[Any]) -> str:
    """The drawing that holds the most of the strongest pixels."""
    full = cv2.resize(evidence.astype(np.float32), (300, 200), interpolation=cv2.INTER_LINEAR)
    strong = full >= np.quantile(full, 0.999)
    return max(PLACES, key=lambda name: int(strong[PLACES[name]].sum()))


@pytest.mark.parametrize(
    ("phrase", "place"),
    [
        ("crack", "dark line"),
        ("black scratch", "dark line"),
        ("white scratches", "bright line"),
        ("bright hair", "bright line"),
        ("pinhole, dark", "dark spot"),
        ("holes", "dark spot"),
        ("white speck", "bright spot"),
        ("red mark", "red stain"),
        ("reddish-red", "red stain"),
        ("blue", "blue stain"),
    ],
)
def test_a_phrase_finds_what_it_names(phrase: str, place: str) -> None:
    assert strongest_place(phrase_evidence(drawn(), ["defect", phrase])[1]) == place


@pytest.mark.parametrize("phrase", ["rough", "frayed", "worn surface"])
def test_roughness_is_found(phrase: str) -> None:
    image = surface()
    image[60:120, 100:180] = np.random.default_rng(1).integers(60, 200, (60, 80, 1), np.uint8)
    evidence = phrase_evidence(image, [phrase])[0].astype(np.float32)
    rows, columns = np.nonzero(evidence >= np.quantile(evidence, 0.98))
    height, width = evidence.shape
    assert 55 / 200 < rows.min() / height < rows.max() / height < 125 / 200
    assert 95 / 300 < columns.min() / width < columns.max() / width < 185 / 300


def test_smoothness_and_blotches_are_found() -> None:
    image = np.random.default_rng(1).integers(90, 160, (200, 300, 1), np.uint8).repeat(3, axis=2)
    image[80:120, 120:180] = 125
    at = Attributes(image)
    row, column = np.unravel_index(at["smooth"].argmax(), at.shape)
    assert 80 / 200 < row / at.shape[0] < 120 / 200
    assert 120 / 300 < column / at.shape[1] < 180 / 300
    dented = surface()
    dented[70:130, 120:180] = np.clip(dented[70:130, 120:180].astype(int) - 25, 0, 255).astype(np.uint8)
    row, column = np.unravel_index(Attributes(dented)["blotch"].argmax(), at.shape)
    assert 60 / 200 < row / at.shape[0] < 140 / 200
    assert 110 / 300 < column / at.shape[1] < 190 / 300


def test_regions_score_highest_for_the_phrase_that_names_them() -> None:
    phrases = ["anomaly", "crack", "white speck", "red stain", "blue stain"]
    found = ask(drawn(), phrases, FLAT)
    assert 5 <= len(found.boxes) <= 30
    assert found.scores.shape == (len(found.boxes), 5)
    assert found.scores.min() >= 0
    assert found.scores.max() <= 1
    for phrase, (x, y) in {"crack": (90, 50), "white speck": (210, 150)}.items():
        holding = [i for i, (x0, y0, x1, y1) in enumerate(found.boxes) if x0 <= x < x1 and y0 <= y < y1]
        best = max(holding, key=lambda i: found.scores[i].max())
        assert phrases[found.scores[best].argmax()] == phrase
    assert found.evidence is not None
    assert found.evidence.dtype == np.float16
    assert not found.evidence[0].any()
    assert found.unknown_words == ()


def test_saliency_alone_proposes_for_generic_phrases() -> None:
    saliency = FLAT.copy()
    saliency[20:30, 30:45] = 0.9
    found = ask(surface(), ["defect", "frobnication"], saliency)
    x0, y0, x1, y1 = found.boxes[0]
    assert (x0, y0, x1, y1) == pytest.approx((120, 80, 180, 120), abs=12)
    assert found.scores[0, 0] == found.scores[0, 1] > 0.5
    assert found.unknown_words == ("frobnication",)


def test_unknown_words_are_reported_once_and_the_rest_of_the_phrase_counts() -> None:
    meaning = parse_phrase("Frobnicated crack")
    assert meaning.unknown == ("frobnicated",)
    assert meaning.attributes == parse_phrase("crack").attributes
    assert parse_phrase("frobnication").attributes == {}
    found = ask(surface(60, 60), ["gizmo crack", "gizmo", "wodget"], FLAT)
    assert found.unknown_words == ("gizmo", "wodget")


@pytest.mark.parametrize(
    ("variant", "plain"),
    [
        ("Cracks", "crack"),
        ("cracked", "crack"),
        ("scratches", "scratch"),
        ("scraping", "scrape"),
        ("chipped", "chip"),
        ("spotty", "spot"),
        ("cavities", "cavity"),
        ("discolouration", "discolored"),
        ("colour", "color"),
        ("grey fibres", "gray fiber"),
        ("blow-hole", "blowhole"),
        ("mouse-bites", "mousebite"),
        ("rust-stain", "rust stain"),
        ("scratch on the black head", "scratch"),
        ("torn", "tear"),
        ("roughness", "rough"),
        ("a small hole.", "hole"),
        ("breakage", "break"),
    ],
)
def test_words_in_other_forms_mean_the_same(variant: str, plain: str) -> None:
    meaning = parse_phrase(variant)
    assert meaning == parse_phrase(plain)
    assert meaning.attributes
    assert meaning.unknown == ()


@pytest.mark.parametrize(
    "phrase", ["anomaly", "defects", "flaw", "several defects", "the faulty part", "", "  ", "123 %"]
)
def test_generic_words_are_known_and_say_nothing(phrase: str) -> None:
    assert parse_phrase(phrase) == lexical.PhraseMeaning({}, ())


def test_adjectives_take_away_and_stand_in() -> None:
    assert "bright_line" in parse_phrase("scratch").attributes
    assert "bright_line" not in parse_phrase("dark scratch").attributes
    assert parse_phrase("white crack").attributes == {"bright_line": 0.3}
    assert parse_phrase("dark defect").attributes == {"dark_spot": 0.7, "dark_area": 1}
    assert parse_phrase("tiny dent").attributes.keys() == {"dark_spot", "bright_spot"}


def test_the_table_names_attributes_that_exist_with_weights_that_make_sense() -> None:
    table = lexical._lexicon()
    looks = [*table.looks.values(), *(quality.looks for quality in table.qualities.values())]
    assert len(table.looks) > 180
    for weights in looks:
        assert weights
        assert set(weights) <= set(NAMES)
        assert all(0 < weight <= 1 for weight in weights.values())
    assert all(quality.takes <= set(NAMES) for quality in table.qualities.values())
    known = table.looks.keys() | table.qualities.keys() | table.silent | table.place
    assert set(table.spelling.values()) <= known
    assert not set(table.spelling) & known


def test_the_same_image_gives_the_same_proposals() -> None:
    phrases = ["crack", "red stain", "rough"]
    first, second = (ask(drawn(), phrases, FLAT) for _ in range(2))
    np.testing.assert_array_equal(first.boxes, second.boxes)
    np.testing.assert_array_equal(first.scores, second.scores)
    assert first.evidence is not None
    assert second.evidence is not None
    np.testing.assert_array_equal(first.evidence, second.evidence)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 3), (7, 900), (64, 64)])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_small_and_constant_images_have_no_regions(shape: tuple[int, int], value: int) -> None:
    image = np.full((*shape, 3), value, np.uint8)
    at = Attributes(image)
    assert all(np.isfinite(at[name]).all() and at[name].min() >= 0 for name in NAMES)
    found = ask(image, ["crack", "stain", "rough", "defect"], np.full((4, 4), 0.2, np.float32))
    assert found.boxes.shape == (0, 4)
    assert found.scores.shape == (0, 4)
    assert found.evidence is not None
    assert np.isfinite(found.evidence).all()


def test_no_phrase_is_no_evidence() -> None:
    found = ask(drawn(), [], FLAT)
    assert found.evidence is not None
    assert found.evidence.shape[0] == 0
    assert found.scores.shape[1] == 0


def test_contrast_does_not_depend_on_the_photographs_size() -> None:
    image = drawn()
    larger = cv2.resize(image, (900, 600), interpolation=cv2.INTER_CUBIC)
    small, large = (phrase_evidence(i.astype(np.uint8), ["crack"])[0].astype(np.float32) for i in (image, larger))
    assert small.shape == large.shape
    assert np.corrcoef(small.ravel(), large.ravel())[0, 1] > 0.95


def test_an_attribute_that_does_not_exist_is_refused() -> None:
    with pytest.raises(KeyError):
        Attributes(surface(20, 20))["beauty"]


@pytest.mark.parametrize("name", ["dark_line", "bright_line"])
def test_lines_need_length(name: str) -> None:
    """A line of 120 pixels is a better line than a spot of the same width and contrast."""

    def best(at: Attributes, place: tuple[slice, slice]) -> float:
        map_: FloatMap = cv2.resize(at[name], (300, 200))
        return float(map_[place].max())

    at = Attributes(drawn())
    colour = name.split("_")[0]
    assert best(at, PLACES[f"{colour} line"]) > 1.5 * best(at, PLACES[f"{colour} spot"])


def test_examples() -> None:
    assert doctest.testmod(attributes).failed == 0
    assert doctest.testmod(lexical).failed == 0
