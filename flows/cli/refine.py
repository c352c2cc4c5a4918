"""`saa refine`: experts' corrections become better prompts and thresholds."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.common import (
    Exit,
    JsonOption,
    ProductOption,
    WorkspaceOption,
    answer,
    print_json,
    progress,
    say_refused,
)

if TYPE_CHECKING:
    from flows.refine import Refined


def refine(
    product: ProductOption,
    seed: Annotated[int, typer.Option("--seed", help="Of everything random: the same seed, the same bundle.")] = 0,
    budget: Annotated[int, typer.Option("--budget", min=0, help="How many bundles to try, about.")] = 2000,
    risk: Annotated[
        bool, typer.Option("--risk", help="For a product's first bundle: promote on less evidence than usual.")
    ] = False,
    new_phrases: Annotated[
        bool, typer.Option("--new-phrases", help="Also ask the models for phrases that the bundle does not have yet.")
    ] = False,
    pull: Annotated[bool, typer.Option("--pull", help="Pull the reviews from Label Studio first.")] = False,
    push: Annotated[
        bool,
        typer.Option("--push", help="Label what the latest run was made of again with a promoted bundle, and push it."),
    ] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn a product's reviews into better thresholds, phrases and weights, and promote them if they are.

    Examples: `saa refine --product bottle`, `saa refine --product bottle --new-phrases --risk`

    Nothing but arithmetic on what the models gave before, unless --new-phrases. A bundle is promoted only if it does
    better on images that the search did not see; `saa rollback` takes it back. The next `saa label` uses it. Reviews
    that cannot be used are left out with their reasons, and the exit code is 2.
    """
    from flows.start import refine as start
    from integrations.refinery import RefineRequest
    from integrations.report.refinement import lines
    from integrations.settings import Settings

    request = RefineRequest(product=product, seed=seed, budget=budget, risk=risk, new_phrases=new_phrases)
    with progress():
        found = start(request, Settings.load(workspace=workspace).workspace, collect=pull, publish=push)
    unusable = found.refinement.evidence.unusable
    say_refused("left out", unusable)
    if as_json:
        print_json(as_dict(found))
    else:
        for line in lines(found.refinement):
            answer(line)
        answer(f"report: {found.report}")
        if found.pushed is not None:
            answer(f"run {found.run}: {found.pushed.sentence()}: {found.pushed.url}")
    if unusable:
        raise typer.Exit(Exit.PARTLY)


def as_dict(found: Refined) -> dict[str, Any]:
    """A refinement as JSON; everything but the bundles, which `saa bundle show` prints, and the curves."""
    refinement = found.refinement
    known = asdict(refinement)
    proposed = refinement.proposed if refinement.outcome in ("promoted", "proposed") else None
    return {
        **{name: value for name, value in known.items() if name not in ("curves", "changes")},
        "champion": refinement.champion.id,
        "proposed": proposed.id if proposed else None,
        "report": found.report,
        "run": found.run,
        "pushed": asdict(found.pushed) if found.pushed else None,
    }
