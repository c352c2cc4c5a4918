"""`saa promote`, `saa rollback` and `saa audit`: which bundle decides for a product, since when and why."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.common import JsonOption, ProductOption, WorkspaceOption, answer, print_json, say

if TYPE_CHECKING:
    from integrations.catalog import Catalog, PromotionRecord, RefinementRecord
    from integrations.settings import Settings

ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for whoever reads `saa audit` later.")]


def promote(
    bundle: Annotated[str, typer.Argument(help="Id of a bundle of the workspace, or its beginning.")],
    product: Annotated[str | None, typer.Option("--product", help="Refuse the bundle of any other product.")] = None,
    reason: ReasonOption = "",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a bundle decide for its product from now on; the one that did so far is retired, not lost.

    Example: `saa promote 3f2a --reason "fewer false alarms on lot 7"`
    """
    settings = _settings(workspace)
    with _catalog(settings) as catalog:
        chosen = catalog.bundle(bundle)
        _check_product(chosen.id, chosen.product, product)
        record = catalog.promote(chosen.id, reason=reason)
        changes = _changes(catalog, record) if record else []
        next_run = _next_run(catalog, chosen.product, record)
    if record is not None:
        _announce(settings, record)
    if as_json:
        moved = _move_json(record) if record else {"product": chosen.product, "bundle": chosen.id}
        print_json({**moved, "changed": record is not None, "changes": changes, "next": next_run})
        return
    answer(_sentence(record) if record else f"{chosen.product}: {chosen.id} is the champion already")
    answer(next_run)


def rollback(
    product: ProductOption, reason: ReasonOption = "", workspace: WorkspaceOption = None, as_json: JsonOption = False
) -> None:
    """Go back to the bundle that decided before the present one; again, and it goes back one more.

    Example: `saa rollback --product bottle --reason "misses scratches"`

    The next `saa label` of the same photographs gives the same masks as then, to the byte.
    """
    settings = _settings(workspace)
    with _catalog(settings) as catalog:
        record = catalog.rollback(product, reason=reason)
        changes = _changes(catalog, record)
        next_run = _next_run(catalog, product, record)
    _announce(settings, record)
    if as_json:
        print_json({**_move_json(record), "changes": changes, "next": next_run})
        return
    answer(_sentence(record))
    answer(next_run)


def audit(product: ProductOption, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Tell the history of a product's champion: who, when, what, why, by which evidence, and what changed.

    Example: `saa audit --product bottle`
    """
    settings = _settings(workspace)
    with _catalog(settings) as catalog:
        history = {**_history(catalog, product), "drift": _drift(catalog, settings, product)}
    if as_json:
        print_json(history)
        return
    for line in _lines(history):
        answer(line)


def _settings(workspace: Path | None) -> Settings:
    from integrations.settings import Settings

    return Settings.load(workspace=workspace)


def _catalog(settings: Settings) -> Catalog:
    from flows.bundles import catalog_to_read

    return catalog_to_read(settings)


def _check_product(bundle: str, product: str, wanted: str | None) -> None:
    from saa_core.errors import BundleError

    if wanted not in (None, product):
        advice = "`saa bundle export` it, change its product, and `saa bundle import` that"
        raise BundleError(bundle, f"is a bundle of {product!r}, not of {wanted!r}; {advice}")


def _announce(settings: Settings, record: PromotionRecord) -> None:
    """Tell the site's Prefect server, so that the photographs are labelled again now and not in the night."""
    from flows.runtime import use_server
    from saa_core.errors import SaaError

    try:
        if not use_server(settings.workspace.absolute()):
            return
    except SaaError as error:  # what was asked for is done, and the night makes this good
        say(f"{error}: the nightly run labels again", style="yellow")
        return
    from flows import events

    if events.heard():
        events.promoted(record.product, record.bundle)
    else:
        say("Prefect's server does not answer: the nightly run labels again", style="yellow")


# ---------------------------------------------------------------------------------------------------------------- facts


def _move_json(record: PromotionRecord) -> dict[str, Any]:
    return {**asdict(record), "at": record.at.isoformat()}


def _changes(catalog: Catalog, record: PromotionRecord) -> list[dict[str, Any]]:
    """What a change of the champion changed in words and numbers."""
    from saa_core.prompts import diff

    if record.previous is None:
        return []
    found = diff(catalog.bundle(record.previous), catalog.bundle(record.bundle))
    return [{"path": path, "old": old, "new": new} for path, old, new in found]


def _next_run(catalog: Catalog, product: str, record: PromotionRecord | None) -> str:
    """What the next `saa label` does."""
    lead = f"next: `saa label IMAGES --product {shlex.quote(product)}` decides with it"
    if record is None or record.previous is None:
        return lead
    old, new = catalog.bundle(record.previous), catalog.bundle(record.bundle)
    if old.texts == new.texts:
        return f"{lead}; its phrases are the same, so a set that was labelled before needs no model"
    return f"{lead}; its phrases are others, so models look at every set that was not labelled with them"


def _history(catalog: Catalog, product: str) -> dict[str, Any]:
    champion = catalog.champion(product)
    moves = catalog.promotions(product)
    refinements = {record.bundle: record for record in catalog.refinements(product)}
    promoted = {move.bundle for move in moves}
    return {
        "product": product,
        "champion": champion.id if champion else None,
        "promotions": [
            {
                **_move_json(move),
                "changes": _changes(catalog, move),
                "refinement": _origin(refinements.get(move.bundle)),
            }
            for move in moves
        ],
        "proposals": [_origin(record) for bundle, record in refinements.items() if bundle not in promoted],
        "looks": [{**asdict(look), "at": look.at.isoformat()} for look in catalog.looks(product)],
    }


def _origin(record: RefinementRecord | None) -> dict[str, Any] | None:
    return {**asdict(record), "created": record.created.isoformat()} if record else None


def _drift(catalog: Catalog, settings: Settings, product: str) -> dict[str, Any] | None:
    """The newest lots against those before the promotion; None where nothing was promoted."""
    from integrations.drift_watch import watched
    from tasks.workbench import store_for

    champion = catalog.champion(product)
    if champion is None:
        return None
    found = watched(catalog, store_for(product, catalog, settings, champion), settings, product)
    if found is None:
        return None
    return {
        "images_before": found.images,
        "regions_compared": not found.blind,
        "lots": [lot.lot for lot in found.lots],
        "alarms": [asdict(alarm) for alarm in found.alarms],
    }


# ------------------------------------------------------------------------------------------------------------- in words


def _sentence(record: PromotionRecord) -> str:
    instead = f" in place of {record.previous}" if record.previous else ""
    verb = "is the champion now" if record.kind == "promote" else "is the champion again"
    return f"{record.product}: {record.bundle} {verb}{instead}"


def _lines(history: Mapping[str, Any]) -> Iterator[str]:
    champion = history["champion"]
    yield f"{history['product']}: " + (f"{champion} is the champion" if champion else "has no champion yet")
    if history["drift"]:
        yield from _drift_lines(history["drift"])
    for move in history["promotions"]:
        yield from _move_lines(move)
    for proposal in history["proposals"]:
        yield f"{_moment(proposal['created'])}  proposed {proposal['bundle']}, never promoted"
        yield from _origin_lines(proposal)
    if history["looks"]:
        yield from _look_lines(history["looks"])


def _move_lines(move: Mapping[str, Any]) -> Iterator[str]:
    verb = "promoted" if move["kind"] == "promote" else "rolled back to"
    instead = f" in place of {move['previous']}" if move["previous"] else ""
    reason = f": {move['reason']}" if move["reason"] else ""
    yield f"{_moment(move['at'])}  {move['who']} {verb} {move['bundle']}{instead}{reason}"
    for change in move["changes"]:
        yield f"    {change['path']}: {_value(change['old'])} -> {_value(change['new'])}"
    if move["refinement"] and move["kind"] == "promote":
        yield from _origin_lines(move["refinement"])


def _origin_lines(origin: Mapping[str, Any]) -> Iterator[str]:
    content = origin["content"]
    yield f"    evidence {origin['evidence']}, seed {origin['seed']}, compared with {origin['champion']}"
    for place, before, after in (("searched", "before", "after"), ("held-out", "held_before", "held_after")):
        if content.get(before) and content.get(after):
            yield f"    on {place} images: {_figures(content[before], content[after])}"
    if content.get("gain"):
        yield f"    gain {_interval(content['gain'])}"
    yield from (f"    {reason}" for reason in content.get("reasons", []))


def _look_lines(looks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield f"looks at the held-out images: {len(looks)}"
    for look in looks:
        gain = "not defined" if look["gain"] is None else f"{look['gain']:+.3f}"
        yield f"{_moment(look['at'])}  {look['bundle']} against {look['champion']}, gain {gain}"


def _drift_lines(drift: Mapping[str, Any]) -> Iterator[str]:
    from saa_core.refinement.drift import LEAST

    before, lots, alarms = drift["images_before"], len(drift["lots"]), drift["alarms"]
    if before < LEAST:
        yield f"drift: not watched, since {before} images were labelled before the promotion and {LEAST} are needed"
        return
    if not lots:
        yield "drift: no new photographs were labelled since the promotion"
        return
    newest = f"{lots} lot{'' if lots == 1 else 's'} since the promotion"
    alarmed = f"{len(alarms) or 'no'} alarm{'s' if len(alarms) > 1 else ''}"
    yield f"drift: {alarmed} in {newest}, against {before} images before it"
    yield from (f"    {alarm['sentence']}" for alarm in alarms)
    if not drift["regions_compared"]:
        yield "    regions were not compared: too few earlier images were decided by it; `saa label` them again"


def _figures(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    names = ("objective", "pixel_f1", "region_f1", "false_alarms")
    known = [name for name in names if before.get(name) is not None and after.get(name) is not None]
    return ", ".join(f"{name.replace('_', ' ')} {before[name]:.3f} -> {after[name]:.3f}" for name in known)


def _interval(gain: Mapping[str, float]) -> str:
    return f"{gain['mean']:+.3f} out of bag, 60 % of the resamples from {gain['lower']:+.3f} to {gain['upper']:+.3f}"


def _value(value: object) -> str:
    return "none" if value is None else str(value)


def _moment(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S} UTC"
