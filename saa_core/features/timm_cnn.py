"""Features of a pre-trained CNN of timm, as SAA++ describes the cells of Eq. 5 (WideResNet50-2, stages 1 to 3).

Source: arXiv 2305.10724 and the program released with it. Networks come from timm, their weights from a local file.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np

from saa_core import runtime
from saa_core.checkpoints import check_keys, load_state, named, timm_checkpoint
from saa_core.errors import CheckpointError, SettingsError
from saa_core.features.base import FeatureLayout
from saa_core.prompts import SaliencyPrompt
from saa_core.runtime import Compute
from saa_core.types import RGB, FloatMap

_VERSION = "1"
_SIDE, _SIDE_OF_SEVERAL = 256, 1024
"""Side of the input in pixels, for one object and for several in an image, as in the released program."""
_STAGES = (1, 2, 3)
_LAST_STAGE = 4
_LEAST_LENGTH = 1e-12
"""A cell whose feature is shorter has no direction; as in the released program."""


@dataclass(frozen=True, eq=False)
class TimmCnn:
    """Stages of a CNN, upsampled to the finest of them and joined: float32 (h, w, C), each cell of unit length.

    Stage s is the network's last feature at 1 / 2**(s + 1) of the input: of a ResNet, what its layer s gives.

    Args:
        backbone: A classification network of timm with weights. It is put into evaluation mode, onto the device.
        name: timm's name of it.
        weights: Digest of the weights.
        compute: Where and how it runs.
        side: Pixels a side that the image is resized to, whatever its proportions.
        stages: Stages that are joined, the finest first.

    Raises:
        SettingsError: The network takes one size of input only, or has no such stage.

    Example:
        >>> cnn = TimmCnn.load("wide_resnet50_2", Path("weights"), Compute())
        >>> cnn(np.zeros((100, 200, 3), np.uint8)).shape
        (64, 64, 1792)
    """

    backbone: Any = field(repr=False)
    name: str
    weights: str
    compute: Compute
    side: int = _SIDE
    stages: tuple[int, ...] = _STAGES
    _made: dict[tuple[int, tuple[int, ...]], TimmCnn] = field(default_factory=dict, repr=False)
    _lock: Any = field(default_factory=Lock, repr=False)

    def __post_init__(self) -> None:
        """Prepare the network, once for all extractors that share it."""
        _indices(self.name, self.backbone, self.stages)
        if not self._made:
            _place(self.backbone, self.compute)
            self._made[self.side, self.stages] = self

    @classmethod
    def load(cls, spec: str, weights: Path | None, compute: Compute) -> TimmCnn:
        """A backbone with weights from a local file; no connection is made.

        Args:
            spec: timm's name of the backbone, such as `wide_resnet50_2`; its weights are looked for. Or the name and
                a file of timm's keys, such as `resnet18:weights/resnet18.pt`, which need not hold what lies behind
                the last stage that is used.
            weights: Folder in which weights are looked for first.
            compute: Where and how the network runs.

        Raises:
            CheckpointError: timm has no such network, or its weights are not there, damaged, or of another network.
            SettingsError: As of the class.
        """
        name = spec.partition(":")[0]
        backbone = _network(name)
        _indices(name, backbone, _STAGES)
        _, file, digest = named(spec, timm_checkpoint, weights)
        _fill(backbone, name, file)
        return cls(backbone, name, digest, compute)

    @property
    def id(self) -> str:
        """Name, version, hash of weights and settings, and what of the compute changes results."""
        settings = repr((self.weights, self.side, self.stages, *_colours(self.backbone)))
        return f"{self.name}-{_VERSION}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}{self.compute.tag}"

    @property
    def layout(self) -> FeatureLayout:
        """All channels are compared, by cosine."""
        return FeatureLayout()

    def at(self, prompt: SaliencyPrompt, objects: int) -> TimmCnn:
        """The extractor for an input side and stages, with the same network; equal settings give the same object.

        Raises:
            SettingsError: The network, or its file of weights, has no such stage.
        """
        side = prompt.input or (_SIDE_OF_SEVERAL if objects > 1 else _SIDE)
        stages = prompt.stages or _STAGES
        made = self._made.get((side, stages))
        return made or self._made.setdefault((side, stages), replace(self, side=side, stages=stages))

    def __call__(self, image: RGB) -> FloatMap:
        """Features of an image of any size.

        Args:
            image: uint8 (H, W, 3), RGB.

        Returns:
            float32 (h, w, C), h and w those of the finest stage, as a rule side / 4 for stage 1. A cell without any
            response is all zero.
        """
        small = np.asarray(cv2.resize(image, (self.side, self.side), interpolation=cv2.INTER_LINEAR), np.uint8)
        with self._lock:
            forward = self._forward
        with runtime.inference(self.compute):
            found = forward(_batch(small, *_colours(self.backbone), self.compute.device))
            stages = [found] if len(self.stages) == 1 else found
            return _join([stage[0].permute(1, 2, 0).float().cpu().numpy() for stage in stages])

    @cached_property
    def _forward(self) -> Callable[[Any], Any]:
        """From a normalised image (1, 3, side, side) to the features of the stage, or of all, (1, C_s, h_s, w_s)."""
        import torch

        network: Callable[[Any], Any] = _stages(self.backbone, _indices(self.name, self.backbone, self.stages))
        if self.compute.runtime == "torch":
            return network
        key = f"{self.name}-{self.weights}-{self.side}-{'-'.join(map(str, self.stages))}"
        return runtime.converted(network, torch.zeros(1, 3, self.side, self.side), key, self.compute)


def _network(name: str) -> Any:
    """The network at random weights: timm is never asked for its own."""
    try:
        import timm
    except ImportError as error:
        raise CheckpointError(name, "needs timm: pip install 'saa-labeling[foundation]'") from error
    try:
        if timm.is_model(name) and timm.get_pretrained_cfg(name) is not None:
            return timm.create_model(name, pretrained=False)
    except RuntimeError as error:  # a tag that timm does not know
        tags = ", ".join(timm.list_pretrained(f"{name.partition('.')[0]}.*"))
        raise CheckpointError(name, f"timm knows this network, but only as {tags}") from error
    near = " or ".join(difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.0))
    raise CheckpointError(name, f"timm knows no network of this name, did you mean {near}?")


def _fill(backbone: Any, name: str, file: Path) -> None:
    """Load the weights, and cut off what neither a stage needs nor the file holds.

    Raises:
        CheckpointError: The weights do not fit, or stop before the last stage that is used by default.
    """
    state, known = load_state(file), tuple(backbone.state_dict())
    # Counters of training steps, which old checkpoints lack and nothing here reads.
    counters = tuple(key for key in known if key.endswith(".num_batches_tracked"))
    _cut(backbone, max(_stage_indices(backbone)))
    if backbone.state_dict().keys() - state.keys() - set(counters):
        _cut(backbone, _STAGES[-1])
    check_keys(f"{name}:{file}", backbone, state, counters, known)


def _cut(backbone: Any, stage: int) -> None:
    """Drop from the network what lies behind a stage, and the stages there from its list."""
    last = _stage_indices(backbone)[stage]
    backbone.prune_intermediate_layers([last], prune_norm=True)
    backbone.feature_info = backbone.feature_info[: last + 1]


def _stage_indices(backbone: Any) -> dict[int, int]:
    """Stage -> position among timm's features, which start at the full size, at 1/2 or at 1/4; the last of equals."""
    reductions = [info["reduction"] for info in backbone.feature_info]
    found = {reduction: index for index, reduction in enumerate(reductions)}
    return {stage: found[2 ** (stage + 1)] for stage in range(1, _LAST_STAGE + 1) if 2 ** (stage + 1) in found}


def _indices(name: str, backbone: Any, stages: Sequence[int]) -> list[int]:
    if backbone.pretrained_cfg.get("fixed_input_size"):
        raise SettingsError(name, "takes images of one size only: use a convolutional network")
    known = _stage_indices(backbone)
    absent = [stage for stage in stages if stage not in known]
    if absent or not stages:
        there = ", ".join(map(str, known)) or "none"
        wanted = ", ".join(map(str, absent)) or "none"
        raise SettingsError(name, f"stages {wanted} are asked for, the network and its weights have {there}")
    return [known[stage] for stage in stages]


def _place(backbone: Any, compute: Compute) -> None:
    import torch

    runtime.prepare()
    backbone.eval().to(compute.device, memory_format=torch.channels_last)


def _stages(backbone: Any, indices: list[int]) -> Any:
    """The network as a module that stops at the last stage and gives that of one index, or the tuple of several."""
    import torch

    class Stages(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone

        def forward(self, images: Any) -> Any:
            found = self.backbone.forward_intermediates(
                images, indices=indices, stop_early=True, output_fmt="NCHW", intermediates_only=True
            )
            return found[0] if len(indices) == 1 else tuple(found)

    return Stages().eval()


def _colours(backbone: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, in [0, 1], that the backbone was trained with."""
    settings = backbone.pretrained_cfg
    return tuple(settings["mean"]), tuple(settings["std"])


def _batch(image: RGB, mean: Sequence[float], std: Sequence[float], device: str) -> Any:
    """The image as the network takes it: float32 (1, 3, H, W), channels last in memory."""
    import torch

    pixels = torch.from_numpy(image).to(device).float() / 255
    normalised = (pixels - torch.tensor(mean, device=device)) / torch.tensor(std, device=device)
    return normalised.permute(2, 0, 1)[None]


def _join(stages: Sequence[FloatMap]) -> FloatMap:
    """Stages (h_s, w_s, C_s), upsampled by nearest to the first and joined; then every cell is of unit length."""
    height, width = stages[0].shape[:2]
    joined = np.empty((height, width, sum(stage.shape[2] for stage in stages)), np.float32)
    start = 0
    for stage in stages:
        rows, columns = (np.arange(side) * own // side for side, own in zip((height, width), stage.shape, strict=False))
        end = start + stage.shape[2]
        joined[..., start:end] = stage[rows[:, None], columns]
        start = end
    length = np.sqrt(np.einsum("hwc,hwc->hw", joined, joined))
    joined /= np.maximum(length, _LEAST_LENGTH)[..., None]
    return joined
