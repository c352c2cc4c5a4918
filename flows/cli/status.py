"""`saa status`: what runs, what waits for experts, what is stale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from flows.cli.common import JsonOption, WorkspaceOption, answer, print_json

if TYPE_CHECKING:
    from integrations.settings import Settings
    from integrations.status import ProductStatus, Unfinished


def status(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Say in a second how a workspace stands: what runs, what waits for experts, what is stale.

    Example: `saa status`

    It reads the catalog and asks the workspace's servers whether they answer; no model and no image is looked at.
    """
    from dataclasses import asdict

    from pydantic_core import to_jsonable_python

    from integrations.settings import Settings
    from integrations.status import WorkspaceStatus, status_of

    settings = Settings.load(workspace=workspace)
    stands = status_of(settings) if settings.has_catalog else WorkspaceStatus((), ())
    services = _services(settings)
    if as_json:
        print_json(to_jsonable_python({"services": services, **asdict(stands)}))
        return
    for line in (*_service_lines(services), *_run_lines(stands.unfinished)):
        answer(line)
    _tell_products(stands.products)


def _services(settings: Settings) -> dict[str, dict[str, Any]]:
    """What runs, by service; one that runs and does not answer says so, and the others are still told of."""
    from flows.services import VERBS
    from saa_core.errors import SaaError

    found: dict[str, dict[str, Any]] = {}
    for name, verbs in VERBS.items():
        try:
            told = verbs.status(settings)
            found[name] = told.facts if told else {"service": name, "state": "stopped"}
        except SaaError as error:
            found[name] = {"service": name, "state": "broken", "reason": str(error)}
    return found


def _service_lines(services: dict[str, dict[str, Any]]) -> Iterator[str]:
    for name, facts in services.items():
        yield " ".join(filter(None, (f"{name}:", facts["state"], facts.get("url"), facts.get("reason"))))


def _run_lines(runs: Sequence[Unfinished]) -> Iterator[str]:
    for run in runs:
        since = f"{run.since:%Y-%m-%d %H:%M} UTC"
        yield f"run {run.run} of {run.product}: {run.images} images so far, at work or cut off, since {since}"


def _tell_products(found: Sequence[ProductStatus]) -> None:
    if not found:
        answer("no product has a finished run yet; `saa label IMAGES --product P` makes one")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table("product", "champion", "images", "sent", "to review", "of these unaided", "new reviews", "stale")
    for each in found:
        numbers = each.images, each.sent, each.to_review, each.unaided, each.new_reviews, each.outdated
        table.add_row(Text(each.product), (each.champion or "-")[:8], *map(str, numbers))
    answer(table)
    for each in found:
        for line in (*each.advice(), *(f"run {each.run}: {note}" for note in each.notes)):
            answer(f"{each.product}: {line}")
