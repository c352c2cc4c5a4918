"""Reviews in, a better bundle out: real candidates, a real catalog, and every kind of bad evidence."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from integrations.catalog import Catalog
from integrations.refinery import conclude, current_bundle, report_folder, report_refinement, settle
from saa_core.errors import BundleError, StoreError
from saa_core.masks import encode
from saa_core.prompts import PromptBundle
from saa_core.refinement.outcome import Refinement
from saa_core.reviews import Review
from saa_core.types import ImageRef
from tests.plates import BUNDLE, NOON, PER_LOT, PRODUCT, Labelled, Plates, perfect, said, truth

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[2]
LATER = NOON + timedelta(days=1)


@pytest.fixture
def refs(labelled: Labelled) -> list[ImageRef]:
    return labelled.refs


@pytest.fixture
def judged(plates: Plates, refs: list[ImageRef]) -> Plates:
    """Every plate was reviewed by an expert who makes no mistake."""
    plates.catalog.add_reviews(perfect(refs))
    return plates


@pytest.fixture(scope="module")
def found(labelled: Labelled, one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Refinement:
    """What a refinement of `judged` finds, before anything is concluded."""
    held = Plates.again(labelled, tmp_path_factory.mktemp("found") / "w")
    held.catalog.add_reviews(perfect(labelled.refs))
    refinement = held.refine(risk=True)
    held.catalog.close()
    return refinement


def report(plates: Plates, refinement: Refinement) -> str:
    return report_refinement(plates.catalog, plates.opened(), plates.settings, refinement).read_text()


def bundle_of(refinement: Refinement) -> PromptBundle:
    assert refinement.proposed is not None
    return refinement.proposed


# ----------------------------------------------------------------------------------------------------------- it refines


def test_a_better_bundle_decides_from_then_on(judged: Plates, found: Refinement) -> None:
    told, new = judged.conclude(found), bundle_of(found)
    assert (told.outcome, told.champion, told.proposed) == ("promoted", BUNDLE, new)
    assert judged.catalog.champion(PRODUCT) == current_bundle(judged.catalog, PRODUCT) == new
    assert told.gain is not None
    assert told.gain.lower > 0
    (note,) = judged.catalog.refinements(PRODUCT)
    assert (note.bundle, note.champion, note.evidence) == (new.id, BUNDLE.id, told.evidence.hash)
    (move,) = judged.catalog.promotions(PRODUCT)
    assert (move.bundle, move.previous, move.reason) == (new.id, None, told.reasons[0])


def test_it_needs_no_model_to_be_found_and_none_to_label_again(judged: Plates, refs: list[ImageRef]) -> None:
    judged.store = judged.opened()
    judged.label(refs, "run2", bundle_of(judged.conclude(judged.refine(risk=True))))
    assert judged.store.method.calls == 0
    again = judged.conclude(judged.refine())
    assert (again.champion, again.outcome) == (judged.catalog.champion(PRODUCT), "collect-more")


def test_the_report_is_there_and_shows_what_changed(judged: Plates, found: Refinement) -> None:
    page = report(judged, found)
    assert found.changes
    assert all(change.name in page for change in found.changes)
    assert "data:image/jpeg" in page
    assert report_folder(judged.settings, found.product, found.evidence.hash, found.champion.id, None).is_relative_to(
        judged.settings.workspace / "refinements"
    )


def test_a_review_that_is_gone_leaves_the_picture_out(plates: Plates, found: Refinement) -> None:
    assert "no longer where it was" in report(plates, found)


def test_the_same_evidence_in_any_order_gives_the_same_bundle(
    plates: Plates, refs: list[ImageRef], found: Refinement
) -> None:
    turned = perfect(refs)[::-1]
    for part in (turned[:9], turned[9:]):
        plates.catalog.add_reviews(part)
    other = plates.refine(risk=True)
    assert bundle_of(other).id == bundle_of(found).id
    assert other == found


@pytest.mark.slow
def test_another_seed_is_another_question(judged: Plates, found: Refinement) -> None:
    other = judged.refine(risk=True, seed=1)
    assert (found.seed, other.seed) == (0, 1)
    assert found.gain != other.gain


def test_without_a_budget_the_sweeps_still_run(judged: Plates) -> None:
    found = judged.refine(risk=True, budget=0)
    assert found.outcome == "promoted"
    assert found.configurations > 0


# -------------------------------------------------------------------------------------------------- hold-out and ledger


def test_a_lot_stays_where_it_was_assigned(plates: Plates, refs: list[ImageRef]) -> None:
    plates.catalog.add_reviews([said(ref) for ref in refs])
    plates.refine()
    lots = plates.catalog.holdout(PRODUCT)
    assert set(lots) == {f"lot {number}" for number in range(len(refs) // PER_LOT)}
    assert sum(lots.values()) >= len(lots) / 5
    plates.catalog.add_reviews([said(ref, truth(ref), at=LATER) for ref in refs[:PER_LOT]])
    plates.refine()
    assert plates.catalog.holdout(PRODUCT) == lots


def test_new_lots_are_assigned_when_they_come(plates: Plates, refs: list[ImageRef]) -> None:
    known: dict[str, bool] = {}
    for lot in range(4):
        plates.catalog.add_reviews([said(ref) for ref in refs[lot * PER_LOT :][:PER_LOT]])
        plates.refine()
        after = plates.catalog.holdout(PRODUCT)
        assert set(known) | {f"lot {lot}"} == set(after)
        assert known.items() <= after.items()
        known = after


def test_the_same_question_is_one_look(judged: Plates, found: Refinement) -> None:
    assert [judged.conclude(found).looks for _ in range(2)] == [1, 1]
    assert len(judged.catalog.promotions(PRODUCT)) == 1
    (look,) = judged.catalog.looks(PRODUCT)
    assert (look.evidence, look.champion, look.bundle) == (found.evidence.hash, BUNDLE.id, bundle_of(found).id)
    assert found.held_before is not None
    assert found.held_after is not None
    assert look.gain == (found.held_after.objective or 0) - (found.held_before.objective or 0)


def test_other_evidence_is_another_look(judged: Plates, found: Refinement) -> None:
    manual = Plates.at(judged.settings.workspace, "manual")
    manual.conclude(found)
    assert manual.conclude(replace(found, evidence=replace(found.evidence, hash="another"))).looks == 2
    assert manual.conclude(replace(found, outcome="kept", proposed=None)).looks == 2
    manual.catalog.close()


def test_where_nothing_is_held_out_nobody_looks(judged: Plates, found: Refinement) -> None:
    alone = replace(found, evidence=replace(found.evidence, held_out=0))
    assert judged.conclude(alone).looks == 0
    assert judged.catalog.looks(PRODUCT) == ()


# ---------------------------------------------------------------------------------------------------- who has the word


def test_under_the_manual_policy_a_person_promotes(judged: Plates, found: Refinement) -> None:
    manual, new = Plates.at(judged.settings.workspace, "manual"), bundle_of(found)
    told = manual.conclude(found)
    assert (told.outcome, told.reasons[0].partition(":")[0]) == ("proposed", "manual")
    assert manual.catalog.champion(PRODUCT) is None
    assert {each.bundle.id: each.state for each in manual.catalog.bundles()}[new.id] == "proposed"
    manual.catalog.promote(new.id, reason="looks right")
    assert current_bundle(manual.catalog, PRODUCT) == new
    manual.catalog.close()


def test_what_the_guard_only_proposes_waits_for_a_person(judged: Plates, found: Refinement) -> None:
    told = judged.conclude(replace(found, outcome="proposed", reasons=("held-out-disagrees: -0.100",)))
    assert (told.outcome, told.reasons) == ("proposed", ("held-out-disagrees: -0.100",))
    assert judged.catalog.champion(PRODUCT) is None
    (note,) = judged.catalog.refinements(PRODUCT)
    assert note.outcome == "proposed"


def test_what_a_person_rolled_back_is_only_proposed(judged: Plates, found: Refinement) -> None:
    judged.catalog.promote(BUNDLE.id, reason="to begin with")
    assert judged.conclude(found).outcome == "promoted"
    judged.catalog.rollback(PRODUCT, reason="misses scratches")
    again = judged.conclude(found)
    assert (again.outcome, again.proposed) == ("proposed", found.proposed)
    assert again.reasons[0].startswith("rolled-back: ")
    assert judged.catalog.champion(PRODUCT) == BUNDLE
    assert "saa promote" in report(judged, again)


def test_a_promotion_meanwhile_is_an_error_and_nothing_is_written(judged: Plates, found: Refinement) -> None:
    rival = BUNDLE.changed(parent=BUNDLE.id, decision={"threshold": 0.5})
    with Catalog(judged.settings.catalog_url) as other:
        other.add_bundle(rival, "proposed")
        other.promote(rival.id, reason="at the same time")
    with pytest.raises(BundleError, match=rf"{rival.id} was promoted meanwhile.*refine again"):
        judged.conclude(found)
    assert judged.catalog.champion(PRODUCT) == rival
    assert (*judged.catalog.refinements(PRODUCT), *judged.catalog.looks(PRODUCT)) == ()
    assert len(judged.catalog.promotions(PRODUCT)) == 1
    assert bundle_of(found).id not in {each.bundle.id for each in judged.catalog.bundles()}


def test_in_the_very_last_moment_the_catalog_refuses(judged: Plates, found: Refinement) -> None:
    settled = settle(judged.catalog, judged.settings, found)
    rival = BUNDLE.changed(parent=BUNDLE.id, decision={"threshold": 0.5})
    judged.catalog.add_bundle(rival, "proposed")
    judged.catalog.promote(rival.id, reason="at the same time")
    with pytest.raises(BundleError, match=rf"{rival.id} was promoted meanwhile"):
        conclude(judged.catalog, settled)
    assert judged.catalog.champion(PRODUCT) == rival


def test_the_champions_own_promotion_meanwhile_does_not_matter(judged: Plates, found: Refinement) -> None:
    judged.catalog.promote(BUNDLE.id, reason="what decides already")
    assert judged.conclude(found).outcome == "promoted"
    assert judged.catalog.champion(PRODUCT) == found.proposed


# --------------------------------------------------------------------------------------------------------- bad evidence


def no_review(refs: Sequence[ImageRef]) -> list[Review]:
    return []


def all_good(refs: Sequence[ImageRef]) -> list[Review]:
    return [said(ref) for ref in refs]


def all_defective(refs: Sequence[ImageRef]) -> list[Review]:
    return perfect(ref for ref in refs if truth(ref))


def one_image(refs: Sequence[ImageRef]) -> list[Review]:
    return perfect(refs[:1])


def too_few(refs: Sequence[ImageRef]) -> list[Review]:
    return perfect(refs[:10])


def undrawn(refs: Sequence[ImageRef]) -> list[Review]:
    return [said(ref, verdict="defective") for ref in refs]


def contradictory(refs: Sequence[ImageRef]) -> list[Review]:
    return [said(ref, truth(refs[0]), verdict="good") for ref in refs]


def another_size(refs: Sequence[ImageRef]) -> list[Review]:
    return [said(ref, [encode(np.ones((8, 8), np.bool_))]) for ref in refs]


def skipped(refs: Sequence[ImageRef]) -> list[Review]:
    return [said(ref, truth(ref), state="skipped") for ref in refs]


@pytest.mark.parametrize(
    ("reviews", "reason", "unusable"),
    [
        (no_review, "no-reviews: ", 0),
        (skipped, "no-reviews: ", 0),
        (undrawn, "no-reviews: ", 0),
        (contradictory, "no-reviews: ", 20),
        (another_size, "no-reviews: ", 20),
        (all_good, "all-good: none of 20 ", 0),
        (all_defective, "no-good-images: 20 more good images ", 0),
        (one_image, "no-good-images: 7 more defective images and 20 more good images ", 0),
        (too_few, "too-few: 4 more defective images and 14 more good images ", 0),
    ],
)
def test_evidence_that_says_too_little_has_a_name(
    plates: Plates,
    refs: list[ImageRef],
    reviews: Callable[[Sequence[ImageRef]], list[Review]],
    reason: str,
    unusable: int,
) -> None:
    plates.catalog.add_reviews(reviews(refs))
    found = plates.conclude(plates.refine())
    assert (found.outcome, found.proposed) == ("collect-more", None)
    assert found.reasons[0].startswith(reason)
    assert len(found.evidence.unusable) == unusable
    assert (*plates.catalog.refinements(PRODUCT), *plates.catalog.looks(PRODUCT)) == ()
    assert found.reasons[0].replace("'", "&#39;") in report(plates, found)


def test_nothing_was_ever_labelled(tmp_path: Path) -> None:
    held = Plates.at(tmp_path / "w")
    with pytest.raises(StoreError, match=r"plate: has no finished run; `saa label IMAGES --product plate` makes one"):
        held.refine()
    held.catalog.close()


def test_annotators_who_contradict_each_other_are_named(judged: Plates, refs: list[ImageRef]) -> None:
    judged.catalog.add_reviews([said(ref, who="bert", at=LATER) for ref in refs[:2]])
    found = judged.conclude(judged.refine())
    assert (found.evidence.defective, found.evidence.good) == (6, 14)
    assert [name for name, _ in found.evidence.disputed] == ["000.png", "001.png"]
    assert "Annotators differ on 2 images" in report(judged, found)


def test_some_masks_of_another_size(judged: Plates, refs: list[ImageRef]) -> None:
    judged.catalog.add_reviews([said(refs[0], [encode(np.ones((8, 8), np.bool_))], at=LATER)])
    found = judged.refine()
    assert (found.evidence.defective, found.evidence.good) == (7, 12)
    assert found.evidence.unusable == (("000.png", "a reviewed mask has 8 x 8 pixels, the image has 64 x 64"),)


def test_runs_by_other_models(judged: Plates, refs: list[ImageRef]) -> None:
    other = Plates.at(judged.settings.workspace.parent / "other")
    other.store = judged.store
    other.label(refs, models={**judged.store.method.ids, "generator": "another"})
    other.catalog.add_reviews(perfect(refs))
    found = other.conclude(other.refine())
    assert found.outcome == "collect-more"
    assert {reason for _, reason in found.evidence.unusable} == {
        "no finished run of these models has it; label it again"
    }
    other.catalog.close()


def test_a_label_that_no_bundle_has(plates: Plates, refs: list[ImageRef]) -> None:
    plates.catalog.add_reviews([said(ref, truth(ref), label="of another time") for ref in refs])
    found = plates.conclude(plates.refine(risk=True))
    assert found.outcome == "promoted"
    assert found.before is not None
    assert set(found.before.recall) == {"of another time"}


def test_experts_who_accepted_everything(plates: Plates, refs: list[ImageRef]) -> None:
    decided = plates.store.levels(refs, BUNDLE, plates.store.context(refs))
    context = plates.store.context(refs)
    shown = {ref.key: plates.store.decide(ref, BUNDLE, context, decided)[1].regions for ref in refs}
    plates.catalog.add_reviews([said(ref, [region.mask for region in shown[ref.key]]) for ref in refs])
    found = plates.conclude(plates.refine(risk=True))
    assert found.outcome == "kept"
    assert found.reasons[0].startswith("everything-accepted: ")
    assert found.reasons[0] in report(plates, found)


# --------------------------------------------------------------------------------------------- files that are not there


@pytest.fixture
def own(plates: Plates, refs: list[ImageRef], tmp_path: Path) -> tuple[Plates, list[ImageRef]]:
    """Plates whose photographs the test may delete, half of them reviewed."""
    held = Plates.at(tmp_path / "own")
    held.store = plates.store
    return held, held.copied(refs, tmp_path / "photographs")


@pytest.mark.slow
def test_photographs_that_are_gone_are_not_needed(own: tuple[Plates, list[ImageRef]]) -> None:
    held, refs = own
    held.catalog.add_reviews(perfect(refs))
    for ref in refs:
        Path(ref.uri).unlink()
    found = held.conclude(held.refine(risk=True))
    assert (found.outcome, found.evidence.unusable) == ("promoted", ())
    assert "it vanished" in report(held, found)
    held.catalog.close()


@pytest.mark.slow
def test_for_new_phrases_they_are_left_out_and_named(refs: list[ImageRef], tmp_path: Path) -> None:
    held = Plates.at(tmp_path / "own")
    some = [replace(ref, uri=str(tmp_path / ref.names[0])) for ref in refs[:12]]
    for old, new in zip(refs, some, strict=False):
        shutil.copyfile(old.uri, new.uri)
    held.label(some, bundle=PromptBundle.from_content({"product": PRODUCT, "language": {"agnostic": ["bright spot"]}}))
    held.catalog.add_reviews([said(ref, truth(ref), words="dark scratch, glorp") for ref in some])
    Path(some[2].uri).unlink()
    alone, both = held.refine(risk=True), held.refine(risk=True, new_phrases=True)
    assert (alone.evidence.good, alone.evidence.unusable) == (6, ())
    assert both.evidence.good == 5
    assert [name for name, _ in both.evidence.unusable] == ["002.png"]
    assert "dark scratch" in {row.text for row in both.phrases if row.weight}
    assert both.outcome == "promoted"
    assert any("glorp" in trial.what and not trial.taken for trial in both.tried)
    held.catalog.close()


# ------------------------------------------------------------------------------------------------------ ended by force

_KILLED = """
import os, signal, sys
from pathlib import Path
from integrations.catalog import Catalog
from tests.plates import Plates

def end(*what, **more):
    os.kill(os.getpid(), signal.SIGKILL)

class Ended(Catalog):
    promote = end

held, where = Plates.at(Path(sys.argv[1])), sys.argv[2]
held.catalog = Ended(held.settings.catalog_url)
held.conclude(held.refine(lambda step, done, total: end() if f"{step} {done}" == where else None, risk=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["gathering evidence 16", "promote"])
def test_killed_and_started_again_the_result_is_the_same(judged: Plates, found: Refinement, where: str) -> None:
    one = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
    command = [sys.executable, "-c", _KILLED, str(judged.settings.workspace), where]
    ended = subprocess.run(command, cwd=ROOT, env=os.environ | one, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert judged.catalog.champion(PRODUCT) is None
    again = judged.refine(risk=True)
    assert again == found
    judged.conclude(again)
    assert judged.catalog.champion(PRODUCT) == found.proposed
    assert [len(rows) for rows in (judged.catalog.looks(PRODUCT), judged.catalog.refinements(PRODUCT))] == [1, 1]
