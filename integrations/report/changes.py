"""What changed between two bundles, for a person who has never seen one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from integrations.report.plots import number
from saa_core.prompts import PromptBundle, diff

_TITLES: Final = {
    "confidence.map": "How the anomaly map is made",
    "confidence.suppression": "Overlap from which a weaker region is dropped",
    "confidence.top_k": "Most regions of an image",
    "decision.accept": "Confidence from which a region needs no review",
    "decision.calibration": "Share of right regions by confidence",
    "decision.region_floor": "Least confidence of a region that is shown",
    "decision.score_floor": "Least score of a region that is considered",
    "decision.threshold": "Where the anomaly map is cut",
    "language.background": "Words for the background",
    "language.object": "Words for the object",
    "origin": "Where the bundle comes from",
    "profile": "Profile",
    "property.area_max": "Largest region, as share of the object",
    "property.area_min": "Smallest region, as share of the object",
    "property.location": "Least share of a region on the object",
    "property.objects": "Objects in an image",
    "saliency.gain": "Influence of saliency",
    "saliency.neighbours": "Neighbours that saliency looks at",
    "saliency.input": "Side that a CNN sees the image at",
    "saliency.stages": "Stages of a CNN that saliency compares",
    "saliency.source": "What an image is compared with",
}
_PHRASE = re.compile(r"language\.(?:agnostic|specific)\[(.*)\](?:\.(threshold|weight))?", re.DOTALL)
_NO_LIMIT = ("confidence.top_k", "property.area_max")


@dataclass(frozen=True, slots=True)
class BundleChange:
    """One difference.

    Attributes:
        path: Where in the bundle.
        title: The same in words.
        before: The old value in words.
        after: The new value in words.
    """

    path: str
    title: str
    before: str
    after: str


def bundle_changes(old: PromptBundle, new: PromptBundle) -> list[BundleChange]:
    """Every difference by path, but for the parent, which always differs."""
    return [
        BundleChange(path, title_of(path), _value(path, before), _value(path, after))
        for path, before, after in diff(old, new)
        if path != "parent"
    ]


def title_of(path: str) -> str:
    """What a path in a bundle means, in words; the path itself where there are none."""
    phrase = _PHRASE.fullmatch(path)
    if phrase is None:
        return _TITLES.get(path, path)
    return f"{phrase[2].capitalize()} of “{phrase[1]}”" if phrase[2] else f"Phrase “{phrase[1]}”"


def _value(path: str, value: object) -> str:
    if isinstance(value, Mapping):
        return _phrase(value)
    if value is None:
        return "no limit" if path in _NO_LIMIT else "not there" if _PHRASE.fullmatch(path) else "none"
    return number(value) if isinstance(value, float) else str(value) or "none"


def _phrase(phrase: Mapping[str, object]) -> str:
    """A phrase's numbers; those that say nothing are left out."""
    if not phrase["weight"]:
        return "silenced"
    parts = [f"weight {phrase['weight']}"]
    if phrase["threshold"]:
        parts.append(f"threshold {phrase['threshold']}")
    if phrase["caption"] is not None:
        parts.append(f"caption {phrase['caption']}")
    return ", ".join(parts)
