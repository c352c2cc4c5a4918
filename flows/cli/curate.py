"""`saa curate`: what is worth a look, in FiftyOne."""

from __future__ import annotations

from typing import Annotated

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


def curate(
    product: ProductOption,
    run: Annotated[str | None, typer.Option("--run", help="The run's id. [default: the product's latest]")] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring everything of a product into FiftyOne and find out what is worth a look: one saved view for each question.

    Example: `saa curate --product bottle`

    Pulls what was said in the App, publishes the run and all reviews, evaluates every bundle against the experts,
    compares the two newest bundles, and finds unusual images and near-duplicates. All on this machine; run it as often
    as you like.
    """
    from flows.start import curate as run_curate
    from integrations.settings import Settings

    with progress():
        found = run_curate(product, Settings.load(workspace=workspace).workspace, run)
    say_refused("refused", found.published.refused)
    if as_json:
        print_json(
            {
                "product": product,
                "published": found.published.as_dict(),
                "regions": found.regions,
                "views": found.views,
            }
        )
    else:
        for line in found.lines():
            answer(line)
    if found.published.refused:
        raise typer.Exit(Exit.PARTLY)
