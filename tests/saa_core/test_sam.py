"""SAM: every number against segment-anything's own predictor, and boxes that must not break it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor, sam_model_registry

from saa_core import masks
from saa_core.errors import CheckpointError
from saa_core.images import load_image
from saa_core.refiners import RegionRefiner
from saa_core.refiners.sam import Sam
from saa_core.runtime import Compute
from saa_core.types import RGB, Boxes
from tests.contracts.images import noise, peak
from tests.contracts.refiner import RegionRefinerContract
from tests.foundation import tiny_sam

DIGEST = "0" * 64
REAL = [
    "mvtec_ad/pill/test/contamination/002.png",
    "magnetic_tile/magnetic_tile/test/blowhole/000.png",
    "mvtec_ad/bottle/test/broken_large/000.png",
]
NEAR = 1e-4
"""A pixel whose logit is this near to the threshold may fall on either side."""


@pytest.fixture(scope="module")
def sam() -> Iterator[Sam]:
    refiner, before = Sam(tiny_sam(), DIGEST, "tiny", Compute()), torch.get_num_threads()
    torch.set_num_threads(1)  # operations this small are faster without company
    yield refiner
    torch.set_num_threads(before)


class TestSamIsARefiner(RegionRefinerContract):
    @pytest.fixture
    def refiner(self, sam: Sam) -> RegionRefiner:
        return sam


@pytest.fixture(params=REAL)
def image(request: pytest.FixtureRequest, shared: Path) -> RGB:
    return load_image((shared / "data" / "dev" / request.param).read_bytes(), request.param).pixels


def boxes_in(image: RGB, count: int = 12) -> Boxes:
    height, width = image.shape[:2]
    rng = np.random.default_rng(count)
    middle, sides = rng.random((count, 2)), 0.05 + 0.5 * rng.random((count, 2))
    shares = np.concatenate([middle - sides / 2, middle + sides / 2], axis=1)
    return (shares * [width, height, width, height]).astype(np.float32)


def predicted(model: Any, image: RGB, boxes: Boxes) -> tuple[Any, Any, Any]:
    """Embedding (C, h, w), logits (n, H, W) at full size, and predicted IoU (n,), by segment-anything itself."""
    predictor = SamPredictor(model)
    predictor.set_image(image)
    seen = predictor.transform.apply_boxes_torch(torch.tensor(boxes), image.shape[:2])
    logits, iou, _ = predictor.predict_torch(None, None, boxes=seen, multimask_output=False, return_logits=True)
    return predictor.features[0].numpy(), logits[:, 0].numpy(), iou[:, 0].numpy()


def test_is_the_predictors_on_real_images(sam: Sam, image: RGB) -> None:
    boxes = boxes_in(image)
    embedding, logits, _ = predicted(tiny_sam(), image, boxes)
    np.testing.assert_allclose(sam.embed(image), embedding, atol=1e-5)
    found = sam(image, boxes, peak())
    shares = [mask.area / logits[0].size for mask in found.masks]
    assert min(shares) > 0.01
    assert max(shares) < 0.99
    for mask, expected in zip(found.masks, logits, strict=True):
        differs = masks.decode(mask) != (expected > 0)
        assert (np.abs(expected[differs]) < NEAR).all()
        assert differs.mean() < 1e-3


def test_quality_is_predicted_iou_and_stability(sam: Sam) -> None:
    image = noise((128, 128))  # of SAM's own size: its grid is a quarter of it
    boxes = boxes_in(image)
    predictor = SamPredictor(tiny_sam())
    predictor.set_image(image)
    _, iou, logits = predictor.predict_torch(None, None, boxes=torch.tensor(boxes), multimask_output=False)
    for quality, sure, grid in zip(sam(image, boxes, peak()).quality, iou[:, 0], logits[:, 0], strict=True):
        inner, outer = int((grid > 1).sum()), int((grid > -1).sum())
        stability = inner / outer if outer else 0.0
        # A logit next to +1 or -1 may be counted on either side.
        assert quality == pytest.approx((min(max(float(sure), 0.0), 1.0) * stability) ** 0.5, abs=2e-3)
    assert sam(image, boxes, peak()).quality.max() > 0.1


def test_a_mask_does_not_depend_on_its_company(sam: Sam) -> None:
    image, boxes = noise((90, 70)), boxes_in(noise((90, 70)))
    together = sam(image, boxes, peak())
    for row in range(len(boxes)):
        alone = sam(image, boxes[row : row + 1], peak())
        assert alone.masks[0] == together.masks[row]
        assert alone.quality[0] == together.quality[row]


def test_boxes_without_pixels_have_empty_masks(sam: Sam) -> None:
    image = noise((40, 50))
    good = [10.0, 10.0, 30.0, 30.0]
    bad = [
        [np.nan, 1, 5, 5],
        [np.inf, 1, np.inf, 5],
        [5, 5, 5, 9],
        [9, 5, 3, 9],
        [-9, -9, -1, -1],
        [50, 0, 60, 9],
    ]
    found = sam(image, np.array([good, *bad], np.float32), peak())
    assert [mask.area > 0 for mask in found.masks] == [True] + [False] * len(bad)
    assert (found.quality[1:] == 0).all()
    assert found.masks[0] == sam(image, np.array([good], np.float32), peak()).masks[0]


def test_an_embedding_of_half_precision_will_do(sam: Sam, image: RGB) -> None:
    boxes = boxes_in(image, 4)
    rounded = sam.embed(image).astype(np.float16).astype(np.float32)
    for mask, other in zip(sam(image, boxes, peak(), rounded).masks, sam(image, boxes, peak()).masks, strict=True):
        assert (masks.decode(mask) == masks.decode(other)).mean() > 0.99


def test_without_boxes_nothing_is_embedded() -> None:
    refiner = Sam(tiny_sam(), DIGEST, "tiny", Compute())
    refiner.__dict__["_encode"] = None  # would fail if it were called
    assert refiner(noise((20, 30)), np.zeros((0, 4), np.float32), peak()).masks == ()


def test_openvino_gives_the_same(sam: Sam, tmp_path: Path) -> None:
    quick = Sam(tiny_sam(), DIGEST, "tiny", Compute(runtime="openvino", cache=tmp_path))
    image = noise((90, 128))
    np.testing.assert_allclose(quick.embed(image), sam.embed(image), atol=1e-4)
    assert quick.id == f"{sam.id}-openvino"


def test_reduced_precision_is_named_and_near(sam: Sam) -> None:
    coarse = Sam(tiny_sam(), DIGEST, "tiny", Compute(precision="bfloat16"))
    image = noise((90, 128))
    difference = np.abs(coarse.embed(image) - sam.embed(image)).max()
    assert 0 < difference < 0.2
    assert coarse.id == f"{sam.id}-bfloat16"


def test_a_file_of_another_network_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=r"mine\.pth"):
        Sam.load(f"vit_b:{path}", None, Compute())


def test_a_published_network_that_is_absent_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"sam_vit_h_4b8939\.pth"):
        Sam.load("vit_h", tmp_path, Compute())


@pytest.mark.slow
def test_the_published_size_from_a_file(tmp_path: Path, shared: Path) -> None:
    torch.manual_seed(0)
    model = sam_model_registry["vit_b"]()
    torch.save(model.state_dict(), tmp_path / "vit_b.pth")
    refiner = Sam.load(f"vit_b:{tmp_path / 'vit_b.pth'}", None, Compute())
    image = load_image((shared / "data" / "dev" / REAL[2]).read_bytes(), REAL[2]).pixels
    boxes = boxes_in(image, 3)
    embedding, logits, _ = predicted(model.eval(), image, boxes)
    np.testing.assert_allclose(refiner.embed(image), embedding, atol=1e-4)
    for mask, expected in zip(refiner(image, boxes, peak()).masks, logits, strict=True):
        differs = masks.decode(mask) != (expected > 0)
        assert (np.abs(expected[differs]) < 1e-3).all()


@pytest.mark.parametrize("size", [(1, 400), (400, 1)])
def test_an_image_of_one_line_is_seen(sam: Sam, size: tuple[int, int]) -> None:
    """At SAM's size it would have no line at all."""
    image = noise(size)
    whole = np.array([[0, 0, size[1], size[0]]], np.float32)
    found = sam(image, whole, peak())
    assert found.masks[0].size == size
    assert np.isfinite(sam.embed(image)).all()


def test_stability_is_that_of_the_image_without_its_padding(sam: Sam) -> None:
    image = noise((48, 128))
    boxes = boxes_in(image)
    predictor = SamPredictor(tiny_sam())
    predictor.set_image(image)
    _, iou, logits = predictor.predict_torch(None, None, boxes=torch.tensor(boxes), multimask_output=False)
    shown = logits[:, 0, :12]  # a quarter of 48 of the 32 lines
    stability = (shown > 1).sum((1, 2)) / (shown > -1).sum((1, 2)).clamp(min=1)
    expected = (iou[:, 0].clamp(0, 1) * stability).sqrt()
    np.testing.assert_allclose(sam(image, boxes, peak()).quality, expected.numpy(), atol=1e-4)
