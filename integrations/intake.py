"""New reviews on their way into the catalog: stored once, counted, compared with those of other annotators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from integrations.catalog import Catalog
from saa_core.reviews import Disagreement, Review, disagreements


@dataclass(slots=True)
class Intake:
    """What came in.

    Attributes:
        states: New reviews: how many were submitted, skipped, withdrawn.
        findings: What the new, submitted reviews say of their images: good, defective, or nothing.
        outcomes: What became of the regions that were shown, in the new, submitted reviews.
        unaided: New, submitted reviews of images that were shown without regions, on purpose.
        refused: (review, reason) of those that cannot be used.
        disagreements: On which of these images annotators differ.
    """

    states: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    unaided: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)
    disagreements: tuple[Disagreement, ...] = ()

    def store(self, catalog: Catalog, source: str, reviews: Sequence[Review]) -> None:
        """Add what the catalog does not have yet.

        Args:
            catalog: Where reviews are kept.
            source: Where all of them come from.
            reviews: Reviews of one product.

        Raises:
            StoreError: The catalog cannot be written; then none was added.
        """
        images = {review.image for review in reviews}
        known = {(key.id, key.updated, key.state) for key in catalog.review_keys(source, images)}
        new = [review for review in reviews if (review.id, review.updated, review.state) not in known]
        if new:
            catalog.add_reviews(new)
            self._count(new)
            self._look_for_disagreement(catalog, new[0].product, images)

    def _look_for_disagreement(self, catalog: Catalog, product: str, images: Collection[str]) -> None:
        several = {image for image, people in catalog.annotators(product, images).items() if len(people) > 1}
        self.disagreements += disagreements(catalog.reviews(product, several))

    def _count(self, reviews: Sequence[Review]) -> None:
        self.states.update(review.state for review in reviews)
        submitted = [review for review in reviews if review.state == "submitted"]
        self.findings.update(review.finding or "nothing" for review in submitted)
        self.unaided += sum(not review.aided for review in submitted)
        self.outcomes.update(region.outcome for review in submitted if review.aided for region in review.regions)

    def as_dict(self) -> dict[str, Any]:
        """Every field, as JSON can hold it."""
        # Of a Counter, asdict() makes one that counts the other's items.
        counts = {"states": self.states, "findings": self.findings, "outcomes": self.outcomes}
        return asdict(self) | {name: dict(counted) for name, counted in counts.items()}

    def sentence(self) -> str:
        """What came in, in one sentence."""
        if not self.states:
            return "nothing new"
        outcomes = _counted(self.outcomes)
        return f"{self.states.total()} new reviews ({_counted(self.states)}); regions: {outcomes or 'none'}"

    def remarks(self) -> list[str]:
        """What a person should know, a line each."""
        lines = [f"annotators differ on {each.image[:12]}: {each.reason}" for each in self.disagreements]
        if self.unaided:
            lines.append(f"{self.unaided} images were reviewed without having been shown masks, on purpose")
        return lines


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {what}" for what, number in sorted(counts.items()))
