"""What the catalog takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self

from saa_core.prompts import PromptBundle, diff
from saa_core.refinement.outcome import Outcome, Refinement
from saa_core.reviews import PredictedRegion, ReviewState
from saa_core.types import ImageRef

RunState = Literal["running", "done"]
ImageState = Literal["labelled", "reused", "quarantined"]
BundleState = Literal["library", "proposed", "champion", "retired"]
"""A bundle of the library was never proposed; the others are the stations of a refinement."""
Promoting = Literal["promote", "rollback"]


def now() -> datetime:
    """The present, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run of one bundle over one image set.

    Attributes:
        id: Hash of what the run's result depends on.
        product: What was inspected.
        bundle: Id of the bundle.
        profile: Profile of the bundle.
        models: Id of the model in each role: name, weights, pre-processing and code version.
        setup: How these models are made again, as `ModelSetup` without what belongs to one machine; empty for a run of
            a version that had one set of models only.
        code: Version of this program.
        source: What the user pointed at, without secrets.
        state: `done` once all its files are written.
        created: When it was begun, UTC.
        finished: When it was last finished, UTC.
        labelled: Images that models looked at.
        reused: Images whose stored candidates were used.
        quarantined: Files that could not be used.
        regions: Regions of all images.
        model_calls: Calls of a generator, refiner or feature extractor.
        seconds: Wall time.
    """

    id: str
    product: str
    bundle: str
    profile: str
    models: Mapping[str, str]
    code: str
    source: str = ""
    setup: Mapping[str, Any] = field(default_factory=dict)
    state: RunState = "running"
    created: datetime = field(default_factory=now)
    finished: datetime | None = None
    labelled: int = 0
    reused: int = 0
    quarantined: int = 0
    regions: int = 0
    model_calls: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class RunTotals:
    """Finished runs together; `last` is when the newest of them was begun, the rest as in `RunRecord`, summed."""

    runs: int
    regions: int
    model_calls: int
    seconds: float
    last: datetime


@dataclass(frozen=True, slots=True)
class RunImage:
    """One image of one run.

    Attributes:
        name: Its first name in the set; unique in the run.
        state: What became of it.
        key: SHA-256 of the bytes; None when they could not be read.
        names: All its names in the set, sorted.
        uri: Where the bytes are.
        lot: Production lot.
        height: Rows in pixels; None when it could not be decoded.
        width: Columns in pixels; None when it could not be decoded.
        bytes: Size of the file; None when not known.
        reason: Why it is quarantined.
        score: Image score in [0, 1].
        regions: Number of regions.
    """

    name: str
    state: ImageState
    key: str | None = None
    names: tuple[str, ...] = ()
    uri: str = ""
    lot: str | None = None
    height: int | None = None
    width: int | None = None
    bytes: int | None = None
    reason: str = ""
    score: float | None = None
    regions: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", self.names or (self.name,))

    @property
    def ref(self) -> ImageRef:
        """The image itself; its key is empty when the bytes could not be read."""
        return ImageRef(self.key or "", self.uri, self.names, self.lot)

    @classmethod
    def of(
        cls,
        ref: ImageRef,
        state: ImageState,
        *,
        height: int | None = None,
        width: int | None = None,
        bytes: int | None = None,
        reason: str = "",
        score: float | None = None,
        regions: int = 0,
    ) -> Self:
        """The record of an image whose bytes were read."""
        return cls(
            ref.names[0], state, ref.key, ref.names, ref.uri, ref.lot, height, width, bytes, reason, score, regions
        )


@dataclass(frozen=True, slots=True)
class BundleRecord:
    """A bundle and its station."""

    bundle: PromptBundle
    state: BundleState
    created: datetime


@dataclass(frozen=True, slots=True)
class PredictionRecord:
    """What was sent out for review, for one image under one version.

    Attributes:
        target: Where it went, such as ``label-studio http://127.0.0.1:8080 project 7``.
        image: Key of the image.
        run: Id of the run.
        bundle: Id of its bundle.
        version: What the predictions are called there.
        task: The image's number there.
        aided: Whether the regions are shown. If not, they were withheld.
        priority: Of its review, in [0, 1].
        regions: Shown or withheld.
        pushed: When, UTC.
    """

    target: str
    image: str
    run: str
    bundle: str
    version: str
    task: int
    aided: bool
    priority: float
    regions: tuple[PredictedRegion, ...]
    pushed: datetime = field(default_factory=now)


@dataclass(frozen=True, slots=True)
class Pushed:
    """A prediction record without its regions; fields as in `PredictionRecord`."""

    image: str
    version: str
    task: int
    aided: bool


@dataclass(frozen=True, slots=True)
class ReviewKey:
    """What one version of a review is known by; fields as in `Review`."""

    image: str
    id: str
    updated: datetime
    state: ReviewState
    annotator: str


@dataclass(frozen=True, slots=True)
class PromotionRecord:
    """One change of a product's champion.

    Attributes:
        number: Rises with every change, of any product.
        product: What is inspected.
        bundle: Id of the bundle that decides from now on.
        previous: Id of the one that did until now; None where there was none.
        kind: Whether a bundle was put in front, or taken back.
        reason: Why, in words.
        who: Who did it: a user's or a program's name.
        at: When, UTC.
    """

    number: int
    product: str
    bundle: str
    previous: str | None
    kind: Promoting
    reason: str
    who: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RefinementRecord:
    """Where a proposed bundle comes from; a bundle and its evidence are known by their first record.

    Attributes:
        bundle: Id of the proposed bundle.
        product: What is inspected.
        champion: Id of the bundle that it was made from and compared with.
        evidence: Hash of the evidence.
        outcome: What became of it then.
        seed: Of everything random.
        content: For a person who asks later, as JSON: `reasons`, `gain`, the figures `before`, `after`, `held_before`
            and `held_after` as in `Refinement`, and `changes` from the champion as (path, old, new).
        created: When, UTC.
    """

    bundle: str
    product: str
    champion: str
    evidence: str
    outcome: Outcome
    seed: int
    content: Mapping[str, Any]
    created: datetime = field(default_factory=now)

    @classmethod
    def of(cls, refinement: Refinement) -> Self:
        """The record of a refinement.

        Raises:
            ValueError: It proposes no bundle.
        """
        proposed = refinement.proposed
        if proposed is None:
            raise ValueError("a refinement that proposes no bundle has no record")
        figures = {name: getattr(refinement, name) for name in ("gain", "before", "after", "held_before", "held_after")}
        content = {
            "reasons": list(refinement.reasons),
            **{name: value and asdict(value) for name, value in figures.items()},
            "changes": [list(change) for change in diff(refinement.champion, proposed)],
        }
        ids = proposed.id, refinement.product, refinement.champion.id, refinement.evidence.hash
        return cls(*ids, refinement.outcome, refinement.seed, content)


@dataclass(frozen=True, slots=True)
class LookRecord:
    """One look at the images that are locked away from every search.

    Attributes:
        number: Rises with every look, at any product's.
        product: What is inspected.
        evidence: Hash of the evidence.
        champion: Id of the bundle that decided so far.
        bundle: Id of the bundle that was compared with it.
        gain: What the second did better, in the objective; None where it is not defined.
        at: When, UTC.
    """

    number: int
    product: str
    evidence: str
    champion: str
    bundle: str
    gain: float | None
    at: datetime
