"""New phrases for a champion: proposed, raced on a few reviewed images, and the best of them asked of all."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from integrations.catalog import Catalog
from integrations.evidence_store import EvidenceStore
from integrations.reviewed import ReviewedProduct
from saa_core import library
from saa_core.prompts import PromptBundle
from saa_core.refinement.judge import Judge
from saa_core.refinement.knobs import Knobs
from saa_core.refinement.objective import Tally
from saa_core.refinement.outcome import Trial
from saa_core.refinement.phrases import Proposal, halve, propose
from saa_core.refinement.refine import Wider
from saa_core.refinement.search import shifted, weighted

MOST = 12
"""Phrases of each kind that enter the race."""
_ALIKE = 4
KEPT = 6
"""Phrases that are asked of every image of the set."""


@dataclass(frozen=True, slots=True)
class Race:
    """New phrases, and why.

    Attributes:
        wider: What the search may try; None where no phrase gained anything.
        sources: The reason for each new phrase.
        dropped: What was tried and left behind.
    """

    wider: Wider | None
    sources: dict[str, str]
    dropped: tuple[Trial, ...]


def race(
    catalog: Catalog,
    store: EvidenceStore,
    product: ReviewedProduct,
    champion: PromptBundle,
    seen: Collection[str],
    seed: int,
) -> Race:
    """Find new phrases for a champion.

    Each round asks the models for all phrases that are left, on few images first. A phrase's score is what the
    objective gains when it alone speaks beside the champion's, at the best threshold nearby.

    Args:
        catalog: Knows the sibling products.
        store: Evidence.
        product: What experts said.
        champion: Of the product.
        seen: Keys of the images that the search may see.
        seed: Of the draw of the images.
    """
    others = {each.bundle.product: each.bundle for each in catalog.bundles() if each.state == "champion"}
    siblings = {
        name: [phrase.text for phrase in bundle.language.specific if phrase.weight]
        for name, bundle in others.items()
        if name != product.product
    }
    found = propose(
        champion.texts,
        product.words(seen),
        champion.language.object,
        product.product,
        siblings,
        library.all_bundles(),
        MOST,
    )
    defective = [each.ref.key for each in product.images if each.ref.key in seen and each.review.masks]
    if not found or not defective:
        return Race(None, {}, ())

    def score(proposals: Sequence[Proposal], images: Sequence[str]) -> list[float]:
        store.advance("trying new phrases", len(images), len(defective))
        return _scores(store, product, champion, proposals, images)

    trail = halve(found, defective, score, seed=seed)
    winners = _winners(trail, len(defective))
    dropped = tuple(_dropped(*entry) for entry in trail if entry[0] not in winners)
    if not winners:
        return Race(None, {}, dropped)
    bundle = with_phrases(champion, winners, product.product)
    sources = {proposal.text: proposal.reason for proposal in winners}
    return Race(Wider(bundle, store.sets(product, bundle), dropped), sources, dropped)


def _winners(trail: Sequence[tuple[Proposal, float, int]], images: int) -> list[Proposal]:
    """Phrases that gain on all images; of those that gain the very same, which the models take for one, the first."""
    gained = {round(gain, _ALIKE): proposal for proposal, gain, size in reversed(trail) if size == images and gain > 0}
    return [proposal for proposal, _, _ in trail if any(proposal is each for each in gained.values())][:KEPT]


def with_phrases(champion: PromptBundle, proposals: Sequence[Proposal], product: str) -> PromptBundle:
    """The champion with new phrases that do not speak yet."""
    silent: dict[bool, list[dict[str, object]]] = {True: [], False: []}
    for proposal in proposals:
        silent[proposal.source == "general"].append({"text": proposal.text, "weight": 0.0})
    return champion.changed(
        product=product,
        language={
            "agnostic": [*(phrase.model_dump() for phrase in champion.language.agnostic), *silent[True]],
            "specific": [*(phrase.model_dump() for phrase in champion.language.specific), *silent[False]],
        },
    )


def _scores(
    store: EvidenceStore,
    product: ReviewedProduct,
    champion: PromptBundle,
    proposals: Sequence[Proposal],
    images: Sequence[str],
) -> list[float]:
    bundle = with_phrases(champion, proposals, product.product)
    judge = Judge(bundle, store.sets(product, bundle, images))
    if not judge.images:
        return [0.0] * len(proposals)
    tally, own = Tally(judge.images, judge.labels), Knobs.of(bundle)
    rows = [bundle.texts.index(proposal.text) for proposal in proposals]
    options = [shifted(weighted(own, row, 1.0)) for row in rows]
    counts = judge.counts([*shifted(own), *(each for option in options for each in option)])
    values = np.nan_to_num(tally.objective(counts, np.ones(len(judge.images)))).reshape(1 + len(rows), -1).max(axis=1)
    return [float(value) for value in values[1:] - values[0]]


def _dropped(proposal: Proposal, gain: float, images: int) -> Trial:
    return Trial(
        what=f"use {proposal.text!r} ({proposal.reason})",
        objective=None,
        taken=False,
        why=f"{gain:+.3f} on {images} images, others did better" if gain > 0 else f"gains nothing on {images} images",
    )
