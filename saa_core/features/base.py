"""What a feature extractor is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from saa_core.prompts import SaliencyPrompt
from saa_core.types import RGB, FloatMap


@dataclass(frozen=True, slots=True)
class FeatureLayout:
    """How the C channels of an extractor are to be read when a set of images is compared.

    Attributes:
        whiten: Whether the set's own covariance gives the metric. Features made by hand need it, since their channels
            have arbitrary units; a CNN's are compared by cosine.
        magnitudes: So many channels, before the lines, are filter magnitudes: at least 0, heavy-tailed.
        lines: So many of the last channels are responses to thin lines, at least 0. They say where a line is, and are
            no part of the feature vector that is compared.
        tile: Cells of one tile's grid, if large images are seen in tiles; else 0. A grid with several times as many is
            compared in as many cells as that many images.
    """

    whiten: bool = False
    magnitudes: int = 0
    lines: int = 0
    tile: int = 0


class FeatureExtractor(Protocol):
    """Describes every cell of a grid over the image by a vector."""

    @property
    def name(self) -> str:
        """What the user calls it."""
        ...

    @property
    def id(self) -> str:
        """Name, version and hash of the settings: changes whenever the same image may give other features."""
        ...

    @property
    def layout(self) -> FeatureLayout:
        """How to read the channels."""
        ...

    def at(self, prompt: SaliencyPrompt, objects: int) -> FeatureExtractor:
        """The extractor as a bundle wants it; itself where it has no such settings.

        Args:
            prompt: Its `input` and `stages`, None where the bundle does not say.
            objects: How many objects an image shows.
        """
        ...

    def __call__(self, image: RGB) -> FloatMap:
        """Features of an image.

        Args:
            image: uint8 (H, W, 3), RGB.

        Returns:
            float32 (h, w, C), finite; the grid covers the whole image.
        """
        ...
