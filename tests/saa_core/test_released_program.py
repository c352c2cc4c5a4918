"""The profile `reference` end to end, against the released program put together by hand from the plain packages.

Everything on the plain side is written out from the right-hand column of the method's description: a pass of
groundingdino-py for each caption, SamPredictor on all boxes, timm's features, Eq. 5 with the farthest cells, Eq. 9 with
one added to the denominator. Networks are small and have random, equal weights on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import timm
import torch
from groundingdino.util.utils import get_phrases_from_posmap
from segment_anything import SamPredictor

from saa_core.features.timm_cnn import TimmCnn
from saa_core.generators.grounding_dino import GroundingDino
from saa_core.images import load_image
from saa_core.pipeline import SegmentAnyAnomaly, decide, saliency_map
from saa_core.prompts import PromptBundle
from saa_core.refiners.sam import Sam
from saa_core.runtime import Compute
from saa_core.types import RGB, FloatMap
from tests.foundation import SCALE, tiny_grounding_dino, tiny_network, tiny_sam
from tests.saa_core.test_grounding_dino import Plain, as_published, plain, seen_by

IMAGES = [
    "mvtec_ad/bottle/test/broken_large/000.png",
    "mvtec_ad/pill/test/contamination/002.png",
    "mvtec_ad/screw/test/good/000.png",
    "magnetic_tile/magnetic_tile/test/blowhole/000.png",
    "kolektorsdd/commutator/test/good/000.png",
]
BOX, TEXT, NEIGHBOURS, GAIN, K, AREA = 0.1, 0.1, 400, 3.0, 5, 0.9


def bundle(objects: int) -> PromptBundle:
    return PromptBundle.from_content(
        {
            "product": "bottle",
            "profile": "reference",
            "language": {
                "object": "bottle",
                "background": "bottle",
                "specific": [{"text": text, "caption": 0} for text in ("crack", "white print")],
            },
            "property": {"area_max": AREA, "objects": objects},
            "saliency": {"input": 128 if objects == 1 else 64},
        }
    )


CAPTIONS = ["defect on bottle.", "damage on bottle.", "flaw on bottle.", "crack. white print."]


def detected(detector: Plain, image: RGB, caption: str, most: float, background: str) -> tuple[Any, list[float]]:
    """Boxes as shares (n, 4), centre and sides, and scores, after the released program's filters."""
    found = detector(seen_by(SCALE, image), [caption])
    tokens, boxes = found.logits[0].sigmoid(), found.boxes[0]
    area = boxes[:, 2] * boxes[:, 3]
    tokenizer = detector.model.tokenizer
    kept, scores = [], []
    for row in torch.nonzero((tokens.amax(1) > BOX) & (area < most) & (area > 0)).ravel().tolist():
        phrase = get_phrases_from_posmap(tokens[row] > TEXT, tokenizer(caption), tokenizer)
        if background not in phrase:
            kept.append(boxes[row])
            scores.append(float(tokens[row].max()))
    return torch.stack(kept) if kept else torch.zeros(0, 4), scores


def drawn(predictor: SamPredictor, boxes: Any, size: tuple[int, int]) -> Any:
    height, width = size
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    corners = corners * torch.tensor([width, height, width, height])
    seen = predictor.transform.apply_boxes_torch(corners, size)
    found, _, _ = predictor.predict_torch(None, None, boxes=seen, multimask_output=False)
    return found[:, 0].numpy()


def cells(backbone: Any, image: RGB, side: int) -> Any:
    """Features (h, w, C) of unit length."""
    small = torch.from_numpy(cv2.resize(image, (side, side))).permute(2, 0, 1).float()
    mean, std = (torch.tensor(v)[:, None, None] * 255 for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        stages = backbone(((small - mean) / std)[None])
    size = stages[0].shape[2:]
    joined = torch.cat([torch.nn.functional.interpolate(stage, size) for stage in stages], 1)
    return torch.nn.functional.normalize(joined, dim=1)[0].permute(1, 2, 0)


def one_object(features: Any) -> FloatMap:
    flat = features.flatten(0, 1)
    distance = 0.5 * (1 - flat @ flat.T)
    farthest = distance.sort(dim=1, descending=True)[0][:, :NEIGHBOURS]
    return farthest.mean(1).view(*features.shape[:2]).numpy()  # type: ignore[no-any-return]


def released(
    image: RGB, detector: Plain, predictor: SamPredictor, backbone: Any, prompts: PromptBundle
) -> tuple[FloatMap, int]:
    """The released program's anomaly map of one image, and how many regions were behind it."""
    size = image.shape[0], image.shape[1]
    predictor.set_image(image)
    count = prompts.property.objects
    objects, _ = detected(detector, image, "bottle.", 1 / count, "PlaceHolder")
    object_area = float((objects[:, 2] * objects[:, 3]).max()) if len(objects) else 1.0
    found = [detected(detector, image, caption, AREA * object_area, "bottle") for caption in CAPTIONS]
    boxes, scores = torch.cat([each for each, _ in found]), [score for _, each in found for score in each]
    regions = drawn(predictor, boxes, size) if scores else np.zeros((0, *size), bool)
    features = cells(backbone, image, prompts.saliency.input or 256)
    salient = cv2.resize(one_object(features), size[::-1])
    rescored = [s * np.exp(GAIN * salient[r].mean()) if r.any() else s for r, s in zip(regions, scores, strict=True)]
    total, weight = np.zeros(size), np.ones(size)
    for row in np.argsort(rescored)[-K:]:
        total += regions[row] * rescored[row]
        weight += regions[row]
    return (total / weight).astype(np.float32), len(scores)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plain]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield plain(tiny_network(), tmp_path_factory.mktemp("published"))
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> GroundingDino:
    return tiny_grounding_dino(tmp_path_factory.mktemp("words"))


def resnet() -> Any:
    torch.manual_seed(0)
    return timm.create_model("resnet18", pretrained=False).eval()


@pytest.mark.parametrize("name", IMAGES)
def test_maps_are_the_released_programs(detector: Plain, generator: GroundingDino, shared: Path, name: str) -> None:
    image = load_image((shared / "data" / "dev" / name).read_bytes(), name).pixels
    prompts = bundle(objects=1)
    backbone = timm.create_model("resnet18", pretrained=False, features_only=True, out_indices=(1, 2, 3)).eval()
    backbone.load_state_dict(resnet().state_dict(), strict=False)
    with as_published():
        expected, count = released(image, detector, SamPredictor(tiny_sam()), backbone, prompts)

    extractor = TimmCnn(resnet(), "resnet18", "0" * 64, Compute())
    method = SegmentAnyAnomaly(generator, Sam(tiny_sam(), "0" * 64, "tiny", Compute()), extractor).at(prompts)
    found = method.propose("image", image, prompts.query, np.zeros((1, 1), np.float32))
    salient = saliency_map(method.features(image), prompts.saliency, found.objects)
    result = decide(found, salient, prompts)
    assert count > K  # boxes enough that Eq. 8 has to choose
    assert len(result.regions) == K
    # A pixel whose logit is within rounding of the threshold may fall on either side.
    differs = np.abs(result.map - expected) > 1e-4
    assert differs.mean() < 1e-4
    assert expected.max() > BOX
