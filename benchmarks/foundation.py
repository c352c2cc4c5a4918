"""The foundation models: seconds and peak memory of each stage, the plain order over ours, from one run.

    python benchmarks/foundation.py IMAGE VOCABULARY [--sam vit_b]

A ratio over 1 means ours is faster. The setting is the paper's: GroundingDINO Swin-T at 800 pixels, SAM at 1024,
WideResNet50-2 at 256, five captions and the object's name. Weights are random and the same on both sides; the boxes
that SAM gets are made, 150 of them with scores as a detector gives them, since random weights find anything or nothing.

The plain order is that of the released program over the packages as they are: one pass of GroundingDINO for each
caption, SAM's decoder on all boxes at once up to full size, the object's too. The floor is what the arithmetic of a
stage takes at the rate that this machine multiplies large matrices with, counted on the plain networks.
"""

import argparse
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from groundingdino.models import build_model
from segment_anything import SamPredictor, sam_model_registry
from torch.utils.flop_counter import FlopCounterMode

from saa_core import pipeline
from saa_core.features.timm_cnn import TimmCnn
from saa_core.generators.base import Proposals, Request, merge
from saa_core.generators.grounding_dino import GroundingDino
from saa_core.generators.grounding_model import ARCHITECTURES, bert, build, tokenizer
from saa_core.images import load_image
from saa_core.lazy import refine_lazily
from saa_core.maps import resize
from saa_core.prompts import PromptBundle
from saa_core.refiners.sam import Sam
from saa_core.runtime import Compute, processors
from saa_core.types import RGB, Boxes, FloatMap, Query

CAPTIONS = ("defect on bottle", "damage on bottle", "flaw on bottle", "broken part", "contamination")
NEW = ("white crack", "black hole")
OBJECT = "bottle"
BOXES, OBJECT_BOXES = 150, 5
BUNDLE = PromptBundle.from_content(
    {
        "product": OBJECT,
        "profile": "reference",
        "language": {"object": OBJECT, "agnostic": list(CAPTIONS)},
        "property": {"area_max": 0.9},
    }
)
NOTHING = np.zeros((1, 1), np.float32)
Measured = tuple[float, float, Any]


def measured(call: Callable[[], Any]) -> Measured:
    """Seconds, peak memory of the process in MiB while it ran, and what it gave."""
    Path("/proc/self/clear_refs").write_text("5")
    start = perf_counter()
    given = call()
    seconds = perf_counter() - start
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return seconds, int(peak.split()[1]) / 1024, given


def shortest(call: Callable[[], Any]) -> Measured:
    """The shortest of four, since other guests of the same hardware slow down any of them."""
    return min((measured(call) for _ in range(4)), key=lambda one: one[0])


def matrix_rate() -> float:
    """Floating-point operations a second of a large product in float32, as the fast paths compute it."""
    weight = torch.ops.mkldnn._reorder_linear_weight(torch.randn(4096, 4096))
    rows = torch.randn(4096, 4096)
    best = min(
        measured(lambda: torch.ops.mkldnn._linear_pointwise(rows, weight, None, "none", [], ""))[0] for _ in range(5)
    )
    return 2 * 4096**3 / best


def operations(call: Callable[[], Any]) -> float:
    """Floating-point operations of a call, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


class Plain:
    """The packages as they are, over the same weights."""

    def __init__(self, network: Any, sam: Any, backbone: Any, vocabulary: Path, image: RGB) -> None:
        import groundingdino.datasets.transforms as t
        import PIL.Image

        with tempfile.TemporaryDirectory() as folder:
            tokenizer(vocabulary, 30522).save_pretrained(folder)
            network.bert.save_pretrained(folder)
            settings = ARCHITECTURES["swint"].settings()
            # As its configuration has them: checkpointing on.
            settings.use_checkpoint = settings.use_transformer_ckpt = True
            settings.text_encoder_type, settings.device = folder, "cpu"
            self.detector = build_model(settings)
        self.detector.load_state_dict(network.state_dict(), strict=False)
        self.detector.eval()
        self.predictor, self.backbone, self.image = SamPredictor(sam), backbone.eval(), image
        steps = [t.RandomResize([800], max_size=1333), t.ToTensor()]
        steps.append(t.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        self.pixels = t.Compose(steps)(PIL.Image.fromarray(image), None)[0][None]

    def detect(self, captions: tuple[str, ...] = (*CAPTIONS, OBJECT)) -> None:
        """A pass for each caption."""
        with torch.no_grad():
            for caption in captions:
                self.detector(self.pixels, captions=[f"{caption}."])

    def embed(self) -> None:
        """SAM's encoder."""
        self.predictor.set_image(self.image)

    def draw(self, boxes: Boxes) -> Any:
        """All boxes at once, to full size."""
        size = self.image.shape[:2]
        seen = self.predictor.transform.apply_boxes_torch(torch.from_numpy(boxes), size)
        found, _, _ = self.predictor.predict_torch(None, None, boxes=seen, multimask_output=False)
        return found.squeeze(1).numpy()

    def saliency(self) -> FloatMap:
        """Features and the 400 farthest neighbours of Eq. 5, at the image's size."""
        import cv2

        small = torch.from_numpy(cv2.resize(self.image, (256, 256))).permute(2, 0, 1)[None].float()
        mean, std = (torch.tensor(v)[:, None, None] * 255 for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        with torch.no_grad():
            stages = self.backbone((small - mean) / std)
            stages = [torch.nn.functional.interpolate(stage, stages[0].shape[2:]) for stage in stages]
            cells = torch.nn.functional.normalize(torch.cat(stages, 1), dim=1).flatten(2)[0]
            distance = 0.5 * (1 - cells.T @ cells)
            found = distance.sort(dim=1, descending=True)[0][:, :400].mean(1).view(64, 64).numpy()
        return resize(found, self.image.shape[:2])

    def decide(self, boxes: Boxes, scores: Any, objects: Boxes) -> Any:
        """Everything after the detector; boxes as large as the object go before SAM sees them."""
        areas, largest = ((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (boxes, objects))
        fits = areas < BUNDLE.property.area_max * largest.max()
        boxes, scores = boxes[fits], scores[fits]
        self.embed()
        self.draw(objects)
        drawn, salient = self.draw(boxes), self.saliency()
        rescored = [s * np.exp(3 * salient[m].mean()) if m.any() else s for m, s in zip(drawn, scores, strict=True)]
        total, cover = np.zeros(salient.shape), np.ones(salient.shape)
        for row in np.argsort(rescored)[-5:]:
            total += drawn[row] * rescored[row]
            cover += drawn[row]
        return total / cover


@dataclass
class Made:
    """A detector that takes its time, unless it was asked before, and then gives boxes that were made."""

    inner: GroundingDino | None
    boxes: Boxes
    scores: Any
    objects: Boxes

    def parts(self, query: Query) -> tuple[Query, ...]:
        """One part a phrase, then the object."""
        return (*(Query((phrase,)) for phrase in query.phrases), Query((), object=query.object))

    def __call__(self, requests: Any) -> list[Proposals]:
        """All boxes belong to the first phrase."""
        if self.inner is not None:
            self.inner(requests)
        none = Proposals(np.zeros((0, 4), np.float32), np.zeros((0, 1), np.float32), peaks=np.zeros(0, np.float32))
        first = Proposals(self.boxes, self.scores[:, None], peaks=self.scores)
        objects = Proposals(none.boxes, np.zeros((0, 0), np.float32), object_boxes=self.objects)
        return [first, *(none for _ in requests[1:-1]), objects]


def make_boxes(image: RGB, count: int, seed: int) -> Boxes:
    """Boxes anywhere, small ones more often."""
    height, width = image.shape[:2]
    rng = np.random.default_rng(seed)
    middle, sides = rng.random((count, 2)), 0.02 + 0.3 * rng.random((count, 2)) ** 2
    shares = np.concatenate([middle - sides / 2, middle + sides / 2], axis=1)
    return (shares * np.tile([width, height], 2)).astype(np.float32)


def ask(generator: Any, image: RGB, query: Query) -> Proposals:
    """The generator's answer to a whole query."""
    parts = generator.parts(query)
    return merge(query, parts, generator([Request(image, part, NOTHING) for part in parts]))


def ours(generator: Any, sam: Any, cnn: TimmCnn, image: RGB, embedding: Any = None) -> Any:
    """The whole method on one image, lazily."""
    found = ask(generator, image, BUNDLE.query)
    bare = pipeline.without_masks("image", (image.shape[0], image.shape[1]), BUNDLE.query.phrases, found)
    salient = pipeline.saliency_map(cnn(image), BUNDLE.saliency)
    held = sam.embed(image) if embedding is None else embedding
    drawn = refine_lazily(bare, lambda boxes: sam(image, boxes, NOTHING, held), salient, BUNDLE, 0.0, 5)
    return pipeline.decide(drawn, salient, BUNDLE).map, drawn


def row(name: str, plain: Measured, mine: Measured, operations: float = 0.0, rate: float = 1.0) -> None:
    """Print a line of the table."""
    least = f"{operations / rate:.2f}" if operations else "-"
    ratio = plain[0] / mine[0]
    print(f"{name:44}{plain[0]:9.2f}{mine[0]:9.2f}{ratio:7.2f}{least:>9}{plain[1]:11.0f}{mine[1]:10.0f}", flush=True)


def main() -> None:
    """Measure, and print."""
    options = argparse.ArgumentParser()
    options.add_argument("image", type=Path)
    options.add_argument("vocabulary", type=Path, help="vocab.txt of bert-base-uncased")
    options.add_argument("--sam", default="vit_b")
    given = options.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(processors())
    image = load_image(given.image.read_bytes(), given.image.name).pixels

    with tempfile.TemporaryDirectory() as folder:
        words = Path(folder)
        (words / "vocab.txt").write_bytes(given.vocabulary.read_bytes())
        torch.manual_seed(0)
        network = build(ARCHITECTURES["swint"], bert())
        sams = [sam_model_registry[given.sam]() for _ in range(3)]
        for copy in sams[1:]:
            copy.load_state_dict(sams[0].state_dict())
        import timm

        cnn = timm.create_model("wide_resnet50_2", pretrained=False)
        features = timm.create_model("wide_resnet50_2", pretrained=False, features_only=True, out_indices=(1, 2, 3))
        features.load_state_dict(cnn.state_dict(), strict=False)
        plain = Plain(network, sams[0].eval(), features, words, image)
        compare(plain, image, network, sams[1:], cnn, words, given.sam)


def compare(plain: Plain, image: RGB, network: Any, sams: list[Any], cnn: Any, words: Path, size: str) -> None:
    """Print every stage of both orders. The plain side first: ours changes how the process keeps memory."""
    boxes, objects = make_boxes(image, BOXES, 0), make_boxes(image, OBJECT_BOXES, 1)
    scores = np.geomspace(0.6, 0.1, BOXES).astype(np.float32)
    one, embed_work = operations(lambda: plain.detect(CAPTIONS[:1])), operations(plain.embed)
    eq5 = operations(plain.saliency)
    alone, detect, embed = measured(lambda: plain.detect(CAPTIONS[:1])), measured(plain.detect), shortest(plain.embed)
    draw = measured(lambda: (plain.draw(objects), plain.draw(boxes)))
    salient, rest = measured(plain.saliency), measured(lambda: plain.decide(boxes, scores, objects))
    everything = detect[0] + rest[0], max(detect[1], rest[1]), rest[2]

    def detector(mode: Any) -> GroundingDino:
        return GroundingDino(network, tokenizer(words, 30522), "0" * 64, "swint", Compute(), mode)

    separate, joint = detector("separate"), detector("joint")
    sam = Sam(sams[0], "0" * 64, size, Compute())
    extractor = TimmCnn(cnn, "wide_resnet50_2", "0" * 64, Compute())
    rate = matrix_rate()
    print(f"{'':44}{'plain s':>9}{'ours s':>9}{'ratio':>7}{'floor s':>9}{'plain MiB':>11}{'ours MiB':>10}")
    ask(separate, image, Query(NEW[:1]))
    row("detector, one caption", alone, measured(lambda: ask(separate, image, Query(NEW[1:]))), one, rate)
    row("detector, 5 + object, separate", detect, measured(lambda: ask(separate, image, BUNDLE.query)), 6 * one, rate)
    row("detector, 5 + object, joint", detect, measured(lambda: ask(joint, image, BUNDLE.query)), 2 * one, rate)
    sam.embed(image)
    mine = shortest(lambda: sam.embed(image))
    row(f"SAM {size}, encoder", embed, mine, embed_work, rate)
    fast = Sam(sams[1], "0" * 64, size, Compute(runtime="openvino", cache=words))
    fast.embed(image)
    quick = shortest(lambda: fast.embed(image))
    row(f"SAM {size}, encoder by OpenVINO", embed, quick, embed_work, rate)
    truth = plain.predictor.features[0].numpy()
    for name, found in (("torch", mine), ("OpenVINO", quick)):
        print(f"    embedding by {name}: largest difference {np.abs(found[2] - truth).max():.1e}")
    extractor(image)
    salient_ours = measured(lambda: pipeline.saliency_map(extractor(image), BUNDLE.saliency))
    row("features and Eq. 5", salient, salient_ours, eq5, rate)
    held, made = mine[2], Made(separate, boxes, scores, objects)
    lazily = measured(lambda: ours(replace(made, inner=None), sam, extractor, image, held))
    row(f"decoder, {BOXES} boxes, {OBJECT_BOXES} objects, K = 5 (ours: with Eq. 5)", draw, lazily)
    drawn = BOXES - int(lazily[2][1].pending.sum())
    apart = np.abs(everything[2] - lazily[2][0])
    print(
        f"    ours makes {drawn} masks; the maps of both orders differ by more than 1e-4 at "
        f"{(apart > 1e-4).mean():.2%} of the pixels"
    )
    whole = measured(lambda: ours(made, sam, extractor, image))
    row("whole image, separate", everything, whole)
    again = measured(
        lambda: (ask(separate, image, Query(NEW)), ours(replace(made, inner=None), sam, extractor, image, held))
    )
    row("first run over one with two new phrases", whole, again)
    print(
        f"matrix rate {rate / 1e9:.0f} GFLOP/s; a caption {one / 1e9:.0f} GFLOP, SAM {embed_work / 1e9:.0f}, "
        f"features and Eq. 5 {eq5 / 1e9:.0f}"
    )


if __name__ == "__main__":
    main()
