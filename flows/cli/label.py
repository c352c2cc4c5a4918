"""`saa label`: photographs in, masks and a report out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.common import (
    AddressOption,
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
    RunnerOption,
    RuntimeName,
    RuntimeOption,
    SamOption,
    TileOption,
    WeightsOption,
    WorkspaceOption,
    answer,
    model_setup,
    models_line,
    print_json,
    progress,
    say_refused,
)

if TYPE_CHECKING:
    from flows.runs import RunSummary


def label(
    images: Annotated[str, typer.Argument(help="A folder, a glob, a list file (.txt) or an fsspec URL such as s3://.")],
    product: Annotated[str, typer.Option("--product", help="What the photographs show; any name of yours.")],
    models: ModelsOption = Models.WEIGHT_FREE,
    profile: ProfileOption = None,
    bundle: BundleOption = None,
    lot: Annotated[str | None, typer.Option("--lot", help="Production lot of these images.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Take only the first N images.")] = None,
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
    runner: RunnerOption = None,
    address: AddressOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Label a set of product photographs: regions, masks, anomaly maps and a report.

    Examples: `saa label photos/ --product bottle --bundle mvtec/bottle`,
    `saa label photos/ --product bottle --models foundation --weights-dir weights/`

    The same command again calls no model; an interrupted one goes on where it stopped. A photograph that cannot be
    read is set aside with its reason, and the exit code is 2.
    """
    from flows.bundles import bundle_for_product, catalog_to_read
    from flows.runs import LabelRequest
    from flows.start import start
    from integrations.settings import Settings
    from saa_core.errors import SettingsError

    if not product.strip():
        raise SettingsError("--product", "needs a name")
    settings = Settings.load(workspace=workspace)
    with catalog_to_read(settings) as catalog:
        chosen = bundle_for_product(bundle, product, profile.value if profile else None, catalog)
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
    request = LabelRequest(
        source=images,
        product=product,
        bundle=chosen,
        setup=setup,
        lot=lot,
        limit=limit,
        workspace=str(settings.workspace.absolute()),
        runner=runner.value if runner else None,
        address=address,
    )
    with progress():
        summary = start(request, settings)
    tell(summary, as_json)


def tell(summary: RunSummary, as_json: bool) -> None:
    """Print a run's summary and end with its exit code."""
    say_refused("quarantined", summary.refused)
    if as_json:
        print_json(summary.model_dump())
    else:
        _sentences(summary)
    if not summary.whole:
        raise typer.Exit(Exit.PARTLY)


def _sentences(summary: RunSummary) -> None:
    answer(f"{summary.sentence()} in {summary.seconds:.1f} s, {summary.model_calls} model calls (run {summary.run})")
    answer(models_line(summary.models))
    for note in summary.notes:
        answer(note)
    if summary.unknown_words:
        answer(f"words no model could use: {', '.join(summary.unknown_words)}")
    answer(f"report: {summary.report}")
