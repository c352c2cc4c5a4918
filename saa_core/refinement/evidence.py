"""What a reviewed image contributes to a refinement: enough to judge any bundle without touching a pixel.

The candidates' masks cut an image into atoms: sets of pixels that lie in the same masks. An atom has a size and a
defective part, so Eq. 9, pixel F1, areas and overlaps of any choice of candidates are sums over a few hundred atoms
and equal those over all pixels. The dense map of the profile `batch` has no atoms, but most of its pixels carry no
evidence of any phrase: those depend on nothing that a search moves and are counted once.

Pixels count as shares of their image, so that images of different sizes weigh alike, as they do where maps are
compared at one size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from saa_core import masks, rules
from saa_core.language import EXCESS
from saa_core.maps import resize
from saa_core.masks import Rle
from saa_core.prompts import PromptBundle
from saa_core.types import Candidates, FloatMap

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LEVELS = np.round(np.arange(1, 200) / 200, 3)
"""Where the dense map may be cut: every half per cent."""
MATCH = 0.5
"""Least IoU of a shown region and a reviewed one that are the same, as in `metrics.RegionCounts`."""
FOUND = 0.1
"""Least IoU at which an expert redraws a shown region rather than draw one from nothing. Ours."""
CLOSE = 0.9
"""Least IoU at which an expert would leave the border as it is. Ours."""
_TINY = 1e-3  # as in `language.fuse`


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The candidates of one image as `decide` reads them: n candidates, P phrases, V saliency maps.

    Attributes:
        scores: float32 (n, P) in [0, 1].
        areas: float64 (n,), of masks or of boxes as the bundle measures them, pixels.
        object_pixels: Area of the inspected object, by the same measure.
        inside: float64 (n,) in [0, 1], share on the object.
        saliency: float64 (V, n), for each number of neighbours that may be chosen.
    """

    scores: NDArray[np.float32]
    areas: Floats
    object_pixels: float
    inside: Floats
    saliency: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Atoms:
    """An image cut by n masks.

    Attributes:
        members: bool (A, n), the masks that each atom lies in; at least one.
        sizes: float64 (A,), share of the image.
        truth: float64 (A,), defective share of the image in it.
    """

    members: Bools
    sizes: Floats
    truth: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """The dense map of one image under one saliency map; m of its pixels have evidence of some phrase.

    Attributes:
        excess: float32 (P, m), x_p of `language`.
        saliency: float32 (m,), s.
        defective: int (t,), which of the m have defective parts.
        truth: float64 (t,), these parts as shares of the image.
        pixel: Share of the image that a pixel of the map is.
        levels: Rising, where the map may be cut.
        quiet: float64 (len(levels), 2): of the other pixels at or above each level, all and the defective ones, as
            shares of the image.
        curves: What a judge found for some weights and keeps; empty at first.
    """

    excess: NDArray[np.float32]
    saliency: NDArray[np.float32]
    defective: NDArray[np.intp]
    truth: Floats
    pixel: float
    levels: Floats
    quiet: Floats
    curves: dict[bytes, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class ImageEvidence:
    """One reviewed image.

    Attributes:
        image: Its key.
        name: Its name, for people.
        lot: The unit by which evidence is split.
        rows: Its candidates.
        overlap: float64 (n, n), what two candidates share of the smaller.
        iou: float64 (n, T), of candidates and reviewed regions.
        atoms: Of the candidates.
        dense: For each of the V saliency maps, or nothing where the map is Eq. 9.
        says: bool (P,), phrases with dense evidence.
        truth: Defective share of the image.
        labels: Of the T reviewed regions.
        aided: Whether the expert saw masks; of those who did not, the review is the only unbiased measure.
    """

    image: str
    name: str
    lot: str
    rows: Rows
    overlap: Floats
    iou: Floats
    atoms: Atoms
    dense: tuple[Dense, ...]
    says: Bools
    truth: float
    labels: tuple[str, ...]
    aided: bool

    @property
    def good(self) -> bool:
        """Whether the expert found nothing."""
        return not self.labels


@dataclass(frozen=True, slots=True)
class Truth:
    """What an expert says of an image: T regions, none on a good one."""

    masks: tuple[Rle, ...]
    labels: tuple[str, ...]


def gather(
    candidates: Candidates,
    contexts: Sequence[FloatMap],
    bundle: PromptBundle,
    calm: NDArray[np.float32],
    truth: Truth,
    *,
    name: str,
    lot: str,
    aided: bool,
) -> ImageEvidence:
    """The evidence of one reviewed image.

    Args:
        candidates: Asked for exactly the bundle's phrases.
        contexts: Saliency maps s of Eq. 5, one for each number of neighbours that may be chosen.
        bundle: Its profile's switches hold for every bundle that is judged.
        calm: float32 (P,), the set's calm levels.
        truth: What the expert says; masks of the image's size.
        name: Of the image, for people.
        lot: The unit by which evidence is split.
        aided: Whether the expert saw masks.

    Raises:
        MaskError: The reviewed masks have another size than the candidates.
    """
    shared = masks.containment(candidates.masks, candidates.masks) if candidates.masks else np.zeros((0, 0))
    area = masks.union(truth.masks) if truth.masks else masks.empty(candidates.height, candidates.width)
    says: Bools = np.zeros(len(candidates.phrases), np.bool_)
    if candidates.evidence is not None:
        says = np.asarray(candidates.evidence.any(axis=(1, 2)), np.bool_)
    return ImageEvidence(
        image=candidates.image,
        name=name,
        lot=lot,
        rows=rows_of(candidates, contexts, bundle),
        overlap=np.maximum(shared, shared.T),
        iou=masks.iou(candidates.masks, truth.masks) if candidates.masks else np.zeros((0, len(truth.masks))),
        atoms=cut(candidates.masks, area),
        dense=tuple(_dense(candidates, context, bundle, calm, area) for context in contexts)
        if bundle.confidence.map == "dense"
        else (),
        says=says,
        truth=area.area / (area.height * area.width),
        labels=truth.labels,
        aided=aided,
    )


def rows_of(candidates: Candidates, contexts: Sequence[FloatMap], bundle: PromptBundle) -> Rows:
    """What a decision on an image reads of its candidates; arguments as for `gather`."""
    areas, object_pixels = rules.measured_areas(candidates, bundle)
    size = candidates.height, candidates.width
    salient = [rules.region_saliency(candidates.masks, context, size, bundle) for context in contexts]
    return Rows(
        scores=rules.proposed_scores(candidates, bundle),
        areas=areas,
        object_pixels=object_pixels,
        inside=rules.share_on_object(candidates),
        saliency=np.array(salient, np.float64).reshape(len(contexts), len(candidates)),
    )


def cut(found: Sequence[Rle], truth: Rle) -> Atoms:
    """The atoms of n masks of one size; `truth`, the defective pixels, has it too."""
    size = truth.height * truth.width
    edges = [_edges(mask) for mask in (*found, truth)]
    starts = np.unique(np.concatenate([[0], *edges]))
    starts = starts[starts < size]
    lengths = np.diff(starts, append=size) / size
    # Between two edges nothing changes, and a pixel is inside a mask after an odd number of its edges.
    inside = np.stack([np.searchsorted(each, starts, side="right") % 2 == 1 for each in edges], axis=1)
    covered = inside[:, :-1].any(axis=1)
    lengths, inside = lengths[covered], inside[covered]
    packed, atom = np.unique(np.packbits(inside[:, :-1], axis=1), axis=0, return_inverse=True)
    members = np.unpackbits(packed, axis=1, count=len(found)) if found else np.zeros((0, 0))
    atom = atom.reshape(-1)
    return Atoms(
        members=members.astype(bool),
        sizes=np.bincount(atom, lengths, len(packed)).astype(np.float64),
        truth=np.bincount(atom, lengths * inside[:, -1], len(packed)).astype(np.float64),
    )


def _edges(mask: Rle) -> NDArray[np.int64]:
    """Pixel numbers at which a mask begins and ends, in turn."""
    return np.cumsum(mask.counts, dtype=np.int64)[: -1 if mask.counts.size % 2 else None]


def _dense(
    candidates: Candidates,
    context: FloatMap,
    bundle: PromptBundle,
    calm: NDArray[np.float32],
    area: Rle,
) -> Dense:
    size = context.shape[0], context.shape[1]
    flat = np.minimum(context, np.float32(1)).ravel()
    excess = _excess(candidates, calm, size)
    heard = excess.any(axis=0)
    pixel = 1 / flat.size
    truth = _shrunk(area, size).ravel() * pixel
    levels = np.unique([*LEVELS, bundle.decision.threshold])
    return Dense(
        excess=np.ascontiguousarray(excess[:, heard]),
        saliency=flat[heard],
        defective=np.flatnonzero(truth[heard]),
        truth=truth[heard & (truth > 0)],
        pixel=pixel,
        levels=levels,
        quiet=_above(flat[~heard], np.column_stack([np.full_like(truth, pixel), truth])[~heard], levels),
    )


def _excess(candidates: Candidates, calm: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """x_p of `language` on the grid of the map, float32 (P, h * w)."""
    if candidates.evidence is None:
        return np.zeros((len(candidates.phrases), size[0] * size[1]), np.float32)
    evidence = candidates.evidence.astype(np.float32)
    level = np.maximum(calm.astype(np.float32), _TINY)[:, None, None]
    excess = np.clip((evidence / level - 1) / EXCESS, 0, 1).astype(np.float32)
    return np.stack([resize(row, size).ravel() for row in excess])


def _shrunk(mask: Rle, size: tuple[int, int]) -> NDArray[np.float64]:
    """Share of each pixel of a grid that a mask covers."""
    full = masks.decode(mask).astype(np.float32)
    return cv2.resize(full, (size[1], size[0]), interpolation=cv2.INTER_AREA).astype(np.float64)


def _above(values: NDArray[np.float32], weights: Floats, levels: Floats) -> Floats:
    """Sums of the weights of all values at or above each level."""
    order = np.argsort(values)
    first = np.searchsorted(values[order], levels.astype(np.float32), side="left")
    sums = np.concatenate([np.zeros((1, weights.shape[1])), np.cumsum(weights[order][::-1], axis=0)])[::-1]
    return sums[first]
