"""What a workspace keeps that nothing leads to any more, and how it is thrown away.

Kept is whatever is reachable from

    a run       its folder, and what is stored of its images under its own bundle and every bundle of its product
    a review    all candidates of the images of a set in which one was reviewed, whatever words found them: refinements
                asked for phrases that no bundle has; and evidence of every kind
    a bundle, a promotion, a refinement    these are rows and reports, and are never touched

An unfinished run has not said yet which images are its own: nothing that was written since it began is garbage, so
that a run at work loses nothing and one that was cut off goes on where it stopped. Nor is what is younger than `GRACE`:
other commands compute before they note. Whatever is thrown away can be computed again.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from integrations.archive import unpack_candidates
from integrations.blob_keys import KINDS, Address, BlobKeys
from integrations.blobs import BlobFile, BlobStore
from integrations.catalog import Catalog, RunRecord
from integrations.evidence_store import neighbour_choices
from integrations.files import cannot_write
from integrations.settings import Settings
from saa_core.errors import StoreError
from saa_core.pipeline import SegmentAnyAnomaly
from saa_core.prompts import PromptBundle

GRACE = timedelta(days=1)
"""What is younger stays."""

MethodOf = Callable[[RunRecord, PromptBundle], SegmentAnyAnomaly]
"""The models of a run as a bundle wants them."""

_FOUND_BY_WORDS = ("candidates", "lazy")
_RUN = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class RunFiles:
    """A folder of a run that the catalog does not know."""

    folder: Path
    bytes: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class Garbage:
    """What nothing leads to.

    Attributes:
        blobs: Of the store.
        folders: Of runs.
        kept: Bytes of the blobs that stay.
        unfinished: Runs that hold back what was written since the first of them began.
    """

    blobs: tuple[BlobFile, ...]
    folders: tuple[RunFiles, ...]
    kept: int
    unfinished: tuple[RunRecord, ...]

    @property
    def by_kind(self) -> dict[str, tuple[int, int]]:
        """How many files and bytes of each kind; `runs` counts folders, `cut off` what interrupted writes left."""
        found: dict[str, tuple[int, int]] = {}
        named = [(blob.kind if blob.is_whole else "cut off", blob.bytes) for blob in self.blobs]
        for kind, size in (*named, *(("runs", folder.bytes) for folder in self.folders)):
            files, total = found.get(kind, (0, 0))
            found[kind] = files + 1, total + size
        return found


def garbage(catalog: Catalog, settings: Settings, method_of: MethodOf, at: datetime) -> Garbage:
    """What nothing in a workspace leads to.

    Args:
        catalog: Of the workspace.
        settings: Where its blobs and runs are.
        method_of: Gives models; none is loaded or asked.
        at: The present, UTC.

    Raises:
        StoreError: The catalog knows no run: it may be another workspace's.
        SaaError: The models of a run are not there, so that what belongs to it cannot be told.
    """
    runs, unfinished = catalog.every_run(), catalog.unfinished_runs()
    if not runs:
        raise StoreError(str(settings.workspace), "its catalog knows no run; is it that of these files?")
    cutoff = min([at - GRACE, *(run.created for run in unfinished)])
    blobs = list(BlobStore(settings.blobs_url).files())
    lost = tuple(_unreachable(blobs, cutoff, catalog, settings, method_of))
    known = {run.id for run in runs}
    folders = [found for found in _run_folders(settings.runs) if found.folder.name not in known]
    old = tuple(found for found in folders if found.modified < cutoff)
    kept = sum(blob.bytes for blob in blobs) - sum(blob.bytes for blob in lost)
    return Garbage(lost, old, kept, unfinished)


def throw_away(catalog: Catalog, settings: Settings, found: Garbage) -> None:
    """Delete what `garbage` found.

    Raises:
        StoreError: A run began since, which may want some of it, or something cannot be deleted.
    """
    if catalog.unfinished_runs() != found.unfinished:
        raise StoreError(str(settings.workspace), "a run began or ended meanwhile; run the same command again")
    BlobStore(settings.blobs_url).remove(found.blobs)
    for run in found.folders:
        # Out of sight first: half a folder must not be taken for a run.
        hidden = run.folder.with_name(f".{run.folder.name}.tmp")
        try:
            run.folder.rename(hidden)
            shutil.rmtree(hidden)
        except OSError as error:
            raise cannot_write(str(run.folder), error) from error


def _unreachable(
    blobs: Collection[BlobFile], cutoff: datetime, catalog: Catalog, settings: Settings, method_of: MethodOf
) -> Iterator[BlobFile]:
    old = [blob for blob in blobs if blob.modified < cutoff]
    if not old:
        return
    reachable, proving = set(_reachable(catalog, method_of)), _images_of_evidence(catalog)
    store = BlobStore(settings.blobs_url)
    for blob in old:
        if not blob.is_whole:
            yield blob
        elif blob.kind not in KINDS or (blob.kind, blob.key) in reachable:
            continue
        elif blob.kind not in _FOUND_BY_WORDS or _image_of(store, blob) not in proving:
            yield blob


def _reachable(catalog: Catalog, method_of: MethodOf) -> Iterator[Address]:
    for run in catalog.every_run():
        images = [row.key for row in catalog.images_of(run.id) if row.key and row.state != "quarantined"]
        bundles = [each.bundle for each in catalog.bundles(run.product)]
        # The library's bundles belong to no product, and one that was rolled back to may be another's.
        deciding = [catalog.bundle(run.bundle), catalog.champion(run.product)]
        for bundle in {each.id: each for each in (*bundles, *deciding) if each}.values():
            yield from _addresses(BlobKeys(method_of(run, bundle)), images, bundle)


def _addresses(keys: BlobKeys, images: Collection[str], bundle: PromptBundle) -> Iterator[Address]:
    """All that is stored of a set under a bundle."""
    kind, context = keys.context(images)
    yield kind, context
    yield keys.calm(bundle, context)
    parts = keys.method.generator.parts(bundle.query)
    prompts = [bundle.saliency.model_copy(update={"neighbours": number}) for number in neighbour_choices(bundle)]
    for image in images:
        yield from (keys.features(image), keys.descriptor(image), keys.embedding(image), keys.prior(image, context))
        yield from (keys.candidates(image, bundle, context), keys.lazy(image, bundle, context))
        yield from (keys.saliency(image, prompt) for prompt in prompts)
        yield from (keys.proposals(image, part) for part in parts)


def _images_of_evidence(catalog: Catalog) -> set[str]:
    """Images of every set of which one was reviewed."""
    found: set[str] = set()
    for product in catalog.products():
        reviewed = set(catalog.reviewed(product))
        for keys in catalog.keys_by_run(product).values():
            found.update(() if reviewed.isdisjoint(keys) else keys)
    return found


def _image_of(store: BlobStore, blob: BlobFile) -> str | None:
    """The image that stored candidates are of; None if they are damaged or of another version."""
    data = store.get(blob.kind, blob.key)
    with suppress(StoreError):
        return None if data is None else unpack_candidates(data, blob.key).image
    return None


def _run_folders(runs: Path) -> Iterator[RunFiles]:
    for folder in sorted(runs.iterdir()) if runs.is_dir() else ():
        if _RUN.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
            about = [path.lstat() for path in (folder, *folder.rglob("*"))]
            newest = datetime.fromtimestamp(max(each.st_mtime for each in about), UTC)
            yield RunFiles(folder, sum(each.st_size for each in about[1:]), newest)
