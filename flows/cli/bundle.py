"""`saa bundle`: look at prompt bundles, compare them, bring them in and out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.common import JsonOption, WorkspaceOption, answer, print_json, say

if TYPE_CHECKING:
    from integrations.catalog import Catalog
    from saa_core.prompts import PromptBundle

app = typer.Typer(no_args_is_help=True, help="Prompt bundles: list, show, compare, import, export.")

BundleArgument = Annotated[str, typer.Argument(help="A bundle's id, a YAML file, or a library name.")]


@app.command("list")
def list_(
    product: Annotated[str | None, typer.Option("--product", help="Only bundles of this product.")] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the bundles of the library and of the workspace.

    Example: `saa bundle list --product bottle`
    """
    from saa_core import library

    with _reading(workspace) as catalog:
        rows = [_row(name, "ships with saa", bundle) for name, bundle in library.all_bundles().items()]
        rows += [_row(record.bundle.id, record.state, record.bundle) for record in catalog.bundles(product)]
    rows = [row for row in rows if product in (None, row["product"])]
    if as_json:
        print_json({"bundles": rows})
        return
    from rich.table import Table

    table = Table("name", "id", "product", "state", "phrases")
    for row in rows:
        table.add_row(row["name"], row["id"], row["product"], row["state"], ", ".join(row["phrases"]))
    answer(table)


@app.command()
def show(bundle: BundleArgument, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Show a bundle in full.

    Example: `saa bundle show mvtec/bottle`
    """
    with _reading(workspace) as catalog:
        found = _find(bundle, catalog)
    if as_json:
        print_json({"id": found.id, **found.model_dump(mode="json")})
    else:
        sys.stdout.write(f"# id: {found.id}\n{found.to_yaml()}")


@app.command("diff")
def diff(
    old: BundleArgument, new: BundleArgument, workspace: WorkspaceOption = None, as_json: JsonOption = False
) -> None:
    """Say what changed from one bundle to another.

    Example: `saa bundle diff generic mvtec/bottle`
    """
    from saa_core.prompts import diff as difference

    with _reading(workspace) as catalog:
        first, second = _find(old, catalog), _find(new, catalog)
    changes = difference(first, second)
    if as_json:
        rows = [{"path": path, "old": before, "new": after} for path, before, after in changes]
        print_json({"old": first.id, "new": second.id, "changes": rows})
        return
    for path, before, after in changes:
        sys.stdout.write(f"{path}: {before} -> {after}\n")
    if not changes:
        say("no difference")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="YAML or JSON: one bundle, or `bundles:` with one for each class.")],
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring bundles of a file into the workspace, where they are known by their ids.

    Example: `saa bundle import bottle.yaml`
    """
    from flows.bundles import read_file
    from integrations.catalog import Catalog
    from integrations.settings import Settings

    found = read_file(file)
    with Catalog(Settings.load(workspace=workspace).catalog_url) as catalog:
        for bundle in found.values():
            catalog.add_bundle(bundle, "library")
    ids = {product: bundle.id for product, bundle in found.items()}
    if as_json:
        print_json({"imported": ids})
    for product, identity in ids.items():
        say(f"imported {identity} for {product}")


@app.command()
def export(
    bundle: BundleArgument,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; stdout if not given.")] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a bundle as YAML; `saa bundle import` gives back the same id.

    Example: `saa bundle export mvtec/bottle --out bottle.yaml`
    """
    from integrations.files import write_atomic

    with _reading(workspace) as catalog:
        found = _find(bundle, catalog)
    if out is not None:
        write_atomic(out, found.to_yaml().encode())
        say(f"wrote {found.id} to {out}")
    if as_json:
        print_json({"id": found.id, "file": str(out) if out else None, "bundle": found.model_dump(mode="json")})
    elif out is None:
        sys.stdout.write(found.to_yaml())


def _reading(workspace: Path | None) -> Catalog:
    from flows.bundles import catalog_to_read
    from integrations.settings import Settings

    return catalog_to_read(Settings.load(workspace=workspace))


def _find(name: str, catalog: Catalog) -> PromptBundle:
    from flows.bundles import bundle_for_product

    return bundle_for_product(name, "", None, catalog)


def _row(name: str, state: str, bundle: PromptBundle) -> dict[str, Any]:
    return {
        "name": name,
        "id": bundle.id,
        "product": bundle.product,
        "state": state,
        "profile": bundle.profile,
        "phrases": [phrase.text for phrase in bundle.phrases],
    }
