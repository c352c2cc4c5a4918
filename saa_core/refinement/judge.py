"""What many bundles would have done to the reviewed images: Eq. 4 and 6-9 on evidence, thousands of bundles at once.

The same rules as `pipeline.decide`, image by image over columns of numbers instead of bundle by bundle over masks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, cached_property, partial

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from saa_core.confidence import confidence, set_floor
from saa_core.prompts import PromptBundle
from saa_core.refinement.dense import curves, levels
from saa_core.refinement.evidence import CLOSE, FOUND, MATCH, ImageEvidence, Rows
from saa_core.refinement.knobs import Knobs, Stacked

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

HIT, ALARM, REGION_HIT, NEAR, SHOWN = range(5)
"""Columns of counts; those of the labels follow."""
LABELS = 5

_THREADS = min(4, os.cpu_count() or 1)
_BATCH = 512  # bundles at once: their columns stay in the cache


@dataclass(frozen=True, slots=True, eq=False)
class EvidenceSet:
    """Reviewed images that were labelled as parts of one set.

    Attributes:
        images: The reviewed ones.
        others: Candidates of the set's other images: all together set the region floor.
        neighbours: What N of Eq. 5 may be; the images' saliency maps in this order.
    """

    images: tuple[ImageEvidence, ...]
    others: tuple[Rows, ...]
    neighbours: tuple[int, ...]


@dataclass
class Judge:
    """Judges bundles that differ in `Knobs` alone.

    Attributes:
        bundle: Its profile's switches hold for all.
        sets: The evidence.
        room: Bytes of counts that are kept, about.
        judged: Different bundles judged so far.
        given: Counts that are known from elsewhere, float32 (I, 5 + L) each.
    """

    bundle: PromptBundle
    sets: Sequence[EvidenceSet]
    room: int = 2**28
    judged: int = field(default=0, init=False)
    given: dict[Knobs, NDArray[np.float32]] = field(default_factory=dict, init=False)
    _known: dict[Knobs, NDArray[np.float32]] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def images(self) -> tuple[ImageEvidence, ...]:
        """The reviewed images, in the order of the counts."""
        return tuple(image for each in self.sets for image in each.images)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The L labels that experts used, sorted."""
        return tuple(sorted({label for image in self.images for label in image.labels}))

    @cached_property
    def _size(self) -> int:
        """Bytes of one bundle's counts."""
        return 4 * len(self.images) * (LABELS + len(self.labels))

    def counts(self, knobs: Sequence[Knobs]) -> NDArray[np.float32]:
        """What each bundle does to each image.

        Returns:
            float32 (C, I, 5 + L): shares of the image that are rightly and wrongly marked; shown regions that match
            a reviewed one, that match it closely, and all that are shown; reviewed regions found, by label.
        """
        if len(self._known) * self._size > self.room:
            self._known.clear()
        self._known |= self.given
        new = [each for each in dict.fromkeys(knobs) if each not in self._known]
        for start in range(0, len(new), _BATCH):
            batch = new[start : start + _BATCH]
            self._known.update(zip(batch, self._counted(batch), strict=True))
        self.judged += len(new)
        return np.stack([self._known[each] for each in knobs])

    def decided(self, knobs: Knobs) -> Iterator[tuple[ImageEvidence, tuple[Floats, NDArray[np.intp]]]]:
        """For each image its candidates' scores S_S under one bundle, (n,), and the rows that it shows."""
        columns = Stacked.of([knobs])
        for each in self.sets:
            scored, floors = _scored_set(each, columns, np.array([each.neighbours.index(knobs.neighbours)]))
            for image, one in zip(each.images, scored, strict=True):
                yield image, (one[0][0], np.flatnonzero(_chosen(*one, image.overlap, columns, floors)[0]))

    def _counted(self, knobs: Sequence[Knobs]) -> NDArray[np.float32]:
        columns = Stacked.of(knobs)
        parts: list[Floats] = []
        for each in self.sets:
            view = np.array([each.neighbours.index(one.neighbours) for one in knobs])
            scored, floors = _scored_set(each, columns, view)
            judged = partial(judge_image, self.bundle, self.labels, columns, view, floors)
            # NumPy works outside the interpreter's lock; threads of the algebra library would only wait for each other.
            with _algebra().limit(limits=1), ThreadPoolExecutor(_THREADS) as pool:
                parts += pool.map(judged, each.images, scored)
        return np.stack(parts, axis=1).astype(np.float32)


@cache
def _algebra() -> ThreadpoolController:
    return ThreadpoolController()


def judge_image(
    bundle: PromptBundle,
    labels: Sequence[str],
    knobs: Stacked,
    view: NDArray[np.intp],
    floors: Floats,
    image: ImageEvidence,
    scored: tuple[Floats, Bools],
) -> Floats:
    """What C bundles do to one image.

    Args:
        bundle: For the profile's switches.
        labels: The L labels of all evidence.
        knobs: The C bundles.
        view: (C,), which saliency map each takes.
        floors: (C,), the region floor of the image's set under each.
        image: Its evidence.
        scored: Scores of its candidates and which pass, (C, n) each.

    Returns:
        float64 (C, 5 + L), as `Judge.counts`.
    """
    shown = _chosen(*scored, image.overlap, knobs, floors)
    counts = np.zeros((len(view), LABELS + len(labels)))
    counts[:, SHOWN] = shown.sum(axis=1)
    counts[:, REGION_HIT] = _matched(shown, image.iou, MATCH)
    counts[:, NEAR] = _matched(shown, image.iou, CLOSE)
    marked, right = _mapped(image, bundle, knobs, view, shown, scored[0])
    counts[:, HIT], counts[:, ALARM] = right, marked - right
    found = (shown.astype(np.float64) @ (image.iou >= FOUND)) > 0
    for number, label in enumerate(image.labels):
        counts[:, LABELS + labels.index(label)] += found[:, number]
    return counts


def _scored_set(each: EvidenceSet, knobs: Stacked, view: NDArray[np.intp]) -> tuple[list[tuple[Floats, Bools]], Floats]:
    """Scores of the reviewed images' candidates, and the region floor of the set, (C,), see `confidence.set_floor`."""
    scored = [_scored(image.rows, knobs, view) for image in each.images]
    own = knobs.region_floor[:, 0]
    if not own.any():
        return scored, own
    best = [_best(*one) for one in scored] + [_best(*_scored(rows, knobs, view)) for rows in each.others]
    return scored, set_floor(np.stack(best, axis=1), own)


def _best(scores: Floats, stands: Bools) -> Floats:
    """Confidence of the best region with no floor, (C,)."""
    best: Floats = np.where(stands, scores, 0).max(axis=1, initial=0)
    return confidence(best)


def _scored(rows: Rows, knobs: Stacked, view: NDArray[np.intp]) -> tuple[Floats, Bools]:
    """Eq. 4, 6 and 7: scores S_S of the candidates, and which pass, both (C, n)."""
    spoken = np.zeros((len(knobs.weights), len(rows.areas)))
    for phrase in range(rows.scores.shape[1]):
        raw = rows.scores[:, phrase].astype(np.float64)
        heard = raw >= knobs.thresholds[:, phrase, None]
        np.maximum(spoken, np.where(heard, raw * knobs.weights[:, phrase, None], 0), out=spoken)
    best = np.minimum(spoken, 1)[knobs.said]
    least, limit = knobs.area_min * rows.object_pixels, knobs.area_max * rows.object_pixels
    stands = (best > 0) & (best >= knobs.score_floor) & (rows.areas > 0)
    stands &= (rows.areas >= least) & (rows.areas < limit) & (rows.inside >= knobs.location)
    return best * np.exp(knobs.gain * rows.saliency[view]), stands


def _chosen(scores: Floats, stands: Bools, overlap: Floats, knobs: Stacked, floors: Floats) -> Bools:
    """Suppression, the region floor and Eq. 8: the candidates that are shown, bool (C, n)."""
    ranks = np.where(stands, -scores, 1)
    stays = stands & (confidence(scores) >= floors[:, None])
    doubled = overlap > knobs.suppression.min()
    np.fill_diagonal(doubled, False)
    some = np.flatnonzero(doubled.any(axis=1))
    if some.size:
        stays[:, some] &= _single(ranks[:, some], stands[:, some], overlap[np.ix_(some, some)], knobs)
    order = np.argsort(ranks, axis=1, kind="stable")
    in_order = np.take_along_axis(stays, order, axis=1)
    first = in_order & (np.cumsum(in_order, axis=1) <= knobs.top_k)
    shown = np.zeros_like(stays)
    np.put_along_axis(shown, order, first, axis=1)
    return shown


def _single(ranks: Floats, stands: Bools, overlap: Floats, knobs: Stacked) -> Bools:
    """Which candidates no better one doubles, bool (C, n): as `confidence.suppress`."""
    order, line, stays = np.argsort(ranks, axis=1, kind="stable"), np.arange(len(ranks)), stands.copy()
    # The best, then the next that still stands: what shares too much with one that stays goes.
    for place in range(int(stands.sum(axis=1).max())):
        row = order[:, place]
        alive = stays[line, row]
        stays &= ~((overlap[row] > knobs.suppression) & alive[:, None])
        stays[line, row] = alive
    return stays


def _matched(shown: Bools, iou: Floats, least: float) -> Floats:
    """Pairs of shown and reviewed regions with at least this IoU, one to one, as many as possible, (C,)."""
    same = iou >= least
    if not same.any():
        return np.zeros(len(shown))
    if same.sum(axis=1).max() == 1:  # as it is where reviewed regions do not overlap: each region has one partner
        return np.asarray(((shown.astype(np.float64) @ same) > 0).sum(axis=1), np.float64)
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    near = same.any(axis=1)  # the others match nothing, and many bundles show the same of these
    choices, place = np.unique(shown[:, near], axis=0, return_inverse=True)
    graphs = (csr_array(same[near] & choice[:, None]) for choice in choices)
    pairs = [np.count_nonzero(maximum_bipartite_matching(graph, perm_type="column") >= 0) for graph in graphs]
    matched: Floats = np.array(pairs, np.float64)[place.reshape(-1)]
    return matched


def _mapped(
    image: ImageEvidence, bundle: PromptBundle, knobs: Stacked, view: NDArray[np.intp], shown: Bools, scores: Floats
) -> tuple[Floats, Floats]:
    """The anomaly map cut at each bundle's threshold: the shares marked and rightly marked, (C,) each."""
    if bundle.confidence.map != "dense":
        return _cut_atoms(image, bundle, knobs, shown, scores)
    marked, right = np.zeros(len(view)), np.zeros(len(view))
    for which, dense in enumerate(image.dense):
        mine = np.flatnonzero(view == which)
        if not mine.size:
            continue
        said, place = np.unique(knobs.said[mine], return_inverse=True)
        weights = np.where(image.says, knobs.weights[said], 0)
        marked[mine], right[mine] = curves(dense, weights)[place, levels(dense, knobs.threshold[mine, 0])].T
    return marked, right


def _cut_atoms(
    image: ImageEvidence, bundle: PromptBundle, knobs: Stacked, shown: Bools, scores: Floats
) -> tuple[Floats, Floats]:
    """Eq. 9 on atoms."""
    members = image.atoms.members.T.astype(np.float64)
    total, cover = np.where(shown, scores, 0) @ members, shown.astype(np.float64) @ members
    values = total / (1 + cover if bundle.confidence.map == "shrunk" else np.maximum(cover, 1))
    # In the precision of the map that `decide` gives; nothing covers the rest of the image, where the map is 0.
    above = values.astype(np.float32) >= knobs.threshold.astype(np.float32)
    marked, right = above @ image.atoms.sizes, above @ image.atoms.truth
    everywhere = knobs.threshold[:, 0].astype(np.float32) <= 0
    return np.where(everywhere, 1.0, marked), np.where(everywhere, image.truth, right)
