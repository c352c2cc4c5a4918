"""`saa relabel`: another bundle decides the photographs of a product's latest run."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.common import JsonOption, ProductOption, WorkspaceOption, progress
from flows.cli.label import tell


def relabel(
    product: ProductOption,
    bundle: Annotated[
        str,
        typer.Option("--bundle", help="Prompts: a bundle's id, a YAML file, or a library name such as mvtec/bottle."),
    ],
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Label the photographs of a product's latest run with another bundle, and the models of that run.

    Example: `saa relabel --product bottle --bundle 3f2a91`

    What the models found for the same phrases is stored, so a bundle that changes only numbers calls none. The run
    before stays as it was, and the champion is not changed: `saa promote` does that.
    """
    from flows.bundles import bundle_for_product, catalog_to_read
    from flows.runs import again
    from flows.start import start
    from integrations.finished_run import run_of
    from integrations.settings import Settings

    settings = Settings.load(workspace=workspace)
    with catalog_to_read(settings) as catalog:
        request = again(run_of(catalog, product, None), bundle_for_product(bundle, product, None, catalog), settings)
    with progress():
        summary = start(request, settings)
    tell(summary, as_json)
