"""What unattended runs are asked for. Prefect's page makes a form of each, so every field says what it means."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    product: str | None = Field(
        default=None,
        min_length=1,
        description="What the photographs show, as `saa label --product` was told; none is every product.",
        examples=["bottle"],
    )

    @property
    def named(self) -> str:
        """The product, for the names of runs."""
        return self.product or "all"


class Label(_Request):
    """Label what arrived in the watched folders; where nothing did, no model is called."""


class Relabel(_Request):
    """Label the photographs of each product's latest run again, with the bundle that decides now."""


class Collect(_Request):
    """Bring experts' reviews back from Label Studio."""


class Nightly(_Request):
    """Collect, refine, label, publish and curate: makes good whatever an event should have done by day."""


class _OfRun(_Request):
    run: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{1,16}$",
        description="Id of the run, or its beginning; none is the product's latest. Needs a product.",
        examples=["3f2a91"],
    )


class Publish(_OfRun):
    """Push a finished run to Label Studio."""


class Curate(_OfRun):
    """Bring a finished run to FiftyOne, take back what was said there, and evaluate."""


class Refine(_Request):
    """Turn reviews into a better bundle, promoted if it is better on images that the search did not see."""

    new_phrases: bool = Field(
        default=False, description="Also ask the models for phrases that the bundle does not have yet; takes minutes."
    )
    risk: bool = Field(default=False, description="For a product's first bundle: promote on less evidence than usual.")
    again: bool = Field(default=False, description="Also where no review came since the last refinement.")
