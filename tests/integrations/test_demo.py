import hashlib
import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from integrations.demo import DAYS, DEFECTS, MONDAY, SURFACES, TUESDAY, Day, make_demo, make_surface


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("work"))


def fingerprints(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_layout_is_that_of_mvtec_with_a_mask_for_every_defective_image(demo):
    assert demo.name == "demo"
    assert sorted(path.name for path in demo.iterdir()) == ["monday", "tuesday"]
    for day, surface in itertools.product(DAYS, SURFACES):
        folder = demo / day.name / surface
        assert sorted(path.name for path in (folder / "test").iterdir()) == sorted(("good", *DEFECTS))
        assert not (folder / "ground_truth" / "good").exists()
        assert stems(folder / "test" / "good") == [f"{number:03}" for number in day.good]
        for defect in DEFECTS:
            assert stems(folder / "test" / defect) == [f"{number:03}" for number in day.defective]
            assert stems(folder / "ground_truth" / defect) == [f"{number:03}_mask" for number in day.defective]


def test_there_is_enough_of_each_day_to_refine_and_to_measure():
    # A refinement wants 8 defective and 20 good images, and experts skip and overlook some.
    assert len(MONDAY.good) >= 24
    assert len(MONDAY.defective) * len(DEFECTS) >= 12
    assert len(TUESDAY.defective) >= 2
    assert not set(MONDAY.good) & set(TUESDAY.good)
    assert not set(MONDAY.defective) & set(TUESDAY.defective)


def stems(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.iterdir())


def test_files_hold_what_was_made(demo):
    for kind, number, sample in make_surface("gravel", TUESDAY):
        image = cv2.imread(str(demo / "tuesday" / "gravel" / "test" / kind / f"{number:03}.png"), cv2.IMREAD_UNCHANGED)
        assert image.shape == (256, 256)
        assert np.array_equal(image, sample.image)
        if kind != "good":
            mask = demo / "tuesday" / "gravel" / "ground_truth" / kind / f"{number:03}_mask.png"
            written = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
            assert set(np.unique(written)) == {0, 255}
            assert np.array_equal(written > 0, sample.mask)


@pytest.mark.parametrize("surface", SURFACES)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_masks_are_exactly_the_changed_pixels_and_visibly_changed(surface, seed):
    for kind, _, sample in make_surface(surface, Day("any", range(2), range(seed % 5, seed % 5 + 2)), seed):
        change = np.abs(sample.image.astype(int) - sample.clean)
        assert np.array_equal(change > 0, sample.mask)
        assert sample.mask.any() == (kind != "good")
        if kind != "good":
            assert change[sample.mask].min() >= 4
            assert 50 < sample.mask.sum() < 0.2 * sample.mask.size


def test_no_two_images_are_the_same(demo):
    found = [print_ for name, print_ in fingerprints(demo).items() if "/test/" in name]
    made = sum(len(day.good) + len(DEFECTS) * len(day.defective) for day in DAYS)
    assert len(found) == len(set(found)) == made * len(SURFACES)


def test_seeds_decide(demo, tmp_path):
    again, other = make_demo(tmp_path / "again"), make_demo(tmp_path / "other", seed=1)
    assert fingerprints(again) == fingerprints(demo)
    assert fingerprints(other).keys() == fingerprints(demo).keys()
    assert not set(fingerprints(other).values()) & set(fingerprints(demo).values())


@pytest.mark.slow
def test_second_call_touches_only_what_is_missing_or_damaged(tmp_path):
    demo = make_demo(tmp_path)
    whole = fingerprints(demo)
    missing, damaged = demo / "tuesday/brick/test/good/003.png", demo / "monday/grass/ground_truth/chip/005_mask.png"
    missing.unlink()
    damaged.write_bytes(damaged.read_bytes()[:100])
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*.png") if path != damaged}
    make_demo(tmp_path)
    assert fingerprints(demo) == whole
    assert {path: path.stat().st_mtime_ns for path in before} == before
