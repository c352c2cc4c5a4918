"""Evidence of reviewed images: made once from their stored candidates, and kept.

No model runs, unless the bundle has phrases that its images were never asked for.

    evidence    a review, its image's candidates, what a search does not move of the bundle, the set's calm levels
    rows        the same without the review: of the set's other images
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from integrations.archive import pack_evidence, pack_rows, unpack_evidence, unpack_rows
from integrations.candidate_store import CandidateStore, SetContext
from integrations.reviewed import Reviewed, ReviewedProduct
from saa_core import __version__
from saa_core.errors import ImageError, ReviewError
from saa_core.prompts import PromptBundle
from saa_core.refinement.evidence import ImageEvidence, Rows, Truth, gather, rows_of
from saa_core.refinement.judge import EvidenceSet
from saa_core.reviews import Review
from saa_core.types import Candidates, FloatMap, ImageRef, Query

Advance = Callable[[str, int, int], None]
"""Told of the progress: the step, how many are done, how many there are."""

_STEP = "gathering evidence"
_SAID = 16  # images between two words about the progress
_VERSION = 1
"""Of what is kept; a change of `ImageEvidence` needs another."""


@dataclass(slots=True)
class EvidenceStore:
    """Evidence of reviewed images, from the store where it is, else from their candidates.

    Attributes:
        store: Candidates and maps.
        advance: Told of the progress.
        unusable: The reason for each reviewed image, by key, that could not be used, filled by `sets`.
        unknown: Words that the models cannot use, by phrase, filled by `sets`.
    """

    store: CandidateStore
    advance: Advance
    unusable: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _asked: set[Query] = field(default_factory=set)

    def sets(
        self, product: ReviewedProduct, bundle: PromptBundle, only: Collection[str] | None = None
    ) -> tuple[EvidenceSet, ...]:
        """The evidence of a product for a bundle; images that cannot be used are left out and noted.

        Args:
            product: Its reviews.
            bundle: The bundle.
            only: Keys of reviewed images. No other image is looked at, so the levels of the sets are theirs alone:
                enough to tell phrases apart at little cost. None takes all, with the sets as they were labelled.
        """
        by_run: dict[str, list[Reviewed]] = defaultdict(list)
        for image in product.images:
            if only is None or image.ref.key in only:
                by_run[image.run].append(image)
        contexts = {run: self.store.context(product.sets[run]) for run in by_run}
        # Sets in an order of their own: which run was the first must not matter.
        order = sorted(by_run, key=lambda run: (contexts[run].key, by_run[run][0].ref.key))
        refs = {run: product.sets[run] if only is None else [each.ref for each in by_run[run]] for run in order}
        found = [self._set(refs[run], by_run[run], bundle, contexts[run], only is None) for run in order]
        return tuple(each for each in found if each.images)

    def _set(
        self,
        refs: Sequence[ImageRef],
        reviewed: Sequence[Reviewed],
        bundle: PromptBundle,
        context: SetContext,
        whole: bool,
    ) -> EvidenceSet:
        neighbours = neighbour_choices(bundle)
        mine = {image.ref.key: image for image in reviewed}
        found, images, others = [], [], []
        for ref in sorted(refs, key=lambda ref: ref.key):
            with self._noting(ref, mine):
                self._ask(ref, bundle, context)
                found.append(ref)
        # Levels of a part of the set are no levels of the set, so they are not kept as such.
        calm = self.store.calm(found, bundle, context, keep=whole and len(found) == len(refs))
        for number, ref in enumerate(found):
            with self._noting(ref, mine):
                self._note_words(ref, bundle, context)
                if ref.key in mine:
                    images.append(self._image(mine[ref.key], bundle, calm, context, neighbours))
                else:
                    others.append(self._other(ref, bundle, context, neighbours))
            if number % _SAID == _SAID - 1 or number + 1 == len(found):
                self.advance(_STEP, number + 1, len(found))
        return EvidenceSet(tuple(images), tuple(others), neighbours)

    @contextmanager
    def _noting(self, ref: ImageRef, mine: Collection[str]) -> Iterator[None]:
        """Go on without an image that cannot be used; whoever reviewed it wants to know."""
        try:
            yield
        except (ImageError, ReviewError) as error:
            if ref.key in mine:
                self.unusable[ref.key] = error.reason

    def _ask(self, ref: ImageRef, bundle: PromptBundle, context: SetContext) -> None:
        """Have an image's candidates in the store; only those that are not there need a model and the photograph."""
        if not self.store.has_candidates(ref, bundle, context):
            self.store.candidates(ref, bundle, context)

    def _note_words(self, ref: ImageRef, bundle: PromptBundle, context: SetContext) -> None:
        """Ask one image what words its models could not use: all say the same."""
        if bundle.query not in self._asked:
            self.unknown |= unknown_words(self.store.candidates(ref, bundle, context))
            self._asked.add(bundle.query)

    def _image(
        self,
        image: Reviewed,
        bundle: PromptBundle,
        calm: NDArray[np.float32],
        context: SetContext,
        neighbours: Sequence[int],
    ) -> ImageEvidence:
        review, name = image.review, image.ref.names[0]
        said = [review.source, review.id, review.updated.isoformat(), review.state, image.lot, name]
        key = self._key(image.ref, bundle, context, neighbours, *said, bundle.decision.threshold, calm.tolist())
        stored = self.store.blobs.get("evidence", key)
        if stored is not None:
            return unpack_evidence(stored, name)
        candidates = self.store.candidates(image.ref, bundle, context)
        truth = Truth(review.masks, tuple(_labels(review)))
        _check_sizes(candidates, truth, image)
        contexts = self._contexts(image.ref, candidates, bundle, context, neighbours)
        found = gather(candidates, contexts, bundle, calm, truth, name=name, lot=image.lot, aided=review.aided)
        self.store.blobs.put("evidence", key, pack_evidence(found))
        return found

    def _other(self, ref: ImageRef, bundle: PromptBundle, context: SetContext, neighbours: Sequence[int]) -> Rows:
        key = self._key(ref, bundle, context, neighbours)
        stored = self.store.blobs.get("rows", key)
        if stored is not None:
            return unpack_rows(stored, ref.names[0])
        candidates = self.store.candidates(ref, bundle, context)
        found = rows_of(candidates, self._contexts(ref, candidates, bundle, context, neighbours), bundle)
        self.store.blobs.put("rows", key, pack_rows(found))
        return found

    def _contexts(
        self,
        ref: ImageRef,
        candidates: Candidates,
        bundle: PromptBundle,
        context: SetContext,
        neighbours: Sequence[int],
    ) -> list[FloatMap]:
        """The saliency map for each number of neighbours."""
        prompts = [bundle.saliency.model_copy(update={"neighbours": number}) for number in neighbours]
        return [self.store.saliency(ref, candidates, prompt, context) for prompt in prompts]

    def _key(
        self, ref: ImageRef, bundle: PromptBundle, context: SetContext, neighbours: Sequence[int], *more: object
    ) -> str:
        # What `gather` reads of the bundle; the other numbers are what a search moves.
        limits, salient = bundle.property, bundle.saliency
        read = [limits.measure, limits.objects, salient.source, salient.measure, bundle.confidence.map, *neighbours]
        named = [bundle.language.score, bundle.language.object]
        parts = [_VERSION, __version__, ref.key, context.key, self.store.method.id, *bundle.texts]
        return hashlib.sha256(json.dumps([parts, read, named, more]).encode()).hexdigest()


def neighbour_choices(bundle: PromptBundle) -> tuple[int, ...]:
    """What N of Eq. 5 may be: the bundle's own, and where the image is the context a quarter and four times that."""
    own = bundle.saliency.neighbours
    if not bundle.saliency.source.startswith("image-"):
        return (own,)
    return tuple(sorted({max(1, own // 4), own, 4 * own}))


def unknown_words(candidates: Candidates) -> dict[str, tuple[str, ...]]:
    """By phrase, its words that the models cannot use."""
    unknown = set(candidates.unknown_words)
    found = {text: tuple(word for word in text.lower().split() if word in unknown) for text in candidates.phrases}
    return {text: words for text, words in found.items() if words}


def _labels(review: Review) -> list[str]:
    return [region.reviewed.label for region in review.regions if region.reviewed is not None]


def _check_sizes(candidates: Candidates, truth: Truth, image: Reviewed) -> None:
    size = candidates.height, candidates.width
    for mask in truth.masks:
        if mask.size != size:
            drawn, real = (" x ".join(map(str, each)) for each in (mask.size, size))
            raise ReviewError(image.ref.names[0], f"a reviewed mask has {drawn} pixels, the image has {real}")
