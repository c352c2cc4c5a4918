"""The `label` flow: a folder of product photographs becomes regions, maps, masks and a report.

    scan -> features of each batch -> the set as context -> candidates of each batch -> decide and write -> report

Whatever was computed before is found by its content, so a killed run goes on where it was, and a bundle that changes
only numbers calls no model. A bad image is set aside with its reason; the run goes on and says so in its final state.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.runs import LabelRequest, RunSummary, begin, run_id, summarise
from flows.runtime import as_is, result_of, threads_for
from integrations.candidate_store import drawn_by
from integrations.catalog import Catalog, RunImage
from integrations.image_sets import ImageSet
from integrations.outputs import RunFolder
from integrations.settings import Settings
from saa_core.models import ModelSetup, build
from saa_core.prompts import PromptBundle
from saa_core.types import ImageRef
from tasks.context import fit_context, fit_levels
from tasks.decide import DecidedBatch, decide_and_write
from tasks.drift import watch_drift
from tasks.progress import advance
from tasks.propose import BatchOutcome, extract_features, propose_candidates
from tasks.report import publish_summary, write_report
from tasks.scan import scan_images


@flow(name="label", flow_run_name="label-{request.product}", validate_parameters=False)
def label_flow(request: LabelRequest) -> State[RunSummary]:
    """Label an image set.

    Ends as `Labelled`, or as `LabelledWithQuarantine` when images had to be set aside; the summary is the state's data.
    """
    started = time.monotonic()
    settings = Settings.load(workspace=request.workspace)
    images = scan_images(request.source, request.limit, request.lot, request.workspace)
    with Catalog(settings.catalog_url) as catalog, threads_for(request.setup):
        run = _Run(request, settings, images, catalog, run_id(request, images, settings.max_pixels))
        begin(catalog, request, run.id)
        summary = run.label(started)
    publish_summary(summary.model_dump())
    name = "Labelled" if summary.whole else "LabelledWithQuarantine"
    return Completed(name=name, message=summary.sentence(), data=summary)


def run_label_flow(request: LabelRequest, workers: int) -> RunSummary:
    """Run the flow in this process, `workers` batches side by side; networks use all processors for one at a time.

    Raises:
        SaaError: What the flow raised, or that Prefect's API does not answer.
    """
    runner: Any = ThreadPoolTaskRunner(max_workers=workers if request.setup.weight_free else 1)
    flow = label_flow.with_options(task_runner=runner)
    return cast(RunSummary, result_of(lambda: flow(request, return_state=True)))


@dataclass(slots=True)
class _Run:
    """One pass over an image set; every step leaves its work in the store, so that a later pass finds it."""

    request: LabelRequest
    settings: Settings
    images: ImageSet
    catalog: Catalog
    id: str
    calls: int = 0
    reused: set[str] = field(default_factory=set)
    unknown_words: set[str] = field(default_factory=set)

    def label(self, started: float) -> RunSummary:
        unreadable = [RunImage(item.name, "quarantined", reason=item.reason) for item in self.images.quarantined]
        self.catalog.record_images(self.id, unreadable)
        refs = self._extract(list(self.images.refs))
        if refs:
            refs = self._judge(refs)
        return self._finish(refs, started)

    def _judge(self, refs: list[ImageRef]) -> list[ImageRef]:
        setup, bundle = as_is(self.request.setup), as_is(self.request.bundle)
        context, calls = fit_context(as_is(refs), setup, bundle, self.request.workspace)
        self.calls += calls
        refs = self._propose(refs, context)
        calm, floor, calls = fit_levels(as_is(refs), setup, bundle, context, self.request.workspace)
        self.calls += calls
        return self._decide(refs, context, (calm, floor))

    def _extract(self, refs: list[ImageRef]) -> list[ImageRef]:
        futures = [
            extract_features.submit(number, _keys(batch), as_is(batch), *self._method())
            for number, batch in enumerate(self._batches(refs))
        ]
        refs, _ = self._gather("looking at images", futures, refs)
        return refs

    def _propose(self, refs: list[ImageRef], context: str) -> list[ImageRef]:
        asked = drawn_by(self.request.bundle, build(self.request.setup, self.request.bundle))
        futures = [
            propose_candidates.submit(number, _keys(batch), as_is(batch), *self._method(), asked, context)
            for number, batch in enumerate(self._batches(refs))
        ]
        refs, self.reused = self._gather("proposing regions", futures, refs)
        return refs

    def _method(self) -> tuple[str, int, str, ModelSetup, PromptBundle]:
        """What every task that looks at images is told: id of the models, largest image, workspace, models, bundle."""
        request = self.request
        models = build(request.setup, request.bundle).id
        return models, self.settings.max_pixels, request.workspace, as_is(request.setup), as_is(request.bundle)

    def _decide(self, refs: list[ImageRef], context: str, levels: tuple[list[float], float]) -> list[ImageRef]:
        written = self._written(refs)
        batches = self._batches([ref for ref in refs if ref.key not in written])
        futures = [self._submit_decision(number, batch, context, levels) for number, batch in enumerate(batches)]
        refused: set[str] = set()
        for number, future in enumerate(futures, start=1):
            outcome = future.result()
            self.calls += outcome["calls"]
            self.unknown_words.update(outcome["unknown_words"])
            refused.update(outcome["refused"])
            advance("writing masks", min(number * self.settings.batch_size, len(refs)), len(refs))
        return [ref for ref in refs if ref.names[0] not in refused]

    def _submit_decision(
        self, number: int, batch: list[ImageRef], context: str, levels: tuple[list[float], float]
    ) -> PrefectFuture[DecidedBatch]:
        return decide_and_write.submit(
            number,
            as_is(batch),
            [ref.key for ref in batch if ref.key in self.reused],
            as_is(self._names()),
            as_is(self.request.setup),
            as_is(self.request.bundle),
            context,
            *levels,
            self.id,
            self.request.workspace,
        )

    def _written(self, refs: Sequence[ImageRef]) -> set[str]:
        """Keys that an interrupted attempt at this run has finished."""
        folder = RunFolder(self.settings.runs / self.id, self._names())
        rows = {row.key for row in self.catalog.images_of(self.id) if row.state != "quarantined"}
        return {ref.key for ref in refs if ref.key in rows and folder.is_written(ref)}

    def _gather(
        self, step: str, futures: list[PrefectFuture[BatchOutcome]], refs: list[ImageRef]
    ) -> tuple[list[ImageRef], set[str]]:
        """Wait for the batches and quarantine what they refused.

        Returns:
            The images that go on, and the keys of those that no model had to look at.
        """
        refused: dict[str, str] = {}
        reused: set[str] = set()
        for number, future in enumerate(futures, start=1):
            outcome = future.result()
            refused.update(outcome["refused"])
            cached = future.state.name == "Cached"
            self.calls += 0 if cached else outcome["calls"]
            reused.update(outcome["done" if cached else "reused"])
            advance(step, min(number * self.settings.batch_size, len(refs)), len(refs))
        unusable = [RunImage.of(ref, "quarantined", reason=refused[ref.key]) for ref in refs if ref.key in refused]
        self.catalog.record_images(self.id, unusable)
        return [ref for ref in refs if ref.key not in refused], reused

    def _finish(self, refs: list[ImageRef], started: float) -> RunSummary:
        rows = self.catalog.images_of(self.id)
        summary = summarise(self.request, self.settings, self.id, rows, self.calls, sorted(self.unknown_words))
        summary = summary.model_copy(update={"seconds": round(time.monotonic() - started, 3)})
        self._report(summary, refs)
        counts = {**summary.images.model_dump(), "regions": summary.regions, "model_calls": self.calls}
        self.catalog.finish_run(self.id, **counts, seconds=summary.seconds)
        # Last, since only finished runs are compared; the report is written again where there is something to say.
        alarms = watch_drift(self.id, self.request.workspace)
        if alarms:
            summary = summary.model_copy(update={"notes": [*summary.notes, *alarms]})
            self._report(summary, refs)
        return summary

    def _report(self, summary: RunSummary, refs: list[ImageRef]) -> None:
        write_report(summary.model_dump(mode="json"), as_is(refs), as_is(self._names()), self.request.workspace)

    def _names(self) -> list[str]:
        return [name for ref in self.images.refs for name in ref.names]

    def _batches(self, refs: list[ImageRef]) -> list[list[ImageRef]]:
        # What batches compute is stored by image, so an image added to the set moves its neighbours at no cost.
        size = self.settings.batch_size
        return [refs[start : start + size] for start in range(0, len(refs), size)]


def _keys(batch: Sequence[ImageRef]) -> list[str]:
    return [ref.key for ref in batch]
