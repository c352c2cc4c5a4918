"""Model outputs addressed by content: what was computed once, for these bytes and these words, is never computed again.

    features    image bytes, feature model
    context     the set's image keys, feature model
    prior       image bytes, context
    candidates  image bytes, phrases, the three models, context
    calm        phrases, the three models, context
    saliency    image bytes, feature model, source and neighbours

Every key holds the program's version too, since its code makes contexts and maps. No bundle number but the neighbours
of Eq. 5 enters a key, and those ask for arithmetic on stored features, not for a model: a bundle that changes only
numbers makes no model call. Arrays are kept as float16, and a value just computed passes through float16 too, so that
a run gives the same bits whether it found or made its parts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from integrations.archive import pack_array, pack_candidates, unpack_array, unpack_candidates
from integrations.blobs import BlobStore
from integrations.image_sets import read_bytes
from saa_core import __version__
from saa_core.batch import BatchContext
from saa_core.confidence import set_floor
from saa_core.images import load_image
from saa_core.language import calm_levels, peaks
from saa_core.pipeline import SegmentAnyAnomaly, best_confidence, decide, prior_map, saliency_map
from saa_core.prompts import PromptBundle, SaliencyPrompt
from saa_core.types import RGB, AnomalyResult, Candidates, FloatMap, ImageRef, SetLevels

Levels = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SetContext:
    """The set's images as context of each of them, and the key that names it."""

    key: str
    batch: BatchContext


@dataclass(slots=True)
class CandidateStore:
    """Candidates and maps of images, from the store where possible, else from the models.

    Attributes:
        blobs: Where they are kept.
        method: The models; `method.calls` tells how often they had to be asked.
        max_pixels: Largest image that is decoded.
    """

    blobs: BlobStore
    method: SegmentAnyAnomaly
    max_pixels: int

    def features(self, ref: ImageRef) -> FloatMap:
        """Features of an image, float32 (h, w, C).

        Raises:
            ImageError: The file is gone, changed, or not an image that can be used.
        """
        key = _key(ref.key, self.method.extractor.id)
        stored = self._array("features", key)
        if stored is not None:
            return stored
        found = self._keep("features", key, self.method.features(self.image(ref)))
        self._keep("descriptor", key, found.mean(axis=(0, 1)))
        return found

    def descriptor(self, ref: ImageRef) -> FloatMap:
        """The image as one vector, float32 (C,): the mean of its features; errors as in `features`."""
        key = _key(ref.key, self.method.extractor.id)
        stored = self.known_descriptor(ref.key)
        return stored if stored is not None else self._keep("descriptor", key, self.features(ref).mean(axis=(0, 1)))

    def known_descriptor(self, image: str) -> FloatMap | None:
        """As `descriptor`, of an image by its key; None where nothing is stored, since no file is read."""
        return self._array("descriptor", _key(image, self.method.extractor.id))

    def context(self, refs: Sequence[ImageRef]) -> SetContext:
        """The context of a set; the order of its images does not matter."""
        by_key = {ref.key: ref for ref in refs}
        key = _key(*sorted(by_key), self.method.extractor.id)
        stored = self.blobs.get("context", key)
        if stored is not None:
            return SetContext(key, BatchContext.from_bytes(stored))
        layout = self.method.extractor.layout
        batch = BatchContext.fit(sorted(by_key), lambda image: self.features(by_key[image]), layout)
        self.blobs.put("context", key, batch.to_bytes())
        return SetContext(key, batch)

    def candidates(self, ref: ImageRef, phrases: Sequence[str], context: SetContext) -> Candidates:
        """Eq. 1-2 for an image; errors as in `features`."""
        key = self._candidates_key(ref, phrases, context)
        stored = self.blobs.get("candidates", key)
        if stored is None:
            image = self.image(ref)
            found = self.method.propose(ref.key, image, phrases, self._prior(ref, context, image))
            stored = pack_candidates(found)
            self.blobs.put("candidates", key, stored)
        return unpack_candidates(stored, ref.names[0])

    def has_candidates(self, ref: ImageRef, phrases: Sequence[str], context: SetContext) -> bool:
        """Whether `candidates` would be answered without a model."""
        return self.blobs.has("candidates", self._candidates_key(ref, phrases, context))

    def levels(self, refs: Sequence[ImageRef], bundle: PromptBundle, context: SetContext) -> SetLevels:
        """What a decision on each of the set's images takes from the set; errors as in `features`."""
        calm, floor = self.calm(refs, bundle.texts, context), bundle.decision.region_floor
        if not floor:
            return SetLevels(calm, floor)
        best = [best_confidence(*self.decidable(ref, bundle, context), bundle) for ref in refs]
        return SetLevels(calm, float(set_floor(np.array(best), np.array(floor))))

    def calm(
        self, refs: Sequence[ImageRef], phrases: Sequence[str], context: SetContext, *, keep: bool = True
    ) -> Levels:
        """The calm evidence of each phrase, float32 (P,), see `language`; errors as in `features`.

        Args:
            refs: All images of the set; with ``keep=False`` any of them, and nothing is kept.
            phrases: What the images were asked for.
            context: Of the set.
            keep: Whether to look for the answer in the store and leave it there.
        """
        key = _key(json.dumps(list(phrases)), self.method.id, context.key)
        stored = self._array("calm", key) if keep else None
        if stored is not None:
            return stored
        found = (self.candidates(ref, phrases, context).evidence for ref in refs)
        seen = [peaks(evidence) for evidence in found if evidence is not None]
        levels = calm_levels(np.stack(seen)) if seen else np.zeros(len(phrases), np.float32)
        return self._keep("calm", key, levels) if keep else levels

    def decide(
        self, ref: ImageRef, bundle: PromptBundle, context: SetContext, levels: SetLevels
    ) -> tuple[Candidates, AnomalyResult]:
        """Eq. 4-9 for an image under a bundle and its set's levels; errors as in `features`."""
        found, saliency = self.decidable(ref, bundle, context)
        return found, decide(found, saliency, bundle, levels)

    def decidable(self, ref: ImageRef, bundle: PromptBundle, context: SetContext) -> tuple[Candidates, FloatMap]:
        """What a decision on an image reads: its candidates and its saliency map; errors as in `features`."""
        found = self.candidates(ref, bundle.texts, context)
        return found, self.saliency(ref, found, bundle.saliency, context)

    def image(self, ref: ImageRef) -> RGB:
        """Pixels of an image, uint8 (H, W, 3) RGB; errors as in `features`."""
        return load_image(read_bytes(ref), ref.names[0], max_pixels=self.max_pixels).pixels

    def _prior(self, ref: ImageRef, context: SetContext, image: RGB | None = None) -> FloatMap:
        key = _key(ref.key, context.key)
        stored = self._array("prior", key)
        if stored is not None:
            return stored
        pixels = self.image(ref) if image is None else image
        return self._keep("prior", key, prior_map(ref.key, pixels, self.features(ref), context.batch))

    def saliency(self, ref: ImageRef, candidates: Candidates, prompt: SaliencyPrompt, context: SetContext) -> FloatMap:
        """The map s of Eq. 5 under a prompt; errors as in `features`."""
        if prompt.source == "batch":
            return self._prior(ref, context)
        if prompt.source == "object":  # depends on the objects found; cheap, so it is not worth a key of its own
            return saliency_map(self.features(ref), prompt, candidates.objects)
        key = _key(ref.key, self.method.extractor.id, prompt.source, str(prompt.neighbours))
        stored = self._array("saliency", key)
        if stored is not None:
            return stored
        return self._keep("saliency", key, saliency_map(self.features(ref), prompt))

    def _candidates_key(self, ref: ImageRef, phrases: Sequence[str], context: SetContext) -> str:
        return _key(ref.key, json.dumps(list(phrases)), self.method.id, context.key)

    def _array(self, kind: str, key: str) -> FloatMap | None:
        stored = self.blobs.get(kind, key)
        return None if stored is None else unpack_array(stored, f"{kind} {key}").astype(np.float32)

    def _keep(self, kind: str, key: str, values: FloatMap) -> FloatMap:
        half = values.astype(np.float16)
        self.blobs.put(kind, key, pack_array(half))
        return half.astype(np.float32)


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join((__version__, *parts)).encode()).hexdigest()
