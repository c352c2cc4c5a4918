"""`saa evaluate`: how well the method does where the truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.common import (
    BundleOption,
    Captions,
    CaptionsOption,
    DetectorOption,
    DeviceOption,
    Exit,
    FeaturesOption,
    JsonOption,
    Models,
    ModelsOption,
    OverlapOption,
    PrecisionName,
    PrecisionOption,
    ProfileOption,
    PromptName,
    RuntimeName,
    RuntimeOption,
    SamOption,
    TileOption,
    WeightsOption,
    WorkspaceOption,
    answer,
    model_setup,
    print_json,
    progress,
    say,
)


def evaluate(
    dataset: Annotated[
        Path,
        typer.Argument(help="A folder in MVTec layout, at any depth: CLASS/test/DEFECT, CLASS/ground_truth."),
    ],
    models: ModelsOption = Models.WEIGHT_FREE,
    profile: ProfileOption = None,
    bundle: BundleOption = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="Only this class; may be repeated.")] = None,
    without: Annotated[
        list[PromptName] | None, typer.Option("--without", help="Switch a prompt off (ablation); may be repeated.")
    ] = None,
    tile: TileOption = None,
    overlap: OverlapOption = 0.2,
    features: FeaturesOption = None,
    detector: DetectorOption = "swint",
    sam: SamOption = "vit_h",
    captions: CaptionsOption = Captions.SEPARATE,
    weights_dir: WeightsOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = PrecisionName.FLOAT32,
    runtime: RuntimeOption = RuntimeName.TORCH,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the method on a data set with known masks, class by class.

    Example: `saa evaluate datasets/mvtec --bundle mvtec --only bottle --without saliency`

    The main figure is max-F1-pixel: the F1 of all pixels of a class pooled, at the best threshold, at 400 x 400.
    """
    from flows import evaluate as evaluation
    from flows.bundles import bundles_for_classes, catalog_to_read
    from integrations.blobs import BlobStore
    from integrations.candidate_store import CandidateStore
    from integrations.settings import Settings
    from saa_core.models import build

    settings = Settings.load(workspace=workspace)
    setup = model_setup(
        settings,
        models=models,
        features=features,
        detector=detector,
        sam=sam,
        captions=captions,
        weights_dir=weights_dir,
        device=device,
        precision=precision,
        runtime=runtime,
        tile=tile,
        overlap=overlap,
    )
    store = CandidateStore(BlobStore(settings.blobs_url), build(setup), settings.max_pixels, settings.keep_embeddings)
    with catalog_to_read(settings) as catalog, progress():
        bundle_for = bundles_for_classes(
            bundle, profile.value if profile else None, [prompt.value for prompt in without or ()], catalog
        )
        figures = evaluation.evaluate(
            dataset, only or [], bundle_for, store, settings.workers if setup.weight_free else 1
        )
    content = {"models": store.method.models, **figures}
    if as_json:
        print_json(content)
    else:
        _table(content)
    if figures["quarantined"]:
        for name, reason in figures["quarantined"].items():
            say(f"quarantined: {name}: {reason}", style="yellow")
        raise typer.Exit(Exit.PARTLY)


_COLUMNS = ("max_f1_pixel", "f1_pixel", "pixel_auroc", "aupro", "image_auroc", "region_f1", "seconds_per_image")


def _table(content: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=f"{', '.join(content['models'].values())} - profile {content['profile']}")
    table.add_column("class")
    for name in _COLUMNS:
        table.add_column(name.replace("_", " "), justify="right")
    for name, row in {**content["classes"], "mean": content["mean"]}.items():
        table.add_row(name, *(_cell(row[column]) for column in _COLUMNS))
    answer(table)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
