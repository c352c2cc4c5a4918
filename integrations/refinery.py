"""A product's refinement in a workspace: reviews and candidates in, a better bundle and its report out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from integrations.candidate_store import CandidateStore, SetContext
from integrations.catalog import Catalog, RefinementRecord
from integrations.evidence_store import Advance, EvidenceStore
from integrations.finished_run import without_run
from integrations.phrase_race import Race, race
from integrations.report.refinement import write_refinement
from integrations.reviewed import Reviewed, ReviewedProduct, lot_of, reviewed_product
from integrations.settings import Settings
from saa_core.errors import BundleError
from saa_core.masks import Rle
from saa_core.prompts import PromptBundle
from saa_core.refinement.effort import fit
from saa_core.refinement.guard import gate_for, hold_out
from saa_core.refinement.judge import EvidenceSet
from saa_core.refinement.outcome import ImageChange, Refinement
from saa_core.refinement.refine import Question, Wider, refine
from saa_core.types import RGB, SetLevels


class RefineRequest(BaseModel):
    """What `saa refine` was asked for.

    Attributes:
        product: What is inspected.
        seed: Of everything random.
        budget: Bundles to try, about.
        risk: Whether a first bundle may pass the looser gate.
        new_phrases: Whether models may be asked for phrases that the product's bundle does not have.
    """

    model_config = ConfigDict(frozen=True)

    product: str
    seed: int = 0
    budget: int = Field(default=2000, ge=0)
    risk: bool = False
    new_phrases: bool = False


def refine_product(catalog: Catalog, store: CandidateStore, request: RefineRequest, advance: Advance) -> Refinement:
    """Look for a better bundle of a product. Lots that are new are assigned to the search or to the hold-out.

    Raises:
        StoreError: Nothing was ever labelled for the product.
    """
    product = request.product
    champion = current_bundle(catalog, product)
    reviewed = reviewed_product(catalog, product, store.method.ids)
    held = _held(catalog, reviewed)
    evidence = EvidenceStore(store, advance)
    sets = evidence.sets(reviewed, champion)
    lost, found = dict(evidence.unusable), Race(None, {}, ())
    if request.new_phrases and sets and not _too_few(catalog, reviewed, request):
        seen = {image.ref.key for image in reviewed.images if not held[image.lot]}
        found = race(catalog, evidence, reviewed, champion, seen, request.seed)
    wider = found.wider
    if wider is not None:
        # Both searches see the same images: those whose photographs can still be asked for new phrases.
        sets, wider = _common(sets, wider)
        lost = evidence.unusable
    question = Question(
        product=product,
        champion=champion,
        first=not catalog.promotions(product),
        effort=fit(catalog.reviews(product)),
        sources=found.sources,
        unknown=evidence.unknown,
        seed=request.seed,
        budget=request.budget,
        risk=request.risk,
    )
    advance("searching", 0, 1)
    refinement = refine(question, sets, held, reviewed.summary(lost), wider)
    advance("searching", 1, 1)
    return refinement if wider else replace(refinement, tried=(*refinement.tried, *found.dropped))


def _too_few(catalog: Catalog, reviewed: ReviewedProduct, request: RefineRequest) -> bool:
    """Whether the gate will ask for more reviews anyway: then no model has to be asked."""
    gate = gate_for(risk=request.risk, first=not catalog.promotions(reviewed.product))
    summary = reviewed.summary({})
    return bool(gate.missing(summary.defective, summary.good))


def _held(catalog: Catalog, reviewed: ReviewedProduct) -> dict[str, bool]:
    """Every lot, and whether it is held out. A lot of images that had none before is what these were: searched, if any
    of them was.
    """
    product, known = reviewed.product, catalog.holdout(reviewed.product)
    before: dict[str, list[bool]] = {}
    for image in reviewed.images:
        alone = known.get(lot_of(image.ref.key))
        if alone is not None and image.lot not in known:
            before.setdefault(image.lot, []).append(alone)
    known = catalog.assign_holdout(product, {lot: all(each) for lot, each in before.items()})
    return catalog.assign_holdout(product, hold_out(product, known, reviewed.lots))


def _common(sets: Sequence[EvidenceSet], wider: Wider) -> tuple[tuple[EvidenceSet, ...], Wider]:
    """Two bodies of evidence without the images that only one of them has."""
    both = _images(sets) & _images(wider.sets)
    return _only(sets, both), replace(wider, sets=_only(wider.sets, both))


def _images(sets: Sequence[EvidenceSet]) -> set[str]:
    return {image.image for each in sets for image in each.images}


def _only(sets: Sequence[EvidenceSet], keys: set[str]) -> tuple[EvidenceSet, ...]:
    kept = [replace(each, images=tuple(image for image in each.images if image.image in keys)) for each in sets]
    return tuple(each for each in kept if each.images)


def current_bundle(catalog: Catalog, product: str) -> PromptBundle:
    """The bundle that decides for a product: its champion, or before the first promotion that of its latest run.

    Raises:
        StoreError: Nothing was ever labelled for the product.
    """
    champion = catalog.champion(product)
    if champion is not None:
        return champion
    run = catalog.latest_run(product, state="done")
    if run is None:
        raise without_run(catalog, product)
    return catalog.bundle(run.bundle)


def settle(catalog: Catalog, settings: Settings, refinement: Refinement) -> Refinement:
    """Decide what becomes of a refinement, without doing it: the policy, and the ledger of the hold-out.

    Returns:
        The refinement with the outcome that `conclude` carries out, and how often the hold-out was looked at.

    Raises:
        BundleError: Another bundle was promoted meanwhile, so the comparison is out of date.
    """
    proposed = refinement.proposed
    if proposed is None or refinement.outcome == "kept":
        return replace(refinement, looks=len(catalog.looks(refinement.product)))
    refinement = _by_policy(catalog, settings, refinement)
    if refinement.outcome == "promoted":
        _check_champion(catalog, refinement, proposed)
    return replace(refinement, looks=_look(catalog, refinement))


def conclude(catalog: Catalog, refinement: Refinement) -> None:
    """Note what a settled refinement found, and promote its bundle if that is the outcome: the last step, so that
    whatever ends the program before it leaves the champion, and the same refinement again finds the same.

    Raises:
        BundleError: Another bundle was promoted meanwhile.
    """
    proposed = refinement.proposed
    if proposed is None or refinement.outcome == "kept":
        return
    catalog.add_bundle(proposed, "proposed")
    record = RefinementRecord.of(refinement)
    if refinement.outcome == "promoted":
        expected = refinement.champion.id if catalog.champion(refinement.product) else None
        catalog.promote(proposed.id, reason=refinement.reasons[0], expected=expected, refinement=record)
    else:
        catalog.record_refinement(record)


def _check_champion(catalog: Catalog, refinement: Refinement, proposed: PromptBundle) -> None:
    """Before anything is written; `Catalog.promote` has the last word."""
    champion = catalog.champion(refinement.product)
    if champion is not None and champion.id not in (refinement.champion.id, proposed.id):
        raise BundleError(refinement.product, f"{champion.id} was promoted meanwhile; refine again")


def _look(catalog: Catalog, refinement: Refinement) -> int:
    """Enter the look at the held-out images into their ledger; the same question again is the same look."""
    product, evidence, champion, proposed = (
        refinement.product,
        refinement.evidence.hash,
        refinement.champion.id,
        refinement.proposed,
    )
    looks = catalog.looks(product)
    before, after = refinement.held_before, refinement.held_after
    if proposed is None or before is None or after is None or not refinement.evidence.held_out:
        return len(looks)
    if any((look.evidence, look.champion, look.bundle) == (evidence, champion, proposed.id) for look in looks):
        return len(looks)
    known = before.objective is not None and after.objective is not None
    gain = (after.objective or 0) - (before.objective or 0) if known else None
    return catalog.look(product, evidence, champion, proposed.id, gain)


def _by_policy(catalog: Catalog, settings: Settings, refinement: Refinement) -> Refinement:
    """What the guard let pass only proposed, where a person has decided otherwise before or wants to decide."""
    proposed = refinement.proposed
    if refinement.outcome != "promoted" or proposed is None:
        return refinement
    history = catalog.promotions(refinement.product)
    if any(each.kind == "rollback" and each.previous == proposed.id for each in history):
        reason = "rolled-back: a person rolled this bundle back before; `saa promote` it if that has changed"
    elif settings.promotion == "manual":
        reason = "manual: it passed the guard and waits for `saa promote`, as the setting promotion says"
    else:
        return refinement
    return replace(refinement, outcome="proposed", reasons=(reason, *refinement.reasons))


# ----------------------------------------------------------------------------------------------------------- the report


def report_folder(settings: Settings, product: str, evidence: str, champion: str, proposed: str | None) -> Path:
    """Where the report of a refinement is written: of this evidence, from this bundle to that."""
    name = "-".join([re.sub(r"[^\w-]+", "-", product), evidence, champion[:8], (proposed or "none")[:8]])
    return settings.workspace / "refinements" / name


def report_refinement(catalog: Catalog, store: CandidateStore, settings: Settings, refinement: Refinement) -> Path:
    """Write a refinement's report; returns the path of report.html."""
    reviewed = reviewed_product(catalog, refinement.product, store.method.ids)
    pictures = _Pictures(store, reviewed, refinement)
    proposed = refinement.proposed.id if refinement.proposed else None
    evidence, champion = refinement.evidence.hash, refinement.champion.id
    folder = report_folder(settings, refinement.product, evidence, champion, proposed)
    return write_refinement(refinement, pictures, store.method.models, folder)


@dataclass
class _Pictures:
    """What two bundles show on an image, beside what the expert says."""

    store: CandidateStore
    product: ReviewedProduct
    refinement: Refinement

    def __call__(self, change: ImageChange) -> tuple[RGB, Sequence[Rle], Sequence[Rle], Sequence[Rle]] | None:
        image = self._reviewed.get(change.image)
        proposed = self.refinement.proposed
        if image is None or proposed is None:
            return None
        before, after = (self._shown(image, bundle) for bundle in (self.refinement.champion, proposed))
        return self.store.image(image.ref), before, after, image.review.masks

    @cached_property
    def _reviewed(self) -> dict[str, Reviewed]:
        return {image.ref.key: image for image in self.product.images}

    def _shown(self, image: Reviewed, bundle: PromptBundle) -> list[Rle]:
        context, levels = self._levels(image.run, bundle)
        return [region.mask for region in self.store.decide(image.ref, bundle, context, levels)[1].regions]

    @cached_property
    def _known(self) -> dict[tuple[str, str], tuple[SetContext, SetLevels]]:
        return {}

    def _levels(self, run: str, bundle: PromptBundle) -> tuple[SetContext, SetLevels]:
        if (run, bundle.id) not in self._known:
            refs = self.product.sets[run]
            context = self.store.context(refs)
            self._known[run, bundle.id] = context, self.store.levels(refs, bundle, context)
        return self._known[run, bundle.id]
