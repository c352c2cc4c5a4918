"""What may be tried: break points that miss nothing, kinds of phrases, settings that are the same for the same seed."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saa_core.prompts import LanguagePrompt, Phrase, PromptBundle
from saa_core.refinement.evidence import LEVELS, ImageEvidence
from saa_core.refinement.judge import Judge
from saa_core.refinement.knobs import Knobs
from saa_core.refinement.menu import Menu
from saa_core.refinement.objective import Tally
from tests.saa_core.refinement.squares import BUNDLE, Found, image, plates, sets

SCORES = st.integers(0, 20).map(lambda level: level / 20)
CANDIDATES = st.lists(st.tuples(st.integers(0, 24), SCORES, SCORES, SCORES), max_size=4, unique_by=lambda each: each[0])


def menu(images: Sequence[ImageEvidence], bundle: PromptBundle = BUNDLE, seed: int = 0, trials: int = 4) -> Menu:
    return Menu.of(bundle, images, (bundle.saliency.neighbours,), seed, trials)


def objectives(images: Sequence[ImageEvidence], bundle: PromptBundle, knobs: Sequence[Knobs]) -> list[float]:
    judge = Judge(bundle, sets(images, bundle))
    tally = Tally(judge.images, judge.labels)
    return [float(value) for value in tally.objective(judge.counts(knobs), np.ones(len(images)))]


@given(
    st.lists(CANDIDATES, min_size=1, max_size=4),
    st.sampled_from(["threshold", "score_floor", "region_floor", "area_min", "area_max"]),
    st.sampled_from([0.5, 1.0]),
)
def test_no_value_between_the_break_points_is_better(
    pictures: list[list[tuple[int, float, float, float]]], name: str, weight: float
) -> None:
    language = LanguagePrompt(agnostic=tuple(Phrase(text=text, weight=weight) for text in BUNDLE.texts))
    bundle = BUNDLE.changed(language=language.model_dump(), confidence={"top_k": None}, saliency={"gain": 0.0})
    images = [
        image(str(number), [Found(slot, scores) for slot, *scores in each], {3: "scratch"}, bundle=bundle)  # type: ignore[arg-type]
        for number, each in enumerate(pictures)
    ]
    own = Knobs.of(bundle)
    tried = [own._replace(**{name: value}) for value in menu(images, bundle).sweeps[name]]
    fine = [own._replace(**{name: value}) for value in (np.arange(1, 400) / 400).tolist()]
    assert max(objectives(images, bundle, tried)) >= max(objectives(images, bundle, fine))


def test_break_points_are_thinned_out_evenly() -> None:
    images = [image(str(number), [Found(0, (number / 100, 0, 0))]) for number in range(1, 100)]
    points = menu(images).sweeps["score_floor"]
    assert points[0] == 0
    assert len(points) == 25
    assert (points[1], points[-1]) == (0.005, 0.985)
    assert np.diff(points[1:]).max() < 0.06


def test_an_area_limit_of_nothing_is_never_tried() -> None:
    points = menu(plates()).sweeps["area_max"]
    assert points[-1] == math.inf
    assert min(points) > 0


def test_without_candidates_the_map_may_stay_cut_where_it_is() -> None:
    assert menu([image("a")]).sweeps["threshold"] == (BUNDLE.decision.threshold,)


def test_the_dense_map_is_cut_at_its_levels() -> None:
    bundle = BUNDLE.changed(confidence={"map": "dense"})
    images = plates(2, 2, bundle=bundle)
    assert menu(images, bundle).sweeps["threshold"] == tuple(LEVELS[1::4].tolist())


def test_the_map_of_regions_is_never_cut_above_one() -> None:
    images = [image("a", [Found(0, (1, 0, 0)), Found(1, (0.9, 0, 0))], saliency=0.5)]
    points = menu(images).sweeps["threshold"]
    assert len(points) > 1
    assert 0 < min(points) < max(points) <= 1


def test_neighbours_are_swept_where_there_is_a_choice() -> None:
    images = [image("a", [Found(0, (0.5, 0, 0))], views=2)]
    own = BUNDLE.saliency.neighbours
    both = Menu.of(BUNDLE, images, (100, own), 0, 8)
    assert both.sweeps["neighbours"] == (100, own)
    assert {setting["neighbours"] for setting in both.coupled} == {100, own}
    assert "neighbours" not in menu(images).sweeps


def test_a_text_that_is_of_both_kinds_is_specific() -> None:
    language = {"agnostic": [{"text": "defect"}, {"text": "scratch"}], "specific": [{"text": "scratch"}]}
    bundle = BUNDLE.changed(language=language)
    found = menu([image("a", bundle=bundle)], bundle)
    assert found.agnostic == (bundle.texts.index("defect"),)
    assert found.specific == (bundle.texts.index("scratch"),)


def test_correlation_is_that_of_the_scores() -> None:
    images = [image(str(number), [Found(0, (0.1 * number, 0.05 * number, 0.5))]) for number in range(5)]
    expected = [[1, 1, 0], [1, 1, 0], [0, 0, 1]]  # what never varies is like nothing else
    assert menu(images).correlation.tolist() == expected
    assert menu([image("a")]).correlation.tolist() == np.eye(3).tolist()


def test_coupled_settings_depend_on_the_seed_alone() -> None:
    first, again, other = (menu(plates(), seed=seed, trials=32).coupled for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert len(first) == 32


def test_coupled_settings_are_spread_over_what_bundles_allow() -> None:
    settings = menu(plates(), trials=64).coupled
    for name, lowest, highest in (("gain", 0, 8), ("suppression", 0.1, 1), ("region_floor", 0, 0.8)):
        values = [setting[name] for setting in settings]
        assert lowest <= min(values) < lowest + 0.2 * highest
        assert 0.8 * highest < max(values) <= highest
    assert {setting["top_k"] for setting in settings} == {1, 2, 3, 5, 8, 12}


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_images_changes_nothing(seed: int) -> None:
    images = plates()
    mixed = [images[place] for place in np.random.default_rng(seed).permutation(len(images))]
    one, other = menu(images), menu(mixed)
    assert one.sweeps == other.sweeps
    assert one.correlation.tolist() == other.correlation.tolist()
