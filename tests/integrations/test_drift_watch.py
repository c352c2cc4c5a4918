"""Lots before and after a promotion, from a real catalog, run folders and stored features."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from integrations.blobs import BlobStore
from integrations.candidate_store import CandidateStore
from integrations.catalog import Catalog, RunImage, RunRecord
from integrations.drift_watch import LOTS, Watched, notes, watch, watched
from integrations.outputs import RunFolder, read_records
from integrations.settings import Settings
from saa_core.features import FeatureLayout
from saa_core.masks import encode
from saa_core.models import build
from saa_core.pipeline import SegmentAnyAnomaly
from saa_core.prompts import PromptBundle
from saa_core.refinement.drift import ADVICE, LEAST
from saa_core.reviews import PredictedRegion, RegionReview, Review, ReviewedRegion
from saa_core.types import RGB, AnomalyResult, FloatMap, ImageRef, Region

SIDE = 16
OLD = PromptBundle(product="plate")
NEW = OLD.changed(parent=OLD.id, decision={"threshold": 0.7})
WEEK_AGO = datetime.now(UTC) - timedelta(days=7)
SURE, UNSURE = 0.8, 0.4


class Greys:
    """Features that cost nothing: mean and deviation of four quarters of the image."""

    name, id, layout = "greys", "greys-1", FeatureLayout()

    def __call__(self, image: RGB) -> FloatMap:
        quarters = image[..., 0].reshape(2, SIDE // 2, 2, SIDE // 2).swapaxes(1, 2).reshape(2, 2, -1)
        return np.stack([quarters.mean(axis=-1), quarters.std(axis=-1)], axis=-1).astype(np.float32)


def block(rows: int = 4) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    mask = np.zeros((SIDE, SIDE), np.bool_)
    mask[2 : 2 + rows, 3:9] = True
    return mask


def region(confidence: float, rows: int = 4) -> Region:
    mask = encode(block(rows))
    x0, y0, x1, y1 = map(float, mask.box)
    return Region(mask, (x0, y0, x1, y1), "defect", 1.0, confidence, {"defect": 0.5}, 0.5, mask.area, 0)


@dataclass
class Place:
    """A workspace that is filled by hand."""

    catalog: Catalog
    settings: Settings
    store: CandidateStore
    runs: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(5))

    def photographs(self, count: int = 40, grey: float = 120, lot: str | None = None) -> list[ImageRef]:
        """Files of their own content, with stored features."""
        refs = [self._photograph(grey, lot) for _ in range(count)]
        for ref in refs:
            self.store.features(ref)
        return refs

    def _photograph(self, grey: float, lot: str | None) -> ImageRef:
        buffer = io.BytesIO()
        pixels = self.rng.normal(grey, 12, (SIDE, SIDE)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(buffer, "PNG")
        key = hashlib.sha256(buffer.getvalue()).hexdigest()
        path = self.settings.workspace / f"{key[:12]}.png"
        path.write_bytes(buffer.getvalue())
        return ImageRef(key, str(path), (path.name,), lot)

    def label(
        self,
        refs: Sequence[ImageRef],
        bundle: PromptBundle = OLD,
        *,
        confidence: float = SURE,
        shown: Callable[[int], bool] = lambda number: True,
        created: datetime | None = None,
        models: dict[str, str] | None = None,
        rows: int = 4,
    ) -> RunRecord:
        """A finished run in which every shown region has about this confidence."""
        self.runs += 1
        names = models or self.store.method.ids
        begun = RunRecord(f"run{self.runs:04}", "plate", bundle.id, "batch", names, "0.1.0")
        record = self.catalog.begin_run(replace(begun, created=created or datetime.now(UTC)))
        folder = RunFolder(self.settings.runs / record.id, [name for ref in refs for name in ref.names])
        for number, ref in enumerate(refs):
            found = (region(confidence + 0.001 * (number % 9), rows),) if shown(number) else ()
            flat = np.zeros((2, 2), np.float32)
            folder.write(ref, AnomalyResult(ref.key, bundle.id, flat, True, 0.0, found, {}), (SIDE, SIDE))
        folder.close(refs, {"run": record.id})
        images = [RunImage.of(ref, "labelled", height=SIDE, width=SIDE) for ref in refs]
        self.catalog.record_images(record.id, images)
        counts = {"labelled": len(refs), "reused": 0, "quarantined": 0, "regions": 0, "model_calls": 0}
        return self.catalog.finish_run(record.id, **counts, seconds=1.0)

    def review(self, refs: Sequence[ImageRef], accepted: Callable[[int], bool], *, aided: bool = True) -> None:
        """An expert who takes a region as it is, or throws it away."""
        shown = PredictedRegion("r", "defect", "defect", 0.8, encode(block()))
        kept = RegionReview("accepted", shown, ReviewedRegion("r", "defect", shown.mask), 1.0)
        gone = RegionReview("rejected", shown, None, None)
        drawn = RegionReview("added", None, ReviewedRegion(None, "defect", shown.mask), None)
        reviews = [
            Review("plate", ref.key, "masks", ref.names[0], "submitted", "anna", datetime.now(UTC), None, "", None,
                   None, None, aided, (kept if accepted(number) else gone, drawn))
            for number, ref in enumerate(refs)
        ]  # fmt: skip
        self.catalog.add_reviews(reviews)

    def watched(self) -> Watched:
        found = watched(self.catalog, self.store, self.settings, "plate")
        assert found is not None
        return found

    def alarms(self) -> dict[str, set[str]]:
        """What is said of each lot."""
        found: dict[str, set[str]] = {}
        for alarm in watch(self.catalog, self.store, self.settings, "plate"):
            found.setdefault(alarm.lot, set()).add(alarm.what)
        return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    settings = Settings.load(workspace=tmp_path)
    models = build()
    method = SegmentAnyAnomaly(models.generator, models.refiner, Greys())
    store = CandidateStore(BlobStore(str(tmp_path / "blobs")), method, 10**6)
    with Catalog(settings.catalog_url) as catalog:
        for bundle in (OLD, NEW):
            catalog.add_bundle(bundle)
        yield Place(catalog, settings, store)


@pytest.fixture
def promoted(place: Place) -> Place:
    """Two lots were labelled and decided by the champion; it was promoted since."""
    for lot in ("1", "2"):
        refs = place.photographs(20, lot=lot)
        place.label(refs, created=WEEK_AGO)
        place.review(refs, lambda number: number % 10 > 0)
    place.catalog.promote(OLD.id, reason="to begin with")
    return place


def test_without_a_promotion_nothing_is_watched(place: Place) -> None:
    place.label(place.photographs())
    assert watched(place.catalog, place.store, place.settings, "plate") is None
    assert watch(place.catalog, place.store, place.settings, "plate") == ()


def test_what_is_compared(promoted: Place) -> None:
    refs = promoted.photographs(lot="3")
    promoted.label(refs, shown=lambda number: number < 10, rows=8)
    promoted.review(refs[:5], lambda number: number < 3)
    found = promoted.watched()
    reference, (lot,) = found.reference, found.lots
    assert (found.images, found.blind) == (40, False)
    assert (reference.images, reference.shown, reference.reviewed, reference.accepted) == (40, 40, 40, 36)
    assert (lot.lot, lot.images, lot.shown, lot.reviewed, lot.accepted) == ("3", 40, 10, 5, 3)
    assert sorted(lot.confidences) == pytest.approx(sorted(SURE + 0.001 * (number % 9) for number in range(10)))
    assert set(lot.areas) == {8 * 6 / SIDE**2}
    assert set(reference.areas) == {4 * 6 / SIDE**2}
    assert lot.descriptors.shape == reference.descriptors.shape == (40, len(promoted.store.descriptor(refs[0])))


def test_a_lot_like_those_before_is_silent(promoted: Place) -> None:
    refs = promoted.photographs(lot="3")
    run = promoted.label(refs)
    promoted.review(refs, lambda number: number % 10 > 0)
    assert promoted.alarms() == {}
    assert notes(promoted.catalog, promoted.store, promoted.settings, run) == ()


def test_each_way_to_drift_is_seen_in_its_own_lot(promoted: Place) -> None:
    promoted.label(promoted.photographs(lot="unsure"), confidence=UNSURE)
    promoted.label(promoted.photographs(lot="large"), rows=9)
    promoted.label(promoted.photographs(lot="empty"), shown=lambda number: number < 3)
    promoted.label(promoted.photographs(grey=180, lot="bright"))
    refused = promoted.photographs(lot="refused")
    promoted.label(refused)
    promoted.review(refused, lambda number: number < 10)
    assert promoted.alarms() == {
        "unsure": {"distance of confidences", "stability of confidences"},
        "large": {"distance of areas"},  # not its stability: all areas before are alike, one bin holds them all
        "empty": {"images with regions"},
        "bright": {"mean features"},
        "refused": {"accept rate"},
    }


def test_what_experts_drew_without_our_masks_says_nothing_of_them(promoted: Place) -> None:
    refs = promoted.photographs(lot="3")
    promoted.label(refs)
    promoted.review(refs, lambda number: False, aided=False)
    assert promoted.alarms() == {}
    assert promoted.watched().lots[0].reviewed == 0


def test_another_bundles_regions_are_no_measure_until_the_champion_decides_on_them(place: Place) -> None:
    before = place.photographs(lot="1")
    place.label(before, OLD, created=WEEK_AGO)
    place.catalog.promote(NEW.id, reason="better")
    place.label(place.photographs(lot="2"), NEW, confidence=UNSURE)
    place.label(place.photographs(grey=180, lot="3"), NEW, confidence=UNSURE)
    assert place.watched().blind
    assert place.alarms() == {"3": {"mean features"}}
    place.label(before, NEW)  # again, after the promotion: it stays a lot from before it
    assert not place.watched().blind
    assert [lot.lot for lot in place.watched().lots] == ["2", "3"]
    assert "distance of confidences" in place.alarms()["2"]


def test_the_newest_run_of_an_image_counts(promoted: Place) -> None:
    refs = promoted.photographs(lot="3")
    promoted.label(refs, confidence=UNSURE)
    assert "3" in promoted.alarms()
    promoted.label(refs)
    assert promoted.alarms() == {}


def test_runs_of_other_models_count_nowhere(promoted: Place) -> None:
    promoted.label(promoted.photographs(lot="3"), confidence=UNSURE, models={"generator": "another"})
    assert promoted.watched().lots == ()


def test_without_a_lot_the_run_is_the_lot(place: Place) -> None:
    place.label(place.photographs(), created=WEEK_AGO)
    place.catalog.promote(OLD.id, reason="to begin with")
    run = place.label(place.photographs(), confidence=UNSURE)
    assert [lot.lot for lot in place.watched().lots] == [f"of run {run.id}"]
    (sentence, *_) = notes(place.catalog, place.store, place.settings, run)
    assert sentence.startswith(f"Lot of run {run.id}: ")


def test_a_run_is_told_of_its_own_lots(promoted: Place) -> None:
    first = promoted.label(promoted.photographs(grey=180, lot="3"))
    second = promoted.label(promoted.photographs(lot="4"))
    told = [notes(promoted.catalog, promoted.store, promoted.settings, run) for run in (first, second)]
    assert [len(sentences) for sentences in told] == [1, 0]
    assert told[0][0].startswith("Lot 3: its images look different")
    assert told[0][0].endswith(f"{ADVICE}.")


def test_too_few_images_before_say_nothing(place: Place) -> None:
    place.label(place.photographs(LEAST - 1), created=WEEK_AGO)
    place.catalog.promote(OLD.id, reason="to begin with")
    place.label(place.photographs(grey=200, lot="3"), confidence=UNSURE)
    assert (place.watched().images, place.watched().lots) == (LEAST - 1, ())
    assert place.alarms() == {}


def test_the_newest_lots_are_compared(promoted: Place) -> None:
    for number in range(LOTS + 2):
        promoted.label(promoted.photographs(2, lot=f"new {number:02}"))
    assert [lot.lot for lot in promoted.watched().lots] == [f"new {number:02}" for number in range(2, LOTS + 2)]


def test_after_a_rollback_the_lots_since_the_champions_own_promotion_are_watched(promoted: Place) -> None:
    promoted.label(promoted.photographs(lot="3"), confidence=UNSURE)
    promoted.catalog.promote(NEW.id, reason="better")
    promoted.catalog.rollback("plate", reason="it was not")
    assert "3" in promoted.alarms()


@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_images_of_a_lost_run_count_as_not_decided(promoted: Place, harm: str) -> None:
    run = promoted.label(promoted.photographs(grey=180, lot="3"), confidence=UNSURE)
    folder = promoted.settings.runs / run.id
    if harm == "gone":
        shutil.rmtree(folder)
    else:
        (folder / "regions.jsonl").write_text("{}\n")
        with pytest.raises(Exception, match="cannot be read"):
            list(read_records(folder))
    assert promoted.alarms() == {"3": {"mean features"}}
    shutil.rmtree(promoted.settings.workspace / "blobs" / "descriptor")
    assert promoted.alarms() == {}
