"""A refinement: better bundles pass, others do not, thin evidence has a name, and nothing depends on any order."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from saa_core.prompts import PromptBundle
from saa_core.refinement.effort import DEFAULT
from saa_core.refinement.evidence import ImageEvidence
from saa_core.refinement.guard import hold_out
from saa_core.refinement.judge import EvidenceSet
from saa_core.refinement.outcome import EvidenceSummary, Refinement, Trial
from saa_core.refinement.refine import Question, Wider, refine
from tests.saa_core.refinement.squares import BUNDLE, Found, image, plates, sets

Images = Sequence[ImageEvidence]
RIGHT = Found(12, (0.5, 0.7, 0.2))


def question(**given: Any) -> Question:
    return Question(
        **{
            "product": "plate",
            "champion": BUNDLE,
            "first": True,
            "effort": DEFAULT,
            "budget": 128,
            "resamples": 12,
            **given,
        }
    )


def summary(images: Images) -> EvidenceSummary:
    return EvidenceSummary(
        hash="0123456789abcdef",
        defective=sum(not each.good for each in images),
        good=sum(each.good for each in images),
        undrawn=0,
        lots=len({each.lot for each in images}),
        held_out=0,
        regions=sum(len(each.labels) for each in images),
    )


def held_out(images: Images) -> dict[str, bool]:
    lots = dict.fromkeys((each.lot for each in images), False)
    return hold_out("plate", {}, lots | {each.lot: True for each in images if not each.good})


def refined(
    images: Images,
    asked: Question | None = None,
    held: Mapping[str, bool] | None = None,
    wider: Wider | None = None,
    parts: Sequence[EvidenceSet] | None = None,
) -> Refinement:
    known = held_out(images) if held is None else held
    return refine(asked or question(), parts or sets(images), known, summary(images), wider)


def defective(count: int, found: Sequence[Found] = (RIGHT,), **given: Any) -> list[ImageEvidence]:
    return [image(f"bad {number}", found, {12: "scratch"}, **given) for number in range(count)]


def clean(count: int, found: Sequence[Found] = (), **given: Any) -> list[ImageEvidence]:
    return [image(f"good {number}", found, **given) for number in range(count)]


# ------------------------------------------------------------------------------------------------------------- promoted


@pytest.fixture(scope="module")
def better() -> Refinement:
    return refined(plates(20, 24))


def test_a_better_bundle_is_promoted(better: Refinement) -> None:
    assert better.outcome == "promoted"
    assert better.reasons[0].startswith("better: +0.")
    assert better.proposed is not None
    assert better.proposed.parent == BUNDLE.id
    assert better.proposed.id != BUNDLE.id
    assert better.gain is not None
    assert 0 < better.gain.lower <= better.gain.mean


def test_a_promotion_says_all_that_it_goes_by(better: Refinement) -> None:
    assert better.before is not None
    assert better.after is not None
    assert better.held_before is not None
    assert better.held_after is not None
    assert better.control is not None
    assert (better.before.false_alarms, better.after.false_alarms) == (1, 0)
    assert (better.held_before.false_alarms, better.held_after.false_alarms) == (1, 0)
    assert better.after.objective == pytest.approx(1)
    assert better.control.objective is not None
    assert better.evidence.held_out == 9  # 4 of 20 and 5 of 24
    assert {each.held_out for each in better.changes} == {True, False}
    assert [each.text for each in better.phrases] == list(BUNDLE.texts)
    assert better.curves
    assert any(each.taken for each in better.tried)
    assert better.configurations > 100
    assert better.resamples == 12
    assert better.acceptance is not None
    assert better.effort == DEFAULT


def test_the_champion_may_be_of_another_product_such_as_the_library() -> None:
    found = refined(plates(20, 24), question(champion=BUNDLE.changed(product="generic")))
    assert found.proposed is not None
    assert found.proposed.product == "plate"
    assert found.proposed.parent == BUNDLE.changed(product="generic").id


@pytest.mark.parametrize("seed", [0, 1])
def test_any_order_gives_the_same_bundle(seed: int) -> None:
    images, asked = plates(12, 20, seed=4), question(seed=3)
    order = np.random.default_rng(seed)
    mixed = [images[place] for place in order.permutation(len(images))]
    halves = [*sets(mixed[:10]), *sets(mixed[10:])]
    found = [refined(images, asked), refined(mixed, asked), refined(images, asked, parts=halves)]
    assert len({each.proposed.id if each.proposed else None for each in found}) == 1
    assert len({each.outcome for each in found}) == 1
    assert found[0].proposed is not None


def test_the_search_does_not_see_what_experts_said_of_images_held_out() -> None:
    images = plates(20, 24)
    held = held_out(images)
    turned = [
        replace(each, labels=(), truth=0.0, iou=np.zeros((len(each.rows.areas), 0)), atoms=_blank(each))
        if held[each.lot]
        else each
        for each in images
    ]
    one, other = refined(images), refined(turned, held=held)
    assert one.proposed is not None
    assert other.proposed is not None
    assert one.proposed.id == other.proposed.id
    assert one.gain == other.gain
    assert one.held_before != other.held_before


def _blank(each: ImageEvidence) -> Any:
    return replace(each.atoms, truth=np.zeros_like(each.atoms.truth))


def disagreeing(held: int, disagree: int, slots: Sequence[int]) -> tuple[list[ImageEvidence], dict[str, bool]]:
    """Of some defective images held out, some on which an expert drew these slots, the loud dirt among them."""
    drawn = dict.fromkeys(slots, "dirt")
    images = [
        image(each.name, [Found(7, (0.3, 0.2, 0.8)), RIGHT], drawn) if int(each.lot) < disagree else each
        for each in plates(20, 24)
    ]
    return images, {each.lot: int(each.lot) < held for each in images}


@pytest.mark.parametrize(("held", "disagree"), [(5, 5), (3, 3)])
def test_held_out_images_that_disagree_leave_the_word_to_a_person(held: int, disagree: int) -> None:
    images, known = disagreeing(held, disagree, [7])
    found = refined(images, held=known)
    assert found.outcome == "proposed"
    assert found.reasons[0].startswith("held-out-disagrees: -")
    assert found.reasons[0].endswith(f"on {held} defective images held out")
    assert found.proposed is not None


@pytest.mark.parametrize(("loud", "outcome"), [(1, "promoted"), (2, "proposed")])
def test_held_out_good_images_that_alarm_leave_the_word_to_a_person(loud: int, outcome: str) -> None:
    """The champion hears no scratch; on some clean plates that the search never saw, dirt is as loud as they are."""
    bundle, heard = BUNDLE.changed(decision={"score_floor": 0.5}), (0.4, 0.45, 0.3)
    images = [image(f"{n}", [Found(12, heard)], {12: "scratch"}, bundle=bundle) for n in range(12)]
    images += [image(f"g{n}", [Found(7, heard)] if n < loud else [], bundle=bundle) for n in range(24)]
    known = {each.lot: each.lot in {f"g{n}" for n in range(5)} for each in images}
    found = refine(question(champion=bundle), sets(images, bundle), known, summary(images))
    assert found.outcome == outcome
    if outcome == "proposed":
        assert found.reasons[0] == "held-out-disagrees: +40% false alarms on 5 good images held out"


def test_a_small_loss_on_few_images_held_out_is_shown_but_not_obeyed() -> None:
    images, known = disagreeing(3, 1, range(25))
    found = refined(images, held=known)
    assert found.outcome == "promoted"
    assert found.held_before is not None
    assert found.held_after is not None
    assert found.held_before.objective is not None
    assert found.held_after.objective is not None
    assert -0.05 < found.held_after.objective - found.held_before.objective < 0


# ----------------------------------------------------------------------------------------------------------------- kept


def test_what_is_not_certain_is_refused_and_shown() -> None:
    """Noise: the one number that separates the images at hand separates no others."""
    rng = np.random.default_rng(0)
    images = [
        image(
            f"{n}", [Found(slot, tuple(rng.uniform(0.31, 0.9, 3))) for slot in (3, 9)], {3: "scratch"} if n < 10 else {}
        )
        for n in range(30)
    ]
    found = refined(images)
    assert found.outcome == "kept"
    assert found.reasons[0].startswith("refused: ")
    assert found.proposed is not None
    assert found.gain is not None
    assert found.held_before is None


def test_nothing_better_is_nothing_proposed() -> None:
    narrow = Found(12, (0.5, 0.7, 0.2), width=2)  # does not match, and no number makes it wider
    found = refined([*defective(10, [narrow]), *clean(20)])
    assert found.outcome == "kept"
    assert found.reasons == ("no-better: nothing that was tried is better",)
    assert found.proposed is None
    assert found.after is None
    assert found.phrases


def test_where_more_is_refused_the_cut_alone_may_pass() -> None:
    """Marks are all below the threshold; beyond that there is nothing to learn but noise."""
    rng, bundle = np.random.default_rng(1), BUNDLE.changed(decision={"threshold": 0.97})
    images = [
        image(f"{n}", [RIGHT, Found(3, tuple(rng.uniform(0.3, 0.7, 3)))], {12: "scratch"}, bundle=bundle)
        for n in range(12)
    ]
    images += [image(f"g{n}", [Found(3, tuple(rng.uniform(0.3, 0.7, 3)))], bundle=bundle) for n in range(20)]
    found = refine(question(champion=bundle), sets(images, bundle), held_out(images), summary(images))
    assert found.outcome == "promoted"


# -------------------------------------------------------------------------------------------------------- thin evidence


@pytest.mark.parametrize(
    ("images", "outcome", "reason", "missing"),
    [
        ([], "collect-more", "no-reviews", {"defective": 8, "good": 20}),
        (clean(25), "collect-more", "all-good", {"defective": 8}),
        ([*defective(3), *clean(30)], "collect-more", "too-few: 5 more defective images to review", {"defective": 5}),
        ([*defective(3), *clean(5)], "collect-more", "too-few", {"defective": 5, "good": 15}),
        (defective(10), "collect-more", "no-good-images: 20 more good images to", {"good": 20}),
        ([*defective(7), *clean(20)], "collect-more", "too-few: 1 more defective image to", {"defective": 1}),
        (defective(1), "collect-more", "no-good-images", {"defective": 7, "good": 20}),
        (clean(1), "collect-more", "all-good", {"defective": 8, "good": 19}),
        ([*defective(9, ()), *clean(20)], "kept", "no-candidates", {}),
        ([*defective(9), *clean(20, [Found(3, (0.5, 0.7, 0.2))])], "kept", "", {}),
        (
            [*defective(9, [Found(3, (0.5, 0.5, 0.5))]), *clean(20, [Found(3, (0.5, 0.5, 0.5))])],
            "kept",
            "constant-scores",
            {},
        ),
        ([*defective(9), *clean(20)], "kept", "everything-accepted", {}),
    ],
)
def test_thin_evidence_has_a_name(images: Images, outcome: str, reason: str, missing: dict[str, int]) -> None:
    found = refined(images)
    assert found.outcome == outcome
    assert found.reasons[0].startswith(reason)
    assert found.missing == missing
    if reason:
        assert found.proposed is None
        assert found.gain is None


def test_without_reviews_there_are_no_figures() -> None:
    assert refined([]).before is None


def test_a_single_defective_lot_that_is_held_out_leaves_nothing_to_search() -> None:
    images = [*defective(9, lot="one"), *clean(20)]
    found = refined(images, held={"one": True})
    assert found.outcome == "collect-more"
    assert found.reasons[0].startswith("one-lot")


def test_a_single_defective_lot_is_searched_and_refused() -> None:
    images = [image(f"{n}", [RIGHT, Found(7, (0.3, 0.2, 0.8))], {12: "scratch"}, lot="one") for n in range(9)]
    found = refined([*images, *clean(20, [Found(7, (0.3, 0.2, 0.8))])])
    assert found.outcome == "kept"
    assert found.reasons[0] == "refused: too few lots: no resample leaves out a defective image"
    assert found.gain is None
    assert found.changes
    assert not any(each.held_out for each in found.changes)  # nobody looked at these


# ----------------------------------------------------------------------------------------------------------------- risk


def test_a_first_bundle_may_be_risked_on_less() -> None:
    images = plates(6, 6)
    careful, risked, later = (
        refined(images, question(**given)) for given in ({}, {"risk": True}, {"risk": True, "first": False})
    )
    assert [each.outcome for each in (careful, risked, later)] == ["collect-more", "promoted", "collect-more"]
    assert [each.risk for each in (careful, risked, later)] == [False, True, False]
    assert risked.reasons[1].startswith("few-good-images")


def test_who_takes_the_risk_may_do_without_good_images() -> None:
    found = refined(plates(8, 0), question(risk=True))
    assert found.outcome == "promoted"
    assert found.reasons[1].startswith("no-good-images")
    assert refined(plates(2, 0), question(risk=True)).missing == {"defective": 2}


# ---------------------------------------------------------------------------------------------------------- new phrases


def widened(bundle: PromptBundle, count: int = 20) -> tuple[list[ImageEvidence], Wider]:
    """Images on which the champion's phrases hear dirt and scratch alike; a new phrase tells them apart."""
    language = bundle.language.model_dump()
    wide = bundle.changed(language={**language, "specific": [*language["specific"], {"text": "line", "weight": 0}]})
    rng, narrow, wider = np.random.default_rng(0), [], []
    for number in range(count + 24):
        truth = {12: "scratch"} if number < count else {}
        places = [3, 12] if truth else [3]
        scores = {slot: tuple(rng.uniform(0.35, 0.6, 3).tolist()) for slot in places}
        narrow.append(image(f"{number}", [Found(slot, scores[slot]) for slot in places], truth, bundle=bundle))
        found = [Found(slot, (*scores[slot], 0.9 if slot == 12 else 0.0)) for slot in places]
        wider.append(image(f"{number}", found, truth, bundle=wide))
    dropped = (Trial("+ 'hole'", 0.1, taken=False, why="worse on 8 images"),)
    return narrow, Wider(wide, sets(wider, wide), dropped)


def test_a_new_phrase_that_helps_speaks_in_the_bundle() -> None:
    images, wider = widened(BUNDLE)
    found = refined(images, question(sources={"line": "an expert wrote it 4 times"}), wider=wider)
    assert found.outcome == "promoted"
    assert found.proposed is not None
    assert found.proposed.parent == BUNDLE.id
    (line,) = [each for each in found.phrases if each.text == "line"]
    assert line.weight > 0
    assert line.source == "an expert wrote it 4 times"
    assert "flatters" in found.reasons[1]
    assert "+ 'hole'" in [each.what for each in found.tried]
    assert found.before == refined(images).before


def test_evidence_for_new_phrases_has_to_be_of_the_same_images() -> None:
    images, wider = widened(BUNDLE)
    with pytest.raises(ValueError, match="other images"):
        refined(images[1:], wider=wider)


# -------------------------------------------------------------------------------------------------------- the dense map


def test_the_dense_map_is_cut_where_defects_are_told_from_dirt() -> None:
    bundle = BUNDLE.changed(confidence={"map": "dense"}, decision={"threshold": 0.1})
    dirt = Found(7, (0.3, 0.2, 0.8))
    heat = {7: 0.3, 12: 0.6}
    images = [image(f"{n}", [RIGHT, dirt], {12: "scratch"}, heat=heat, bundle=bundle) for n in range(12)]
    images += [image(f"g{n}", [dirt], heat={7: 0.3}, bundle=bundle) for n in range(20)]
    found = refine(question(champion=bundle), sets(images, bundle), held_out(images), summary(images))
    assert found.outcome == "promoted"
    assert found.proposed is not None
    assert 0.3 < found.proposed.decision.threshold <= 0.6
    assert found.after is not None
    assert found.after.pixel_f1 == pytest.approx(1)
    assert found.after.region_f1 == 1
