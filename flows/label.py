"""The `label` flow: a folder of product photographs becomes regions, maps, masks and a report.

    scan -> features of each batch -> the set as context -> candidates of each batch -> decide and write -> report

Whatever was computed before is found by its content, so a killed run goes on where it was, and a bundle that changes
only numbers calls no model. A bad image is set aside with its reason, one that kills its workers too; the run goes on
and says so in its final state. Tasks are told keys, names and numbers, and say the like: no array leaves a worker.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from prefect import Task, flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows import events
from flows.crew import KILLER, Crew, Done
from flows.runners import workers_for
from flows.runs import LabelRequest, RunSummary, begin, run_id, summarise
from flows.runtime import as_is, result_of, threads_for
from integrations.candidate_store import drawn_by
from integrations.catalog import Catalog, RunImage
from integrations.image_sets import ImageSet
from integrations.outputs import RunFolder
from integrations.settings import Settings
from saa_core.models import build
from saa_core.types import ImageRef
from tasks.context import fit_context, fit_levels
from tasks.decide import decide_and_write
from tasks.drift import send_alarm, watch_drift
from tasks.progress import advance
from tasks.propose import extract_features, propose_candidates
from tasks.report import publish_digest, publish_lines, publish_summary, write_report
from tasks.scan import scan_images


@flow(name="label", flow_run_name="label-{request.product}", validate_parameters=False)
def label_flow(request: LabelRequest) -> State[RunSummary]:
    """Label an image set.

    Ends as `Labelled`, or as `LabelledWithQuarantine` when images had to be set aside; the summary is the state's data.
    """
    started = time.monotonic()
    settings = Settings.load(workspace=request.workspace, runner=request.runner, address=request.address)
    workers = workers_for(settings, request.setup)
    images = scan_images(request.source, request.limit, request.lot, request.workspace)
    crew = Crew(workers, settings.batch_size)
    with Catalog(settings.catalog_url) as catalog, threads_for(request.setup), crew:
        run = _Run(request, settings, images, catalog, crew, run_id(request, images, settings.max_pixels))
        begin(catalog, request, run.id)
        summary = run.label(started)
    publish_summary(summary.model_dump())
    publish_digest(summary.run, request.workspace)
    name = "Labelled" if summary.whole else "LabelledWithQuarantine"
    return Completed(name=name, message=summary.sentence(), data=summary)


def run_label_flow(request: LabelRequest) -> RunSummary:
    """Run the flow from this process.

    Raises:
        SaaError: What the flow raised, or that Prefect's API does not answer.
    """
    return cast(RunSummary, result_of(lambda: label_flow(request, return_state=True)))


@dataclass(slots=True)
class _Run:
    """One pass over an image set; every step leaves its work in the store, so that a later pass finds it."""

    request: LabelRequest
    settings: Settings
    images: ImageSet
    catalog: Catalog
    crew: Crew
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
        refs, _ = self._look("looking at images", extract_features, refs, self._method())
        return refs

    def _propose(self, refs: list[ImageRef], context: str) -> list[ImageRef]:
        asked = drawn_by(self.request.bundle, build(self.request.setup, self.request.bundle))
        told = {**self._method(), "asked": asked, "context": context}
        refs, self.reused = self._look("proposing regions", propose_candidates, refs, told)
        return refs

    def _method(self) -> dict[str, Any]:
        """What every task that looks at images is told: id of the models, largest image, workspace, models, bundle."""
        models = build(self.request.setup, self.request.bundle).id
        return {"models": models, "max_pixels": self.settings.max_pixels, **self._everywhere()}

    def _everywhere(self) -> dict[str, Any]:
        request = self.request
        return {"workspace": request.workspace, "setup": request.setup, "bundle": request.bundle}

    def _look(
        self, step: str, task: Task[Any, Any], refs: list[ImageRef], told: Mapping[str, Any]
    ) -> tuple[list[ImageRef], set[str]]:
        """Let a task that may ask models look at all images, and quarantine what it refused.

        Returns:
            The images that go on, and the keys of those that no model had to look at.
        """
        refused: dict[str, str] = {}
        reused: set[str] = set()
        done = self.crew.each(task, refs, lambda batch: {"keys": _keys(batch), "refs": list(batch), **told})
        for batch in self._watched(step, done, len(refs)):
            if batch.outcome is None:
                refused[batch.refs[0].key] = KILLER
                continue
            refused.update(batch.outcome["refused"])
            self.calls += 0 if batch.cached else batch.outcome["calls"]
            reused.update(batch.outcome["done" if batch.cached else "reused"])
        return self._without(refused, refs), reused

    def _decide(self, refs: list[ImageRef], context: str, levels: tuple[list[float], float]) -> list[ImageRef]:
        folder = RunFolder(self.settings.runs / self.id, self._names())
        written, refused = self._written(refs, folder), set[str]()
        told = {"context": context, "calm": levels[0], "floor": levels[1], "run_id": self.id, **self._everywhere()}

        def parameters(batch: Sequence[ImageRef]) -> dict[str, Any]:
            reused = [ref.key for ref in batch if ref.key in self.reused]
            return {"refs": list(batch), "reused": reused, "stems": folder.stems(batch), **told}

        unwritten = [ref for ref in refs if ref.key not in written]
        done = self.crew.each(decide_and_write, unwritten, parameters)
        for batch in self._watched("writing masks", done, len(refs)):
            if batch.outcome is None:
                self._without({batch.refs[0].key: KILLER}, batch.refs)
                refused.add(batch.refs[0].key)
                continue
            self.calls += batch.outcome["calls"]
            self.unknown_words.update(batch.outcome["unknown_words"])
            refused.update(batch.outcome["refused"])
        return [ref for ref in refs if ref.key not in refused]

    def _written(self, refs: Sequence[ImageRef], folder: RunFolder) -> set[str]:
        """Keys that an interrupted attempt at this run has finished."""
        rows = {row.key for row in self.catalog.images_of(self.id) if row.state != "quarantined"}
        return {ref.key for ref in refs if ref.key in rows and folder.is_written(ref)}

    def _without(self, refused: Mapping[str, str], refs: Sequence[ImageRef]) -> list[ImageRef]:
        """Quarantine images by key, with the reason for each; returns the others."""
        unusable = [RunImage.of(ref, "quarantined", reason=refused[ref.key]) for ref in refs if ref.key in refused]
        self.catalog.record_images(self.id, unusable)
        return [ref for ref in refs if ref.key not in refused]

    def _watched(self, step: str, batches: Iterable[Done], total: int) -> Iterator[Done]:
        done = 0
        for batch in batches:
            yield batch
            done += len(batch.refs)
            advance(step, done, total)

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
            self._alarm(alarms)
        return summary

    def _alarm(self, alarms: list[str]) -> None:
        product = self.request.product
        publish_lines(f"drift-{self.id}", [f"{product} has drifted", *alarms])
        events.drifted(product, self.id, alarms)
        # The masks are written: that nobody could be told is the task's failure, not the run's.
        send_alarm(product, self.id, alarms, self.request.workspace, return_state=True)

    def _report(self, summary: RunSummary, refs: list[ImageRef]) -> None:
        write_report(summary.model_dump(mode="json"), as_is(refs), as_is(self._names()), self.request.workspace)

    def _names(self) -> list[str]:
        return [name for ref in self.images.refs for name in ref.names]


def _keys(batch: Sequence[ImageRef]) -> list[str]:
    return [ref.key for ref in batch]
