"""New reviews on their way into the catalog: stored once, counted, compared with those of other annotators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from integrations.catalog import Catalog
from saa_core.reviews import Disagreement, Review, disagreements


@dataclass(slots=True)
class Intake:
    """What came in.

    Attributes:
        states: New reviews: how many were submitted, skipped, withdrawn.
        findings: What the new, submitted reviews say of their images: good, defective, or nothing.
        outcomes: What became of the regions that were shown, in those that say something.
        unaided: New, submitted reviews of images that were shown without regions, on purpose.
        refused: (review, reason) of those that cannot be used.
        contradictory: Names of images that a new review calls good and leaves regions on.
        disagreements: On which of these images annotators differ, by name.
    """

    states: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    unaided: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)
    contradictory: list[str] = field(default_factory=list)
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
            self._look_for_trouble(catalog, new[0].product, new)

    def _look_for_trouble(self, catalog: Catalog, product: str, new: Sequence[Review]) -> None:
        """What a person has to look at again."""
        images = {review.image for review in new}
        several = {image for image, people in catalog.annotators(product, images).items() if len(people) > 1}
        differing = disagreements(catalog.reviews(product, several))
        contradictory = [review.image for review in new if review.contradictory]
        names = catalog.names(product, {*contradictory, *(each.image for each in differing)})
        self.contradictory += [names[image] for image in contradictory]
        self.disagreements += tuple(replace(each, image=names[each.image]) for each in differing)

    def _count(self, reviews: Sequence[Review]) -> None:
        self.states.update(review.state for review in reviews)
        submitted = [review for review in reviews if review.state == "submitted"]
        self.findings.update(review.finding or "nothing" for review in submitted)
        self.unaided += sum(not review.aided for review in submitted)
        # Of a review that says nothing of its image, the regions say nothing either.
        shown = [review for review in submitted if review.aided and review.finding]
        self.outcomes.update(region.outcome for review in shown for region in review.regions)

    def as_dict(self) -> dict[str, Any]:
        """Every field, as JSON can hold it."""
        # Of a Counter, asdict() makes one that counts the other's items.
        counts = {"states": self.states, "findings": self.findings, "outcomes": self.outcomes}
        return asdict(self) | {name: dict(counted) for name, counted in counts.items()}

    def sentence(self) -> str:
        """What came in, in one sentence."""
        if not self.states:
            return f"nothing new, {len(self.refused)} refused" if self.refused else "nothing new"
        findings = self.findings["good"], self.findings["defective"], self.findings["nothing"]
        images = "images: {} good, {} defective, {} undecided".format(*findings)
        new = f"{self.states.total()} new reviews: {_counted(self.states)}"
        return f"{new}; {images}; regions: {_counted(self.outcomes) or 'none'}"

    def remarks(self) -> list[str]:
        """What a person should know, a line each."""
        lines = [f"{name} is called good and has regions; look at it again" for name in self.contradictory]
        lines += [f"annotators differ on {each.image}: {each.reason}" for each in self.disagreements]
        if self.unaided:
            lines.append(f"{self.unaided} images were reviewed without having been shown masks, on purpose")
        return lines


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {what}" for what, number in sorted(counts.items()))
