"""Operators of FiftyOne's App: what is selected goes to Label Studio, is judged, explained, or labelled again.

The App loads this file as a plugin. Each operator says what it will do before it does it, refuses where nothing is
selected, and does the work by the same functions as the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import fiftyone.operators as foo
from fiftyone.operators import types

from flows.app.command import saa
from flows.app.words import explained
from integrations.catalog import Catalog
from integrations.fiftyone.bundles import judged_in
from integrations.fiftyone.tagging import accept, judged_regions, mark_good, newest_predictions
from integrations.finished_run import run_of
from integrations.settings import Settings
from saa_core.errors import SaaError


class _Operator(foo.Operator):  # type: ignore[misc]
    """What all have in common: a form that tells, a run that checks once more, an answer in words."""

    verb: ClassVar[str]
    title: ClassVar[str]
    text: ClassVar[str]

    @property
    def config(self) -> Any:
        """As the App lists it."""
        return foo.OperatorConfig(name=self.verb, label=self.title, description=self.text)

    def resolve_input(self, ctx: Any) -> Any:
        """The form: what will be done with how many, or why it cannot be, which keeps it from being run."""
        form, refusal = types.Object(), None
        try:
            form.view("plan", types.Notice(label=self.plan(ctx)))
            self.ask(form)
        except SaaError as error:
            refusal = str(error)
            form.view("refusal", types.Error(label=refusal))
        # Of the form only: an invalid one at the execution would be answered by a fault of the server.
        asked = "target" in ctx.request_params
        view = types.View(label=self.title)
        return types.Property(form, view=view, invalid=asked and refusal is not None, error_message=refusal or "")

    def execute(self, ctx: Any) -> dict[str, Any]:
        """Do it, and say what was done, or why it was not: an exception would look like a fault of the App."""
        try:
            self.plan(ctx)
            return {"message": self.work(ctx), "refused": False}
        except SaaError as error:
            return {"message": str(error), "refused": True}

    def resolve_output(self, ctx: Any) -> Any:
        """The answer."""
        answer = types.Object()
        if ctx.results["refused"]:
            answer.view("refusal", types.Error(label=ctx.results["message"]))
        else:
            answer.str("message", view=types.MarkdownView())
        return types.Property(answer, view=types.View(label=self.title))

    def plan(self, ctx: Any) -> str:
        """What will be done, in a sentence.

        Raises:
            SaaError: Why it cannot be done.
        """
        raise NotImplementedError

    def ask(self, form: Any) -> None:
        """What else has to be known."""

    def work(self, ctx: Any) -> str:
        """Do it, and say what was done."""
        raise NotImplementedError


class SendToLabelStudio(_Operator):
    """Tasks for the selected images."""

    verb = "send_to_label_studio"
    title = "saa: send selection to Label Studio"
    text = "Make tasks for the selected images, with their regions as brush masks"

    def plan(self, ctx: Any) -> str:
        """As `_Operator.plan`."""
        newest_predictions(ctx.dataset)
        return f"{_images(_selected(ctx))} will be tasks in Label Studio; tasks that are there stay."

    def work(self, ctx: Any) -> str:
        """As `saa push label-studio --only`."""
        keys = ctx.dataset.select(_selected(ctx)).values("key")
        only = [word for key in keys for word in ("--only", key)]
        done = saa("push", "label-studio", "--product", ctx.dataset.name, *only)
        notes = [f"{name}: {reason}" for name, reason in done["refused"]] + done["notes"]
        said = f"{done['tasks']} new tasks, {done['present']} were there: [the project]({done['url']})"
        return "\n\n".join([said, *notes])


class AcceptRegions(_Operator):
    """The selected regions are right."""

    verb = "accept_regions"
    title = "saa: accept selected regions"
    text = "Say that the selected regions, or all regions of the selected images, are right"

    def plan(self, ctx: Any) -> str:
        """As `_Operator.plan`."""
        regions = _regions(ctx)
        whose = "selected regions" if ctx.selected_labels else f"regions on {_images(_selected(ctx))}"
        return (
            f"{len(regions)} {whose} will be tagged accepted and lose the tag rejected; their images lose the tag good."
        )

    def work(self, ctx: Any) -> str:
        """As `integrations.fiftyone.tagging.accept`."""
        count = accept(ctx.dataset, _regions(ctx))
        ctx.ops.reload_samples()
        return f"{count} regions are accepted. An image counts once each of its regions is accepted or rejected."


class MarkGood(_Operator):
    """The selected images have no defect."""

    verb = "mark_good"
    title = "saa: mark as good"
    text = "Say that the selected images have no defect"

    def plan(self, ctx: Any) -> str:
        """As `_Operator.plan`."""
        newest_predictions(ctx.dataset)
        keys = ctx.dataset.select(_selected(ctx)).values("key")
        blind = len(set(keys) - judged_in(ctx.dataset).keys())
        if blind:
            raise SaaError(f"{blind} of the selected images show nothing that was found: experts judge them elsewhere.")
        return f"{_images(_selected(ctx))} will be tagged good, and their regions lose the tag accepted."

    def work(self, ctx: Any) -> str:
        """As `integrations.fiftyone.tagging.mark_good`."""
        count = mark_good(ctx.dataset, _selected(ctx))
        ctx.ops.reload_samples()
        return f"{count} images are good. `saa pull fiftyone --product {ctx.dataset.name}` makes that a review."


class ExplainRegion(_Operator):
    """Why a region is shown."""

    verb = "explain_region"
    title = "saa: explain region"
    text = "Say which phrase found the selected region, how it scored, and which rules it passed"

    def plan(self, ctx: Any) -> str:
        """As `_Operator.plan`."""
        _, rank, _ = _explainable(ctx)
        return "The selected image will be explained." if rank is None else "The selected region will be explained."

    def work(self, ctx: Any) -> str:
        """As `saa explain`."""
        key, rank, run = _explainable(ctx)
        return explained(saa("explain", key, "--product", ctx.dataset.name, "--run", run), rank)


class Relabel(_Operator):
    """Another bundle for the whole set."""

    verb = "relabel"
    title = "saa: re-label with another bundle"
    text = "Label every image of the product's latest run with another bundle, whatever is selected"

    def plan(self, ctx: Any) -> str:
        """As `_Operator.plan`."""
        newest_predictions(ctx.dataset)
        with Catalog(Settings.load().catalog_url) as catalog:
            run = run_of(catalog, ctx.dataset.name, None)
            number = sum(image.state != "quarantined" for image in catalog.images_of(run.id))
        whole = f"The whole set of the latest run, {number} images of {run.source},"
        return f"{whole} will be labelled again, not only what is selected; the regions there are stay beside the new."

    def ask(self, form: Any) -> None:
        """Which bundle, and whether it is meant."""
        about = "An id of `saa bundle list`, a name such as mvtec/bottle, or a YAML file"
        form.str("bundle", label="Bundle", description=about, required=True)
        form.bool("whole_set", label="Yes, the whole set", default=False, required=True)

    def work(self, ctx: Any) -> str:
        """As `saa relabel`, then `saa push fiftyone`."""
        if ctx.params.get("whole_set") is not True:
            raise SaaError(f"{self.plan(ctx)} Nothing was done: tick 'Yes, the whole set' to confirm.")
        product = ctx.dataset.name
        done = saa("relabel", "--product", product, "--bundle", ctx.params["bundle"])
        saa("push", "fiftyone", "--product", product, "--run", done["run"])
        ctx.ops.reload_dataset()
        return f"{done['regions']} regions by bundle {done['bundle'][:8]} on {sum(done['images'].values())} images."


_GONE = "What is selected is not there any more: load the page anew, and select again."


def register(plugin: Any) -> None:
    """Called by FiftyOne."""
    for operator in (SendToLabelStudio, AcceptRegions, MarkGood, ExplainRegion, Relabel):
        plugin.register(operator)


def _selected(ctx: Any) -> list[str]:
    """The selected images; without any, the one that is open."""
    images = list(ctx.selected) or [each for each in [ctx.current_sample] if each]
    if not images:
        raise SaaError("Nothing is selected: select images first, by the box in their corner, or open one.")
    if len(ctx.dataset.select(images)) < len(images):
        raise SaaError(_GONE)
    return images


def _images(selected: Sequence[str]) -> str:
    return f"{len(selected)} selected image{'' if len(selected) == 1 else 's'}"


def _regions(ctx: Any) -> list[str]:
    """The selected regions; without any, those of the selected images."""
    labels = ctx.selected_labels or []
    judged = judged_regions(ctx.dataset, [each["sample_id"] for each in labels] or _selected(ctx))
    if any(judged.get(each["label_id"]) != each["field"] for each in labels):
        raise SaaError("Only regions of the newest bundle that shows an image are judged.")
    regions = [each["label_id"] for each in labels] or list(judged)
    if not regions:
        raise SaaError("The selected images have no regions; `mark as good` says that this is right.")
    return regions


def _explainable(ctx: Any) -> tuple[str, int | None, str]:
    """Key of the one image that is meant, rank of the region or None for all, and the run that decided it."""
    labels = ctx.selected_labels or []
    images = {each["sample_id"] for each in labels} or set(_selected(ctx))
    if len(labels) > 1 or len(images) > 1:
        raise SaaError("Select one region, or one image.")
    field = labels[0]["field"] if labels else newest_predictions(ctx.dataset)
    sample = next(iter(ctx.dataset.select(list(images))), None)
    if sample is None:
        raise SaaError(_GONE)
    held = sample.get_field(field) if field.startswith("predictions_") else None
    if held is None:
        raise SaaError(f"{field} holds no region that saa proposed on this image.")
    ranks = {each.id: int(each["rank"]) for each in held.detections}
    if labels and labels[0]["label_id"] not in ranks:
        raise SaaError(_GONE)
    return sample["key"], ranks[labels[0]["label_id"]] if labels else None, held["run"]
