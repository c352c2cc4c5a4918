"""Model outputs addressed by content: what was computed once, for these bytes and these words, is never computed again.

What is kept of which kind, and what its key is made of, `integrations.blob_keys` says. A refiner that is dear makes
masks only of boxes that can be shown (`lazy`); all of them (`candidates`) are made where a refinement or an explanation
asks. Embeddings are kept where a setting says so. Arrays are kept as float16, and a value just computed passes through
float16 too, so that a run gives the same bits whether it found or made its parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

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
from integrations.blob_keys import Address, BlobKeys, asked
from integrations.blobs import BlobStore
from integrations.image_sets import read_bytes
from integrations.prefetch import Prefetch
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

    @property
    def keys(self) -> BlobKeys:
        """Where they are kept there."""
        return BlobKeys(self.method)

    def features(self, ref: ImageRef) -> FloatMap:
        """Features of an image, float32 (h, w, C).

        Raises:
            ImageError: The file is gone, changed, or not an image that can be used.
        """
        address = self.keys.features(ref.key)
        stored = self._array(address)
        if stored is not None:
            return stored
        found = self._keep(address, self.method.features(self.image(ref)))
        self._keep(self.keys.descriptor(ref.key), found.mean(axis=(0, 1)))
        return found

    def descriptor(self, ref: ImageRef) -> FloatMap:
        """The image as one vector, float32 (C,): the mean of its features; errors as in `features`."""
        stored = self.known_descriptor(ref.key)
        if stored is not None:
            return stored
        return self._keep(self.keys.descriptor(ref.key), self.features(ref).mean(axis=(0, 1)))

    def known_descriptor(self, image: str) -> FloatMap | None:
        """As `descriptor`, of an image by its key; None where nothing is stored, since no file is read."""
        return self._array(self.keys.descriptor(image))

    def context(self, refs: Sequence[ImageRef]) -> SetContext:
        """The context of a set; the order of its images does not matter."""
        by_key = {ref.key: ref for ref in refs}
        kind, key = self.keys.context(by_key)
        stored = self.blobs.get(kind, key)
        if stored is not None:
            return SetContext(key, BatchContext.from_bytes(stored))
        layout = self.method.extractor.layout
        batch = BatchContext.fit(sorted(by_key), lambda image: self.features(by_key[image]), layout)
        self.blobs.put(kind, key, batch.to_bytes())
        return SetContext(key, batch)

    def candidates(self, ref: ImageRef, bundle: PromptBundle, context: SetContext) -> Candidates:
        """Eq. 1-2 for an image, each box with its mask; errors as in `features`."""
        address = self.keys.candidates(ref.key, bundle, context.key)
        stored = self.blobs.get(*address)
        if stored is None:
            look = _Look(self, ref, bundle, context)
            stored = pack_candidates(complete(look.undrawn(), look.refine))
            self.blobs.put(*address, stored)
        return unpack_candidates(stored, ref.names[0])

    def has_candidates(self, ref: ImageRef, bundle: PromptBundle, context: SetContext) -> bool:
        """Whether `candidates` would be answered without a model."""
        return self.blobs.has(*self.keys.candidates(ref.key, bundle, context.key))

    def drawn(self, ref: ImageRef, bundle: PromptBundle, context: SetContext) -> Candidates:
        """Eq. 1-2 for an image, with the masks that the bundle can show at least; errors as in `features`."""
        # A refiner that reads the set is one without weights, which draws a box faster than this thinks about it.
        if self.method.refiner.reads_set or self.has_candidates(ref, bundle, context):
            return self.candidates(ref, bundle, context)
        address = self.keys.lazy(ref.key, bundle, context.key)
        stored = self.blobs.get(*address)
        if stored is None:
            look = _Look(self, ref, bundle, context)
            undrawn = look.undrawn()
            saliency = self.saliency(ref, undrawn, bundle.saliency, context)
            lowest = bundle.decision.region_floor / 2  # see `set_floor`
            stored = pack_candidates(refine_lazily(undrawn, look.refine, saliency, bundle, lowest, _CHUNK))
            self.blobs.put(*address, stored)
        return unpack_candidates(stored, ref.names[0])

    def has_drawn(self, ref: ImageRef, bundle: PromptBundle, context: SetContext) -> bool:
        """Whether `drawn` would be answered without a model."""
        lazily = self.blobs.has(*self.keys.lazy(ref.key, bundle, context.key))
        return lazily or self.has_candidates(ref, bundle, context)

    def propose(self, refs: Sequence[ImageRef], bundle: PromptBundle) -> None:
        """Ask the generator for what is missing of several images at once; one that cannot be used is passed over."""
        generator, requests, addresses = self.method.generator, [], []
        if generator.reads_set:
            return
        for ref in refs:
            parts = generator.parts(bundle.query)
            missing = [part for part in parts if not self.blobs.has(*self.keys.proposals(ref.key, part))]
            with suppress(ImageError):
                image = self.image(ref) if missing else None
                requests += [Request(image, part, _NOTHING) for part in missing if image is not None]
                addresses += [self.keys.proposals(ref.key, part) for part in missing]
        for address, found in zip(addresses, self.method.ask(requests) if requests else [], strict=True):
            self.blobs.put(*address, pack_proposals(found))

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
        address = self.keys.calm(bundle, context.key)
        stored = self._array(address) if keep else None
        if stored is not None:
            return stored
        found = (self.drawn(ref, bundle, context).evidence for ref in refs)
        seen = [peaks(evidence) for evidence in found if evidence is not None]
        levels = calm_levels(np.stack(seen)) if seen else np.zeros(len(bundle.texts), np.float32)
        return self._keep(address, levels) if keep else levels

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
        address = self.keys.prior(ref.key, context.key)
        stored = self._array(address)
        if stored is not None:
            return stored
        pixels = self.image(ref) if image is None else image
        return self._keep(address, prior_map(ref.key, pixels, self.features(ref), context.batch))

    def _embedding(self, ref: ImageRef, image: RGB) -> FloatMap | None:
        if not self.keep_embeddings:
            return self.method.embed(image)
        address = self.keys.embedding(ref.key)
        stored = self._array(address)
        if stored is not None:
            return stored
        made = self.method.embed(image)
        return None if made is None else self._keep(address, made)

    def saliency(self, ref: ImageRef, candidates: Candidates, prompt: SaliencyPrompt, context: SetContext) -> FloatMap:
        """The map s of Eq. 5 under a prompt; errors as in `features`."""
        if prompt.source == "batch":
            return self._prior(ref, context)
        if prompt.source == "object":  # depends on the objects found; cheap, so it is not worth a key of its own
            return saliency_map(self.features(ref), prompt, candidates.objects)
        address = self.keys.saliency(ref.key, prompt)
        stored = self._array(address)
        if stored is not None:
            return stored
        return self._keep(address, saliency_map(self.features(ref), prompt))

    def _array(self, address: Address) -> FloatMap | None:
        stored = self.blobs.get(*address)
        return None if stored is None else unpack_array(stored, " ".join(address)).astype(np.float32)

    def _keep(self, address: Address, values: FloatMap) -> FloatMap:
        half = values.astype(np.float16)
        self.blobs.put(*address, pack_array(half))
        return half.astype(np.float32)


def drawn_by(bundle: PromptBundle, method: SegmentAnyAnomaly) -> str:
    """What of a bundle the candidates depend on that `CandidateStore.drawn` gives, beside the image and its set."""
    return asked(bundle) if method.refiner.reads_set else bundle.id


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
        stored = {part: store.blobs.get(*store.keys.proposals(self.ref.key, part)) for part in parts}
        name = self.ref.names[0]
        known = {part: unpack_proposals(data, name) for part, data in stored.items() if data is not None}
        missing = [part for part in parts if part not in known]
        made = store.method.ask([Request(self._image(), part, _NOTHING) for part in missing]) if missing else []
        for part, each in zip(missing, made, strict=True):
            store.blobs.put(*store.keys.proposals(self.ref.key, part), pack_proposals(each))
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
