"""The guard: lots stay whole, limits hold, and what is held out stays so."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from saa_core.refinement.evidence import ImageEvidence
from saa_core.refinement.guard import HELD_OUT, LABEL_LOSS, RISKY, STRICT, Gate, Resampled, hold_out, resample
from saa_core.refinement.objective import Counts, Tally
from saa_core.refinement.outcome import Interval
from saa_core.refinement.search import Scope
from tests.saa_core.refinement.squares import BUNDLE, Bench, Found, image, plates

Floats = NDArray[np.float64]
LOTS = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=4), st.booleans(), max_size=24)
SURE, NONE = np.full(10, 0.1), np.zeros(0)


@dataclass(frozen=True)
class Recorder(Tally):
    """Remembers what was searched and what was judged."""

    searched: list[Floats] = field(default_factory=list)
    left: list[Floats] = field(default_factory=list)

    def false_alarms(self, counts: Counts, weights: Floats) -> Floats:
        """As ever; both the searches and the guard ask for it."""
        (self.left if weights.max() <= 1 and len(counts) == 2 else self.searched).append(weights)
        return super().false_alarms(counts, weights)


def resampled(
    laid: Bench,
    searched: NDArray[np.bool_] | None = None,
    tally: Tally | None = None,
    seed: int = 0,
    scope: Scope = "threshold",
) -> Resampled:
    everything = np.ones(len(laid.images), np.bool_)
    seen, lots = everything if searched is None else searched, [each.lot for each in laid.images]
    return resample(laid.judge, tally or laid.tally, laid.menu, lots, seen, scope, seed, 20)


def lotted(number: int, each: int, start: int = 0) -> tuple[ImageEvidence, ...]:
    """Lots of scratched plates and lots of clean ones, so many images each."""
    images = []
    for place in range(number):
        for copy in range(each):
            for kind, truth in (("bad", {12: "scratch"}), ("good", {})):
                found = (
                    [Found(12, (0.5, 0.7, 0.2)), Found(7, (0.3, 0.2, 0.8))] if truth else [Found(7, (0.3, 0.2, 0.8))]
                )
                images.append(image(f"{kind} {place + start} {copy}", found, truth, lot=f"{kind} {place + start}"))
    return tuple(images)


# ---------------------------------------------------------------------------------------------------------- the limits


def test_evidence_that_is_missing_is_counted_by_kind() -> None:
    assert STRICT.missing(8, 20) == {}
    assert STRICT.missing(3, 20) == {"defective": 5}
    assert STRICT.missing(0, 1) == {"defective": 8, "good": 19}
    assert RISKY.missing(4, 4) == {}


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (Resampled(NONE, NONE, {}), "too few lots"),
        (Resampled(np.array([-0.1, -0.1, 0.3, 0.3]), NONE, {}), "not certain enough"),
        (Resampled(np.zeros(5), NONE, {}), "not certain enough"),
        (Resampled(np.array([-0.3, *[0.01] * 9]), NONE, {}), "not better on average"),
        (Resampled(SURE, np.array([0.2, 0.0]), {}), "more false alarms"),
        (Resampled(SURE, NONE, {"scratch": (-0.2, 0.05)}), "finds fewer of 'scratch': -20%"),
    ],
)
def test_what_the_guard_refuses(found: Resampled, reason: str) -> None:
    (said,) = found.refusals(STRICT)
    assert said.startswith(reason)


def test_every_limit_that_is_broken_is_named() -> None:
    found = Resampled(-SURE, np.array([0.5]), {"dent": (-0.5, 0.1), "scratch": (0, 0), "spot": (-0.9, 0)})
    assert len(found.refusals(STRICT)) == 4


@pytest.mark.parametrize(
    "found",
    [
        Resampled(SURE, NONE, {}),
        Resampled(np.array([-0.05, *[0.01] * 9]), np.array([0.04, 0.06]), {}),
        Resampled(SURE, np.array([-1.0]), {"scratch": (-LABEL_LOSS, 0.0), "dent": (-LABEL_LOSS - 0.05, 0.05)}),
    ],
)
def test_what_the_guard_lets_pass(found: Resampled) -> None:
    assert found.refusals(STRICT) == ()


def test_the_looser_gate_asks_for_less() -> None:
    found = Resampled(np.array([-0.1, -0.1, -0.1, *[0.1] * 7]), np.array([0.08]), {})
    assert len(found.refusals(STRICT)) == 2
    assert found.refusals(RISKY) == ()


def test_the_interval_is_of_the_gains() -> None:
    assert Resampled(NONE, NONE, {}).interval() is None
    assert Resampled(np.arange(11) / 10, NONE, {}).interval() == Interval(
        pytest.approx(0.5), pytest.approx(0.2), pytest.approx(0.8)
    )


# ------------------------------------------------------------------------------------------------------- the resamples


def recorded(images: tuple[ImageEvidence, ...], searched: NDArray[np.bool_]) -> tuple[Bench, Recorder]:
    laid = Bench(images)
    tally = Recorder(laid.judge.images, laid.judge.labels)
    resampled(laid, searched, tally)
    assert tally.left
    assert tally.searched
    return laid, tally


def test_lots_are_drawn_and_left_out_as_wholes() -> None:
    images = lotted(4, 3)
    laid, tally = recorded(images, np.ones(len(images), np.bool_))
    for weights in (*tally.searched, *tally.left):
        for lot in set(laid.lots):
            assert len(set(weights[laid.lots == lot])) == 1


def test_a_resample_has_as_many_lots_of_each_kind_as_there_are() -> None:
    images = lotted(4, 2)
    laid, tally = recorded(images, np.ones(len(images), np.bool_))
    for weights in tally.searched:
        assert weights[laid.tally.good].sum() == weights[~laid.tally.good].sum() == 8


def test_held_out_images_are_neither_drawn_nor_left_out() -> None:
    images = lotted(4, 2)
    searched = np.array([not each.lot.endswith("3") for each in images])
    _, tally = recorded(images, searched)
    assert all(not weights[~searched].any() for weights in (*tally.searched, *tally.left))


def test_gains_are_measured_on_what_the_search_did_not_see() -> None:
    """One lot is unlike all others: a search that saw it moves the cut, and the others pay."""
    common = [image(f"{n}", [Found(3, (0.6, 0, 0)), Found(9, (0.1, 0, 0))], {3: "scratch"}) for n in range(4)]
    laid = Bench(tuple(common))
    assert resampled(laid).gains.tolist() == [0.0] * len(resampled(laid).gains)
    odd = [image(f"odd {n}", [Found(9, (0.1, 0, 0))], {9: "scratch"}, lot="odd") for n in range(9)]
    assert resampled(Bench((*common, *odd))).gains.min() < 0


def test_one_lot_leaves_nothing_to_judge() -> None:
    images = tuple(image(f"{n}", [Found(3, (0.6, 0, 0))], {3: "scratch"}, lot="all") for n in range(9))
    found = resampled(Bench(images))
    assert found.gains.size == found.alarms.size == 0
    assert found.found == {}
    assert found.interval() is None


def test_alarms_are_defined_by_good_images() -> None:
    assert resampled(Bench(lotted(4, 1))).alarms.size > 0
    defective = tuple(each for each in lotted(4, 1) if not each.good)
    assert resampled(Bench(defective)).alarms.size == 0


def test_labels_with_few_regions_have_no_limit() -> None:
    images = [
        image(f"{n}", [Found(3, (0.6, 0, 0))], {3: "scratch", **({4: "dent"} if n < 2 else {})}) for n in range(6)
    ]
    assert set(resampled(Bench(tuple(images))).found) == {"scratch"}


def test_a_label_that_is_lost_is_known_with_its_error() -> None:
    # Dents look like the dirt that is on every image. Where a resample holds too few for a limit, they are given up.
    dirt, dent = [Found(slot, (0.4, 0.1, 0.4)) for slot in (0, 20)], Found(24, (0.4, 0.1, 0.4))
    scratched = [image(f"s{n}", [Found(12, (0.5, 0.8, 0.1)), *dirt], {12: "scratch"}) for n in range(8)]
    dented = [image(f"d{n}", [dent, *dirt], {24: "dent"}) for n in range(3)]
    found = resampled(Bench((*scratched, *dented)), scope="all").found
    change, error = found["dent"]
    assert -1 < change < -0.3
    assert error == pytest.approx(np.sqrt((1 + change) * -change / 3))
    assert found["scratch"] == (0, 0)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_seed_gives_the_same_answer_in_any_order(seed: int) -> None:
    images = plates(6, 6)
    mixed = tuple(images[place] for place in np.random.default_rng(3).permutation(len(images)))
    one, other = (resampled(Bench(each), seed=seed) for each in (images, mixed))
    assert one.gains == pytest.approx(other.gains)
    assert one.alarms == pytest.approx(other.alarms)
    assert one.found == other.found


def test_the_seed_counts() -> None:
    bundle = BUNDLE.changed(decision={"threshold": 0.9})
    laid = Bench(plates(6, 6, bundle=bundle), bundle)
    assert resampled(laid, seed=0).gains.tolist() != resampled(laid, seed=1).gains.tolist()


# ----------------------------------------------------------------------------------------------------- what is held out


@given(LOTS)
def test_a_fifth_of_each_kind_is_held_out_from_two_lots_on(lots: dict[str, bool]) -> None:
    held = hold_out("plate", {}, lots)
    assert set(held) == set(lots)
    for kind in (True, False):
        group = [held[lot] for lot, defective in lots.items() if defective is kind]
        assert sum(group) == (int(np.ceil(HELD_OUT * len(group))) if len(group) > 1 else 0)


@given(LOTS)
def test_the_order_of_the_lots_changes_nothing(lots: dict[str, bool]) -> None:
    mixed = dict(sorted(lots.items(), reverse=True))
    assert hold_out("plate", {}, lots) == hold_out("plate", {}, mixed)


@given(LOTS, LOTS)
def test_what_is_assigned_stays(first: dict[str, bool], more: Mapping[str, bool]) -> None:
    known = hold_out("plate", {}, first)
    every = {**more, **first}
    new = hold_out("plate", known, every)
    assert set(new) == set(every) - set(known)
    held = {**known, **new}
    for kind in (True, False):
        group = [held[lot] for lot, defective in every.items() if defective is kind]
        assert len(group) < 2 or sum(group) >= HELD_OUT * len(group)


def test_products_hold_out_different_lots() -> None:
    lots = {f"lot {number}": True for number in range(20)}
    assert hold_out("plate", {}, lots) != hold_out("cup", {}, lots)


def test_a_gate_of_its_own_counts() -> None:
    assert Gate(defective=1, good=0, quantile=0.5, gain=0.0, alarms=0.0).missing(0, 0) == {"defective": 1}


def test_a_gain_that_is_not_worth_a_new_bundle_is_none() -> None:
    small = Resampled(np.full(50, STRICT.gain), np.zeros(0), {})
    assert small.refusals(STRICT)[0].startswith("not certain enough")
    assert Resampled(np.full(50, 2 * STRICT.gain), np.zeros(0), {}).refusals(STRICT) == ()
