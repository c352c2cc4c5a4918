"""What half of the reviews are worth to the other half: refine on one half of a product's images, measure on the rest.

    python benchmarks/refine.py DATASET [WORDS.json] [--seeds 0 1 2]

DATASET is in MVTec layout. Each product is labelled with the generic bundle, a simulated expert reviews a random half
of its images, `refine --risk --new-phrases` looks for a better bundle, and the figures are those of the images that
nobody reviewed, under the bundle that decides then. The expert calls defects what WORDS.json does, else by folder name.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from flows.evaluate import ClassTally
from flows.runs import LabelRequest
from flows.start import start
from integrations.blobs import BlobStore
from integrations.candidate_store import CandidateStore
from integrations.catalog import Catalog
from integrations.formats.mvtec import MvtecClass, MvtecItem, read_mask, read_mvtec
from integrations.intake import Intake
from integrations.outputs import read_records
from integrations.refinery import RefineRequest, conclude, current_bundle, refine_product, settle
from integrations.settings import Settings
from integrations.simulated_expert import SOURCE, SimulatedExpert, review_run
from saa_core import library
from saa_core.metrics import regions
from saa_core.models import build
from saa_core.prompts import PromptBundle
from saa_core.refinement.outcome import Refinement
from saa_core.types import ImageRef

FIGURES = ("f1_pixel", "max_f1_pixel", "region_f1")


def main() -> None:
    """All products of the data set, for each seed."""
    asked = _arguments()
    words = json.loads(asked.words.read_text()) if asked.words else {}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for found in read_mvtec(asked.dataset):
            bench = Bench(found, Path(folder), words.get(found.name, {}).get("defects", {}))
            rows += [bench.row(seed) for seed in asked.seeds]
            for row in rows[-len(asked.seeds) :]:
                print(_line(row), flush=True)
    print(_line({"name": "mean", **_means(rows)}))
    changes = [row["after"]["f1_pixel"] - row["before"]["f1_pixel"] for row in rows]
    held = [change for row, change in zip(rows, changes, strict=True) if row["outcome"] == "promoted"]
    print(f"promoted {len(held)} of {len(rows)}, of these {sum(change > 0 for change in held)} better on unseen images")
    print(f"largest loss of f1_pixel: {min(changes):+.3f}")


@dataclass
class Bench:
    """One product: labelled once, refined from scratch for each seed."""

    found: MvtecClass
    folder: Path
    words: Mapping[str, str]

    def row(self, seed: int) -> dict[str, Any]:
        """Figures before and after, on the images that were not reviewed."""
        product = self.found.name.rpartition("/")[2]
        settings = Settings.load(workspace=self.folder / f"{product}-{seed}", blobs=str(self.folder / "blobs"))
        request = LabelRequest(
            source=str(self.found.items[0].image.parents[1]),
            product=product,
            bundle=library.load("generic"),
            workspace=str(settings.workspace),
        )
        run = start(request, settings).run
        half = self._half(seed)
        store = _store(settings)
        with Catalog(settings.catalog_url) as catalog:
            bundle = catalog.bundle(catalog.run(run).bundle)
            records = [each for each in read_records(settings.runs / run) if each["names"][0] in half]
            reviews = review_run(
                SimulatedExpert(seed=seed),
                records,
                self._truth(),
                product=product,
                run=run,
                bundle=bundle,
                at=datetime.now(UTC),
            )
            Intake().store(catalog, SOURCE, reviews)
            started = time.monotonic()
            asked = RefineRequest(product=product, seed=seed, risk=True, new_phrases=True)
            refinement = refine_product(catalog, store, asked, lambda *_: None)
            refinement = settle(catalog, settings, refinement)
            conclude(catalog, refinement)
            seconds = time.monotonic() - started
            refs = _refs(catalog, run)
            rest = [item for item in self.found.items if self._name(item) not in half]
            figures = [self._figures(store, refs, rest, each) for each in (bundle, current_bundle(catalog, product))]
        return {**_row(self.found.name, refinement, seconds), "before": figures[0], "after": figures[1]}

    def _name(self, item: MvtecItem) -> str:
        return f"{item.defect}/{item.image.name}"

    def _half(self, seed: int) -> set[str]:
        """Names of half of the good and half of the defective images."""
        chosen: set[str] = set()
        for good in (True, False):
            names = [self._name(item) for item in self.found.items if (item.mask is None) is good]
            names.sort(key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
            chosen.update(names[: len(names) // 2])
        return chosen

    def _truth(self) -> dict[str, list[Any]]:
        masked = [item for item in self.found.items if item.mask is not None]
        return {self._name(item): [(region, self._word(item)) for region in _regions(item)] for item in masked}

    def _word(self, item: MvtecItem) -> str:
        return self.words.get(item.defect, item.defect.replace("_", " "))

    def _figures(
        self, store: CandidateStore, refs: Sequence[ImageRef], items: Sequence[MvtecItem], bundle: PromptBundle
    ) -> dict[str, float | None]:
        context = store.context(refs)
        levels, tally = store.levels(refs, bundle, context), ClassTally()
        by_name = {ref.names[0]: ref for ref in refs}
        for item in items:
            candidates, result = store.decide(by_name[self._name(item)], bundle, context, levels)
            size = candidates.height, candidates.width
            truth = read_mask(item.mask, size) if item.mask else np.zeros(size, np.bool_)
            tally.update(result, truth, item.mask is not None)
        return tally.figures(bundle.decision.threshold)


def _regions(item: MvtecItem) -> Sequence[Any]:
    return regions(read_mask(item.mask)) if item.mask else ()


def _store(settings: Settings) -> CandidateStore:
    return CandidateStore(BlobStore(settings.blobs_url), build(), settings.max_pixels)


def _refs(catalog: Catalog, run: str) -> list[ImageRef]:
    return [row.ref for row in catalog.images_of(run)]


def _row(name: str, refinement: Refinement, seconds: float) -> dict[str, Any]:
    return {"name": name, "outcome": refinement.outcome, "reason": refinement.reasons[0], "seconds": seconds}


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        when: {name: statistics.fmean(row[when][name] for row in rows) for name in FIGURES}
        for when in ("before", "after")
    }


def _line(row: Mapping[str, Any]) -> str:
    pairs = "  ".join(f"{name} {row['before'][name]:.3f} -> {row['after'][name]:.3f}" for name in FIGURES)
    said = f"  {row['seconds']:5.1f} s  {row['outcome']}: {row['reason'][:90]}" if "outcome" in row else ""
    return f"{row['name']:30}  {pairs}{said}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("words", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    return parser.parse_args()


if __name__ == "__main__":
    main()
