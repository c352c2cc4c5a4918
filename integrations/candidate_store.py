"""Model outputs addressed by content: what was computed once, for these bytes and these words, is never computed again.

    features    image bytes, feature model
    context     the set's image keys, feature model
    prior       image bytes, context
    proposals   image bytes, a part of the query, generator
    embedding   image bytes, refiner
    candidates  image bytes, query, the three models, context
    lazy        image bytes, bundle, the three models, context
    calm        query, the three models, context
    saliency    image bytes, feature model, source and neighbours

Models that read the image alone have proposals that can be kept part by part, so that new phrases ask for these alone,
and candidates that know no context. A refiner that is dear makes masks only of boxes that can be shown (`lazy`); all of
them (`candidates`) are made where a refinement or an explanation asks. Embeddings are kept where a setting says so.

Every key holds the program's version too, since its code makes contexts and maps. No bundle number but the neighbours
of Eq. 5 enters a key, and those ask for arithmetic on stored features, not for a model: a bundle that changes only
numbers makes no model call. Arrays are kept as float16, and a value just computed passes through float16 too, so that
a run gives the same bits whether it found or made its parts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from integrations.archive import (
    pack_array,
    pack_candidates,
    pack_proposals,
    unpack_array,
    unpack_candidates,
    unpack_proposals,
)
from integrations.blobs import BlobStore
from integrations.image_sets import read_bytes
from integrations.prefetch import Prefetch
from saa_core import __version__
from saa_core.batch import BatchContext
from saa_core.confidence import set_floor
from saa_core.errors import ImageError
from saa_core.generators.base import Proposals, Request, merge
from saa_core.images import load_image
from saa_core.language import calm_levels, peaks
from saa_core.lazy import complete, refine_lazily
from saa_core.pipeline import (
    SegmentAnyAnomaly,
    best_confidence,
    decide,
    needs_objects,
    prior_map,
    saliency_map,
    with_objects,
    without_masks,
)
from saa_core.prompts import PromptBundle, SaliencyPrompt
from saa_core.refiners.base import Refined
from saa_core.types import RGB, AnomalyResult, Boxes, Candidates, FloatMap, ImageRef, Query, SetLevels

Levels = NDArray[np.float32]

_CHUNK = 5
"""Boxes that a refiner draws before it is asked again which are still needed."""
_NOTHING = np.zeros((1, 1), np.float32)
"""The map for models that read the image alone."""


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
        keep_embeddings: Whether embeddings of the refiner stay, as float16.
    """

    blobs: BlobStore
    method: SegmentAnyAnomaly
    max_pixels: int
    keep_embeddings: bool = False
    _ahead: Prefetch | None = None

    def at(self, bundle: PromptBundle) -> CandidateStore:
        """The store over the models as a bundle wants them."""
        return replace(self, method=self.method.at(bundle))

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

    def candidates(self, ref: ImageRef, bundle: PromptBundle, context: SetContext) -> Candidates:
        """Eq. 1-2 for an image, each box with its mask; errors as in `features`."""
        key = self._candidates_key(ref, bundle, context)
        stored = self.blobs.get("candidates", key)
        if stored is None:
            look = _Look(self, ref, bundle, context)
            stored = pack_candidates(complete(look.undrawn(), look.refine))
            self.blobs.put("candidates", key, stored)
        return unpack_candidates(stored, ref.names[0])

    def has_candidates(self, ref: ImageRef, bundle: PromptBundle, context: SetContext) -> bool:
        """Whether `candidates` would be answered without a model."""
        return self.blobs.has("candidates", self._candidates_key(ref, bundle, context))

    def drawn(self, ref: ImageRef, bundle: PromptBundle, context: SetContext) -> Candidates:
        """Eq. 1-2 for an image, with the masks that the bundle can show at least; errors as in `features`."""
        # A refiner that reads the set is one without weights, which draws a box faster than this thinks about it.
        if self.method.refiner.reads_set or self.has_candidates(ref, bundle, context):
            return self.candidates(ref, bundle, context)
        key = self._lazy_key(ref, bundle, context)
        stored = self.blobs.get("lazy", key)
        if stored is None:
            look = _Look(self, ref, bundle, context)
            undrawn = look.undrawn()
            saliency = self.saliency(ref, undrawn, bundle.saliency, context)
            lowest = bundle.decision.region_floor / 2  # see `set_floor`
            stored = pack_candidates(refine_lazily(undrawn, look.refine, saliency, bundle, lowest, _CHUNK))
            self.blobs.put("lazy", key, stored)
        return unpack_candidates(stored, ref.names[0])

    def has_drawn(self, ref: ImageRef, bundle: PromptBundle, context: SetContext) -> bool:
        """Whether `drawn` would be answered without a model."""
        lazily = self.blobs.has("lazy", self._lazy_key(ref, bundle, context))
        return lazily or self.has_candidates(ref, bundle, context)

    def propose(self, refs: Sequence[ImageRef], bundle: PromptBundle) -> None:
        """Ask the generator for what is missing of several images at once; one that cannot be used is passed over."""
        generator, requests, keys = self.method.generator, [], []
        if generator.reads_set:
            return
        for ref in refs:
            missing = [part for part in generator.parts(bundle.query) if not self.blobs.has(*self._part(ref, part))]
            with suppress(ImageError):
                image = self.image(ref) if missing else None
                requests += [Request(image, part, _NOTHING) for part in missing if image is not None]
                keys += [self._part(ref, part) for part in missing]
        for (kind, key), found in zip(keys, self.method.ask(requests) if requests else [], strict=True):
            self.blobs.put(kind, key, pack_proposals(found))

    @contextmanager
    def looking_ahead(self, refs: Sequence[ImageRef]) -> Iterator[None]:
        """Decode the next of these images while a model looks at one."""
        with Prefetch(self._decode, refs) as self._ahead:
            try:
                yield
            finally:
                self._ahead = None

    def levels(self, refs: Sequence[ImageRef], bundle: PromptBundle, context: SetContext) -> SetLevels:
        """What a decision on each of the set's images takes from the set; errors as in `features`."""
        calm, floor = self.calm(refs, bundle, context), bundle.decision.region_floor
        if not floor:
            return SetLevels(calm, floor)
        best = [best_confidence(*self.decidable(ref, bundle, context), bundle) for ref in refs]
        return SetLevels(calm, float(set_floor(np.array(best), np.array(floor))))

    def calm(self, refs: Sequence[ImageRef], bundle: PromptBundle, context: SetContext, *, keep: bool = True) -> Levels:
        """The calm evidence of each of a bundle's phrases, float32 (P,), see `language`; errors as in `features`.

        Args:
            refs: All images of the set; with ``keep=False`` any of them, and nothing is kept.
            bundle: What the images were asked for.
            context: Of the set.
            keep: Whether to look for the answer in the store and leave it there.
        """
        key = _key(_asked(bundle), self.method.id, context.key)
        stored = self._array("calm", key) if keep else None
        if stored is not None:
            return stored
        found = (self.drawn(ref, bundle, context).evidence for ref in refs)
        seen = [peaks(evidence) for evidence in found if evidence is not None]
        levels = calm_levels(np.stack(seen)) if seen else np.zeros(len(bundle.texts), np.float32)
        return self._keep("calm", key, levels) if keep else levels

    def decide(
        self, ref: ImageRef, bundle: PromptBundle, context: SetContext, levels: SetLevels
    ) -> tuple[Candidates, AnomalyResult]:
        """Eq. 4-9 for an image under a bundle and its set's levels; errors as in `features`."""
        found, saliency = self.decidable(ref, bundle, context)
        return found, decide(found, saliency, bundle, levels)

    def decidable(self, ref: ImageRef, bundle: PromptBundle, context: SetContext) -> tuple[Candidates, FloatMap]:
        """What a decision on an image reads: its candidates and its saliency map; errors as in `features`."""
        found = self.drawn(ref, bundle, context)
        return found, self.saliency(ref, found, bundle.saliency, context)

    def image(self, ref: ImageRef) -> RGB:
        """Pixels of an image, uint8 (H, W, 3) RGB; errors as in `features`."""
        return self._decode(ref) if self._ahead is None else self._ahead(ref)

    def _decode(self, ref: ImageRef) -> RGB:
        return load_image(read_bytes(ref), ref.names[0], max_pixels=self.max_pixels).pixels

    def _prior(self, ref: ImageRef, context: SetContext, image: RGB | None = None) -> FloatMap:
        key = _key(ref.key, context.key)
        stored = self._array("prior", key)
        if stored is not None:
            return stored
        pixels = self.image(ref) if image is None else image
        return self._keep("prior", key, prior_map(ref.key, pixels, self.features(ref), context.batch))

    def _embedding(self, ref: ImageRef, image: RGB) -> FloatMap | None:
        if not self.keep_embeddings:
            return self.method.embed(image)
        key = _key(ref.key, self.method.refiner.id)
        stored = self._array("embedding", key)
        if stored is not None:
            return stored
        made = self.method.embed(image)
        return None if made is None else self._keep("embedding", key, made)

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

    def _candidates_key(self, ref: ImageRef, bundle: PromptBundle, context: SetContext) -> str:
        drawn = [bundle.query.objects] if bundle.query.object and needs_objects(bundle) else []
        # The features' id is not needed where no model reads the set, but harmless: it changes with the method.
        return _key(ref.key, _asked(bundle), json.dumps(drawn), self.method.id, self._set(context))

    def _lazy_key(self, ref: ImageRef, bundle: PromptBundle, context: SetContext) -> str:
        return _key(ref.key, bundle.id, self.method.id, context.key)

    def _set(self, context: SetContext) -> str:
        return context.key if self.method.reads_set else ""

    def _part(self, ref: ImageRef, part: Query) -> tuple[str, str]:
        """Kind and key of the proposals of a part of a query."""
        return "proposals", _key(ref.key, json.dumps(astuple(part)), self.method.generator.id)

    def _array(self, kind: str, key: str) -> FloatMap | None:
        stored = self.blobs.get(kind, key)
        return None if stored is None else unpack_array(stored, f"{kind} {key}").astype(np.float32)

    def _keep(self, kind: str, key: str, values: FloatMap) -> FloatMap:
        half = values.astype(np.float16)
        self.blobs.put(kind, key, pack_array(half))
        return half.astype(np.float32)


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join((__version__, *parts)).encode()).hexdigest()


def drawn_by(bundle: PromptBundle, method: SegmentAnyAnomaly) -> str:
    """What of a bundle the candidates depend on that `CandidateStore.drawn` gives, beside the image and its set."""
    return _asked(bundle) if method.refiner.reads_set else bundle.id


def _asked(bundle: PromptBundle) -> str:
    """What of a bundle the models see."""
    return json.dumps(astuple(replace(bundle.query, objects=1)))


@dataclass(slots=True)
class _Look:
    """One image under a bundle, its pixels, the set's map and the embedding made when they are first asked for."""

    store: CandidateStore
    ref: ImageRef
    bundle: PromptBundle
    context: SetContext
    _pixels: RGB | None = None
    _map: FloatMap | None = None
    _embedding: FloatMap | None = None

    def undrawn(self) -> Candidates:
        """Candidates without masks of their boxes, but with those of the objects if the bundle looks at them."""
        query = self.bundle.query
        found = self._proposals(query)
        pixels = self._image()
        bare = without_masks(self.ref.key, (pixels.shape[0], pixels.shape[1]), query.phrases, found)
        return with_objects(bare, self.refine, query.objects) if needs_objects(self.bundle) else bare

    def refine(self, boxes: Boxes) -> Refined:
        """Eq. 2 for some boxes of the image."""
        embedding = self._embed() if len(boxes) else None
        return self.store.method.refine(self._image(), boxes, self._prior(), embedding)

    def _proposals(self, query: Query) -> Proposals:
        store, generator = self.store, self.store.method.generator
        parts = generator.parts(query)
        if generator.reads_set:
            found = store.method.ask([Request(self._image(), part, self._prior()) for part in parts])
            return merge(query, parts, found)
        stored = {part: store.blobs.get(*store._part(self.ref, part)) for part in parts}
        name = self.ref.names[0]
        known = {part: unpack_proposals(data, name) for part, data in stored.items() if data is not None}
        missing = [part for part in parts if part not in known]
        made = store.method.ask([Request(self._image(), part, _NOTHING) for part in missing]) if missing else []
        for part, each in zip(missing, made, strict=True):
            kind, key = store._part(self.ref, part)
            store.blobs.put(kind, key, pack_proposals(each))
            known[part] = each
        return merge(query, parts, [known[part] for part in parts])

    def _image(self) -> RGB:
        if self._pixels is None:
            self._pixels = self.store.image(self.ref)
        return self._pixels

    def _prior(self) -> FloatMap:
        if self._map is None:
            reads = self.store.method.reads_set
            self._map = self.store._prior(self.ref, self.context, self._image()) if reads else _NOTHING
        return self._map

    def _embed(self) -> FloatMap | None:
        if self._embedding is None:
            self._embedding = self.store._embedding(self.ref, self._image())
        return self._embedding
