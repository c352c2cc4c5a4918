"""Sets of models that can run the method, by the names that the user gives them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from saa_core.checkpoints import CHECKPOINTS, Checkpoint, require, timm_checkpoint
from saa_core.features.base import FeatureExtractor
from saa_core.features.filter_bank import FilterBank
from saa_core.generators.base import RegionGenerator
from saa_core.generators.lexical import Lexical
from saa_core.pipeline import SegmentAnyAnomaly
from saa_core.prompts import PromptBundle
from saa_core.refiners.base import RegionRefiner
from saa_core.refiners.contour import Contour
from saa_core.refiners.sam import SIZES as SAMS
from saa_core.runtime import Compute, DeviceName, Precision, Runtime, choose
from saa_core.tiling import TiledExtractor, TiledGenerator, TiledRefiner, Tiling

BACKBONE = "wide_resnet50_2"
"""Of the paper's features."""
BERT = "bert-base-uncased"
DETECTORS = {"swint": "groundingdino-swint-ogc", "swinb": "groundingdino-swinb-cogcoor"}
"""Names of the checkpoints."""
_IMAGES_ON_ACCELERATOR = 4
_loading = Lock()


class ModelSetup(BaseModel):
    """Which models run the method, and how. Names and files; no model is loaded by it.

    Attributes:
        models: `weight-free` is the lexical generator, the contour refiner and filter-bank features: no weights, no
            GPU, any machine. They stand in for `foundation`, GroundingDINO, SAM and a CNN, and are not these.
        features: Backbone of the features, any of timm's, or NAME:FILE for a state dict of one's own; None is the
            set's own.
        detector: GroundingDINO: `swint` or `swinb`, or one of these, ':' and a file of weights of one's own.
        sam: SAM: `vit_b`, `vit_l` or `vit_h`, or the same with a file.
        captions: One caption for each phrase as in the released program, or all phrases in one; a few times faster,
            but phrases then see one another.
        precision: Of the networks.
        runtime: What runs SAM's encoder and the CNN on a CPU.
        tile: Side in pixels of the tiles that larger images are looked at in; None looks at the whole image only.
        overlap: Share of a tile that its neighbour shows too.
        device: Where networks run. Like `weights`, no part of what a run is.
        weights: Folder of the checkpoints.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: Literal["weight-free", "foundation"] = "weight-free"
    features: str | None = None
    detector: str = Field(default="swint", pattern="^(swint|swinb)(:.+)?$")
    sam: str = Field(default="vit_h", pattern="^vit_[blh](:.+)?$")
    captions: Literal["separate", "joint"] = "separate"
    precision: Precision = "float32"
    runtime: Runtime = "torch"
    tile: int | None = Field(default=None, ge=128)
    overlap: float = Field(default=0.2, ge=0.0, le=0.5)
    device: DeviceName = "auto"
    weights: Path | None = None

    @property
    def weight_free(self) -> bool:
        """Whether no network takes part."""
        return self.models == "weight-free" and self.features is None


WEIGHT_FREE = ModelSetup()


def build(setup: ModelSetup = WEIGHT_FREE, bundle: PromptBundle | None = None) -> SegmentAnyAnomaly:
    """The method over a set of models, with a call count of its own. Networks are loaded when they are first asked.

    Args:
        setup: Which models.
        bundle: Whose saliency prompt says what the features are taken from; None leaves it to the extractor.

    Raises:
        SaaError: A package, a device or a checkpoint is not there; its message says what to do.
    """
    with _loading:  # of threads that ask at once, one loads and the others find
        models = _models(setup)
    method = SegmentAnyAnomaly(*models, _images_at_once(setup))
    return method if bundle is None else method.at(bundle)


@lru_cache(maxsize=4)
def _models(setup: ModelSetup) -> tuple[RegionGenerator, RegionRefiner, FeatureExtractor]:
    compute = None if setup.weight_free else choose(setup.device, setup.precision, setup.runtime)
    generator: RegionGenerator = Lexical()
    refiner: RegionRefiner = Contour()
    extractor: FeatureExtractor = FilterBank()
    if compute and setup.models == "foundation":
        require(checkpoints_of(setup), setup.weights)  # one error that names all that is absent
        generator, refiner = _foundation(setup, compute)
    if compute:
        extractor = _cnn(setup, compute)
    if setup.tile is None:
        return generator, refiner, extractor
    tiling = Tiling(setup.tile, setup.overlap)
    return TiledGenerator(generator, tiling), TiledRefiner(refiner, tiling), TiledExtractor(extractor, tiling)


def _foundation(setup: ModelSetup, compute: Compute) -> tuple[RegionGenerator, RegionRefiner]:
    from saa_core.generators.grounding_dino import GroundingDino
    from saa_core.refiners.sam import Sam

    detector = GroundingDino.load(setup.detector, setup.weights, compute, setup.captions)
    return detector, Sam.load(setup.sam, setup.weights, compute)


def _cnn(setup: ModelSetup, compute: Compute) -> FeatureExtractor:
    from saa_core.features.timm_cnn import TimmCnn

    return TimmCnn.load(setup.features or BACKBONE, setup.weights, compute)


def checkpoints_of(setup: ModelSetup) -> tuple[Checkpoint, ...]:
    """The published files that a set of models is loaded from.

    Raises:
        CheckpointError: timm knows no backbone of that name, or has no weights for it.
    """
    found = []
    if setup.models == "foundation":
        names = [DETECTORS.get(setup.detector), BERT, SAMS.get(setup.sam)]  # none of a file of one's own
        found = [CHECKPOINTS[name] for name in names if name]
    backbone = setup.features or (BACKBONE if setup.models == "foundation" else ":")
    return tuple(found if ":" in backbone else [*found, timm_checkpoint(backbone)])


def _images_at_once(setup: ModelSetup) -> int:
    """On a CPU a second image only costs memory."""
    if setup.models == "weight-free" or choose(setup.device, setup.precision, setup.runtime).device == "cpu":
        return 1
    return _IMAGES_ON_ACCELERATOR
