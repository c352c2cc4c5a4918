"""The account of what came from FiftyOne's App and what was written there."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from integrations.intake import Intake


@dataclass(slots=True)
class PublishReport:
    """What a publish did.

    Attributes:
        dataset: Name of the data set: the product.
        bundle: Key of the bundle's fields in it.
        intake: What came back from the App first.
        added: Samples that are new.
        present: Samples of the run that were there.
        written: By field, how many samples it was written in; fields in which nothing changed are left out.
        refused: (image, reason) of those that cannot be shown, and of those whose word could not be taken back.
        notes: What a person should know.
    """

    dataset: str
    bundle: str
    intake: Intake = field(default_factory=Intake)
    added: int = 0
    present: int = 0
    written: dict[str, int] = field(default_factory=dict)
    refused: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def count(self, name: str, written: int) -> None:
        """Note how many samples a field was written in."""
        if written:
            self.written[name] = self.written.get(name, 0) + written

    def sentence(self) -> str:
        """The publish in one sentence."""
        changes = ", ".join(f"{name} in {number}" for name, number in self.written.items())
        refused = f", {len(self.refused)} refused" if self.refused else ""
        return f"{self.added} new images, {self.present} there before{refused}; written: {changes or 'nothing'}"

    def lines(self) -> list[str]:
        """The account, a line each."""
        return [self.sentence(), f"from the App: {self.intake.sentence()}", *self.notes, *self.intake.remarks()]

    def as_dict(self) -> dict[str, Any]:
        """Every field, as JSON can hold it."""
        return asdict(self) | {"intake": self.intake.as_dict()}
