"""`saa gc`: throw away what nothing leads to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.common import JsonOption, WorkspaceOption, answer, print_json, say

if TYPE_CHECKING:
    from integrations.retention import Garbage


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be thrown away.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Throw away stored files that no run, review or bundle leads to; everything thrown away can be computed again.

    Example: `saa gc --dry-run`

    Runs, reviews, bundles, promotions, reports and all that a refinement reads stay, and so does what is younger than
    a day or was written since an unfinished run began. A blob store must not be shared with another catalog.
    """
    from flows.start import settings_of
    from integrations.catalog import Catalog
    from integrations.catalog.records import now
    from integrations.retention import garbage, throw_away
    from saa_core.models import build
    from tasks.workbench import setup_of

    settings = settings_of(workspace)
    with Catalog(settings.catalog_url) as catalog:
        found = garbage(catalog, settings, lambda run, bundle: build(setup_of(run, settings), bundle), now())
        if not dry_run:
            throw_away(catalog, settings, found)
    if as_json:
        print_json(_facts(found) | {"dry_run": dry_run})
    else:
        _tell(found, dry_run)


def _facts(found: Garbage) -> dict[str, object]:
    kinds = {kind: {"files": files, "bytes": size} for kind, (files, size) in found.by_kind.items()}
    return {"garbage": kinds, "kept_bytes": found.kept, "unfinished": [run.id for run in found.unfinished]}


def _tell(found: Garbage, dry_run: bool) -> None:
    word = "would be thrown away" if dry_run else "thrown away"
    for run in found.unfinished:
        since = f"{run.created:%Y-%m-%d %H:%M} UTC"
        say(f"run {run.id} of {run.product} is unfinished: what was written since {since} stays", style="yellow")
    for kind, (files, size) in found.by_kind.items():
        answer(f"{kind}: {files} {word}, {_megabytes(size)}")
    total = sum(size for _, size in found.by_kind.values())
    answer(f"{_megabytes(total)} {word}, {_megabytes(found.kept)} of stored results stay")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
