"""Why an image of a run is marked or not: arithmetic on what is stored, so no flow and, as a rule, no model."""

from __future__ import annotations

import difflib
import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flows.bundles import bundle_for_product
from integrations.candidate_store import CandidateStore, SetContext
from integrations.catalog import Catalog, RunImage, RunRecord
from integrations.finished_run import run_of
from integrations.outputs import ImageRecord, read_records
from integrations.report.explanation import write_explanation
from integrations.settings import Settings
from saa_core.answers import Expert, expert
from saa_core.errors import StoreError
from saa_core.explanation import Explanation, explain
from saa_core.prompts import PromptBundle
from saa_core.reviews import disagreements
from saa_core.types import ImageRef
from tasks.progress import advance
from tasks.workbench import store_of

_SHORTEST = 4
"""Fewest digits by which an image's key is known."""


@dataclass(frozen=True, slots=True, eq=False)
class Explained:
    """One image of one run, explained.

    Attributes:
        image: The image.
        run: The run that gave it its set.
        own: Whether the bundle is the run's own, so that these are the marks in the run's files.
        explanation: Every candidate and every number.
        expert: What was made of it in review; None if nobody reviewed it.
        notes: Sentences the reader should know.
    """

    image: ImageRef
    run: RunRecord
    own: bool
    explanation: Explanation
    expert: Expert | None
    notes: tuple[str, ...]


def explain_image(
    image: str, product: str, settings: Settings, catalog: Catalog, run: str | None = None, bundle: str | None = None
) -> Explained:
    """Explain an image as the run decided it, or as another bundle would decide it in the same set.

    Args:
        image: A name in the run, a file, or the beginning of an image's key.
        product: What the images show.
        settings: Of the workspace.
        catalog: Of the workspace.
        run: Its id or the beginning of it; None is the product's latest finished one, for a file the latest that has
            it.
        bundle: As for `saa label`; None is the run's.

    Raises:
        SaaError: There is no such run, bundle or image, or the image could not be used.
    """
    record, rows, found = _find(image, product, run, catalog)
    refs = [row.ref for row in rows if row.key and row.state != "quarantined"]
    ref = next(ref for ref in refs if ref.key == found)
    own = catalog.bundle(record.bundle)
    chosen = own if bundle is None else bundle_for_product(bundle, product, None, catalog)
    explanation = _explain(ref, refs, chosen, store_of(record, settings, chosen))
    reviews = catalog.reviews(product, [ref.key])
    notes = [f"annotators {', '.join(each.annotators)} disagree: {each.reason}" for each in disagreements(reviews)]
    if chosen.id == own.id and _differs(explanation, ref, settings.runs / record.id):
        notes.append(f"the files of run {record.id} say something else; label the images again")
    return Explained(ref, record, chosen.id == own.id, explanation, expert(reviews, explanation), tuple(notes))


def draw(found: Explained, settings: Settings, out: Path) -> Path:
    """Write the picture of an explanation.

    Raises:
        SaaError: The photograph is gone or changed, or the file cannot be written.
    """
    pixels = store_of(found.run, settings, found.explanation.bundle).image(found.image)
    said = found.expert
    masks = [region.mask for region in said.regions if region.outcome != "rejected"] if said else []
    fitting = [mask for mask in masks if mask.size == pixels.shape[:2]]
    return write_explanation(found.explanation, pixels, out, found.image.names[0], fitting)


# ---------------------------------------------------------------------------------------------------- finding the image


def _find(image: str, product: str, run: str | None, catalog: Catalog) -> tuple[RunRecord, tuple[RunImage, ...], str]:
    """The run, its images, and the key of the one that is meant."""
    record = run_of(catalog, product, run)
    rows = catalog.images_of(record.id)
    row = _named(image, rows, record.id)
    if row is None and (key := _key_of_file(image)):
        if run is None and all(each.key != key for each in rows):
            record = catalog.run(_newest_with(image, key, product, catalog))
            rows = catalog.images_of(record.id)
        row = next((each for each in rows if each.key == key), None)
    if row is None:
        raise _unknown(image, rows, record.id)
    if row.key is None or row.state == "quarantined":
        raise StoreError(image, f"was set aside by run {record.id}: {row.reason}")
    return record, rows, row.key


def _named(image: str, rows: tuple[RunImage, ...], run: str) -> RunImage | None:
    """The image of this name, or the one whose key begins like this; None if there is none."""
    named = next((row for row in rows if image in row.names), None)
    if named is not None or len(image) < _SHORTEST:
        return named
    found = {row.key: row for row in rows if row.key and row.key.startswith(image.lower())}
    if len(found) > 1:
        raise StoreError(image, f"{len(found)} images of run {run} have keys that begin like this; give more digits")
    return next(iter(found.values()), None)


def _key_of_file(image: str) -> str | None:
    """The key of a file's content; None if there is no such file, or it cannot be read."""
    try:
        return hashlib.sha256(Path(image).read_bytes()).hexdigest()
    except OSError:
        return None


def _newest_with(image: str, key: str, product: str, catalog: Catalog) -> str:
    """The id of the newest finished run that could use an image."""
    runs = catalog.runs_of(product, [key]).get(key)
    if not runs:
        raise StoreError(image, f"is in no finished run of {product!r}; `saa label` it first")
    return runs[0]


def _unknown(image: str, rows: tuple[RunImage, ...], run: str) -> StoreError:
    names = [name for row in rows for name in row.names]
    near = difflib.get_close_matches(image, names, n=1, cutoff=0.0)
    meant = f", did you mean {near[0]}?" if near else ""
    return StoreError(image, f"run {run} has no image of this name, file or key{meant} --run names another run")


# ----------------------------------------------------------------------------------------------------------- explaining


def _explain(ref: ImageRef, refs: list[ImageRef], bundle: PromptBundle, store: CandidateStore) -> Explanation:
    context = store.context(refs)
    _propose(refs, bundle, context, store)
    levels = store.levels(refs, bundle, context)
    candidates = store.candidates(ref, bundle, context)  # all of them: an explanation leaves nothing out
    return explain(candidates, store.saliency(ref, candidates, bundle.saliency, context), bundle, levels)


def _propose(refs: list[ImageRef], bundle: PromptBundle, context: SetContext, store: CandidateStore) -> None:
    """Ask the models where the store has no answer: words that are new, or a store that was emptied."""
    missing = [ref for ref in refs if not store.has_drawn(ref, bundle, context)]
    for done, ref in enumerate(missing, start=1):
        store.drawn(ref, bundle, context)
        advance("proposing regions", done, len(missing))


def _differs(explanation: Explanation, ref: ImageRef, folder: Path) -> bool:
    """Whether the run's files show other regions; not if the files are gone."""
    with suppress(StoreError):
        record = next((each for each in read_records(folder) if each["key"] == ref.key), None)
        return record is not None and _marks(record) != [
            ([round(side, 2) for side in region.box], round(region.confidence, 6))
            for region in explanation.result.regions
        ]
    return False


def _marks(record: ImageRecord) -> list[tuple[list[float], float]]:
    return [(region["box"], region["confidence"]) for region in record["regions"]]
