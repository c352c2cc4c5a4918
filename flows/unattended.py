"""The flows that run with nobody at a terminal: by a schedule, by an event, or from a form on Prefect's page.

Each does for one product, or for every one, what a command of the same name does. A product that fails does not keep
the others from theirs; a table says what became of each, and the run fails if any did. Where there is no Label Studio
or no FiftyOne, what needs it is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows import requests, steps
from integrations.catalog import Catalog
from integrations.refinery import RefineRequest
from integrations.settings import Settings
from saa_core.errors import SaaError, SettingsError, StoreError
from tasks.report import publish_table

LABEL_STUDIO = "no Label Studio is set or runs"
FIFTYONE = "no FiftyOne is set or runs"


@dataclass(frozen=True, slots=True)
class Step:
    """What became of a product in one step; `failed` is what went wrong in place of an outcome."""

    product: str
    step: str
    outcome: str
    failed: bool = False


@flow(name="label-watched", flow_run_name="label-{request.named}")
def label(request: requests.Label = requests.Label()) -> State[Any]:
    """Label what arrived in the watched folders."""
    settings = Settings.load()
    return _ended("label", [_step("label", each, steps.label, settings) for each in _watched(request, settings)])


@flow(name="label-again", flow_run_name="relabel-{request.named}")
def relabel(request: requests.Relabel = requests.Relabel()) -> State[Any]:
    """Label the photographs of the latest runs with the bundles that decide now; calls no model for known phrases."""
    settings = Settings.load()
    return _ended("relabel", [_step("relabel", each, steps.relabel, settings) for each in _known(request, settings)])


@flow(name="publish-runs", flow_run_name="publish-{request.named}")
def publish(request: requests.Publish = requests.Publish()) -> State[Any]:
    """Push finished runs to Label Studio."""
    settings, run = Settings.load(), _run_of(request)
    work = partial(steps.publish, run=run)
    return _ended("publish", _with_label_studio("publish", _known(request, settings), work, settings))


@flow(name="collect-reviews", flow_run_name="collect-{request.named}")
def collect(request: requests.Collect = requests.Collect()) -> State[Any]:
    """Bring experts' reviews back from Label Studio."""
    settings = Settings.load()
    return _ended("collect", _with_label_studio("collect", _known(request, settings), steps.collect, settings))


@flow(name="refine-bundles", flow_run_name="refine-{request.named}")
def refine(request: requests.Refine = requests.Refine()) -> State[Any]:
    """Turn reviews into better bundles."""
    settings = Settings.load()

    def work(product: str, settings: Settings) -> str:
        asked = RefineRequest(product=product, new_phrases=request.new_phrases, risk=request.risk)
        return steps.refine(asked, settings, request.again)

    return _ended("refine", [_step("refine", each, work, settings) for each in _known(request, settings)])


@flow(name="curate-runs", flow_run_name="curate-{request.named}")
def curate(request: requests.Curate = requests.Curate()) -> State[Any]:
    """Bring finished runs to FiftyOne and take back what was said there."""
    settings, run = Settings.load(), _run_of(request)
    work = partial(steps.curate, run=run)
    return _ended("curate", _with_fiftyone("curate", _known(request, settings), work, settings))


@flow(name="nightly-round", flow_run_name="nightly-{request.named}")
def nightly(request: requests.Nightly = requests.Nightly()) -> State[Any]:
    """All of it, for whatever an event should have done by day; where nothing was missed, nothing changes."""
    settings = Settings.load()
    watched = [product for product in sorted(settings.watch) if request.product in (None, product)]
    done = [_step("label", product, steps.label, settings) for product in watched]
    known = _known(request, settings)
    done += _with_label_studio("collect", known, steps.collect, settings)
    done += [_step("refine", product, _refine_gently, settings) for product in known]
    done += [_step("relabel", product, steps.relabel, settings) for product in known]
    done += _with_label_studio("publish", known, steps.publish, settings)
    done += _with_fiftyone("curate", known, steps.curate, settings)
    return _ended("nightly", done)


def _refine_gently(product: str, settings: Settings) -> str:
    return steps.refine(RefineRequest(product=product), settings)


# ------------------------------------------------------------------------------------------------------ which products


def _watched(request: requests.Label, settings: Settings) -> list[str]:
    if request.product is None:
        return sorted(settings.watch)
    if request.product not in settings.watch:
        raise SettingsError("watch", f"names no folder of {request.product!r}; it has {sorted(settings.watch)}")
    return [request.product]


def _known(request: Any, settings: Settings) -> list[str]:
    with Catalog(settings.catalog_url) as catalog:
        products = list(catalog.products())
    if request.product is None:
        return products
    if request.product not in products:
        raise StoreError(request.product, "has no finished run; label its photographs first")
    return [request.product]


def _run_of(request: requests.Publish | requests.Curate) -> str | None:
    if request.run is not None and request.product is None:
        raise SettingsError("run", f"{request.run} needs its product")
    return request.run


# ---------------------------------------------------------------------------------------------------- what became of it

_Work = Callable[[str, Settings], str]


def _step(name: str, product: str, work: _Work, settings: Settings) -> Step:
    try:
        return Step(product, name, work(product, settings))
    except SaaError as error:
        return Step(product, name, str(error), failed=True)
    except Exception as error:
        get_run_logger().exception("%s of %s", name, product)
        return Step(product, name, f"{type(error).__name__}: {error}", failed=True)


def _with_label_studio(name: str, products: Iterable[str], work: _Work, settings: Settings) -> list[Step]:
    if not steps.has_label_studio(settings):
        return [Step(product, name, LABEL_STUDIO) for product in products]
    return [_step(name, product, work, settings) for product in products]


def _with_fiftyone(name: str, products: Iterable[str], work: _Work, settings: Settings) -> list[Step]:
    if not steps.has_fiftyone(settings):
        return [Step(product, name, FIFTYONE) for product in products]
    return [_step(name, product, work, settings) for product in products]


def _ended(key: str, done: list[Step]) -> State[Any]:
    """The table of a run, and the state that it ends in."""
    publish_table(f"unattended-{key}", [asdict(step) for step in done])
    failed = [step for step in done if step.failed]
    if failed:
        said = "; ".join(f"{step.step} of {step.product}: {step.outcome}" for step in failed)
        return Failed(message=f"{len(failed)} of {len(done)} failed: {said}")
    return Completed(message="; ".join(f"{step.product}: {step.outcome}" for step in done) or "there is no product yet")
