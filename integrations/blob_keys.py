"""Where in the blob store what was computed of an image is: keys by content.

    features    image bytes, feature model
    descriptor  the same
    context     the set's image keys, feature model
    prior       image bytes, context
    proposals   image bytes, a part of the query, generator
    embedding   image bytes, refiner
    candidates  image bytes, query, the three models, context
    lazy        image bytes, bundle, the three models, context
    calm        query, the three models, context
    saliency    image bytes, feature model, source and neighbours

Models that read the image alone have proposals that can be kept part by part, so that new phrases ask for these alone,
and candidates that know no context. Every key holds the program's version too, since its code makes contexts and maps.
No bundle number but the neighbours of Eq. 5 enters a key, and those ask for arithmetic on stored features, not for a
model: a bundle that changes only numbers makes no model call.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace

from saa_core import __version__
from saa_core.pipeline import SegmentAnyAnomaly, needs_objects
from saa_core.prompts import PromptBundle, SaliencyPrompt
from saa_core.types import Query

Address = tuple[str, str]
"""Kind and key of a blob."""

KINDS = frozenset(
    "features descriptor context prior proposals embedding candidates lazy calm saliency".split()  # noqa: SIM905
)
"""Of what `BlobKeys` gives the addresses of."""


@dataclass(frozen=True, slots=True)
class BlobKeys:
    """Addresses of what a method computes. Images are given by their keys, contexts by the key that `context` gave."""

    method: SegmentAnyAnomaly

    def features(self, image: str) -> Address:
        """Features of an image."""
        return "features", key_of(image, self.method.extractor.id)

    def descriptor(self, image: str) -> Address:
        """Their mean."""
        return "descriptor", key_of(image, self.method.extractor.id)

    def context(self, images: Iterable[str]) -> Address:
        """The context of a set; order and repetition do not matter."""
        return "context", key_of(*sorted(set(images)), self.method.extractor.id)

    def prior(self, image: str, context: str) -> Address:
        """An image's map in its set."""
        return "prior", key_of(image, context)

    def saliency(self, image: str, prompt: SaliencyPrompt) -> Address:
        """An image's map with itself as context."""
        return "saliency", key_of(image, self.method.extractor.id, prompt.source, str(prompt.neighbours))

    def proposals(self, image: str, part: Query) -> Address:
        """Boxes for a part of a query."""
        return "proposals", key_of(image, json.dumps(astuple(part)), self.method.generator.id)

    def embedding(self, image: str) -> Address:
        """What the refiner works out once for an image."""
        return "embedding", key_of(image, self.method.refiner.id)

    def candidates(self, image: str, bundle: PromptBundle, context: str) -> Address:
        """Candidates with all their masks."""
        drawn = [bundle.query.objects] if bundle.query.object and needs_objects(bundle) else []
        # The features' id is not needed where no model reads the set, but harmless: it changes with the method.
        read = context if self.method.reads_set else ""
        return "candidates", key_of(image, asked(bundle), json.dumps(drawn), self.method.id, read)

    def lazy(self, image: str, bundle: PromptBundle, context: str) -> Address:
        """Candidates with the masks that the bundle can show."""
        return "lazy", key_of(image, bundle.id, self.method.id, context)

    def calm(self, bundle: PromptBundle, context: str) -> Address:
        """The calm evidence of a bundle's phrases in a set."""
        return "calm", key_of(asked(bundle), self.method.id, context)


def key_of(*parts: str) -> str:
    """SHA-256 of the program's version and the parts, hexadecimal."""
    return hashlib.sha256("\n".join((__version__, *parts)).encode()).hexdigest()


def asked(bundle: PromptBundle) -> str:
    """What of a bundle the models see."""
    return json.dumps(astuple(replace(bundle.query, objects=1)))
