"""Report: the run's own file, the page, the contact sheet, and a summary for Prefect's pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.cache_policies import NO_CACHE

from integrations.catalog import Catalog
from integrations.fiftyone.lifecycle import dataset_url
from integrations.finished_run import finished_run
from integrations.outputs import RunFolder
from integrations.run_digest import review_first, thumbnail
from integrations.run_report import report_run
from integrations.settings import Settings
from saa_core.types import ImageRef


@task(name="write-report", cache_policy=NO_CACHE)
def write_report(summary: dict[str, Any], refs: list[ImageRef], names: list[str], workspace: str) -> str:
    """Close the run's folder and write its report; returns the report's path.

    Args:
        summary: What the run says of itself; goes into run.json.
        refs: The images that have masks.
        names: Every file name of the set.
        workspace: Where everything is.
    """
    settings = Settings.load(workspace=Path(workspace))
    RunFolder(settings.runs / summary["run"], names).close(refs, summary)
    with Catalog(settings.catalog_url) as catalog:
        return str(report_run(summary["run"], catalog, settings))


@task(name="publish-summary", cache_policy=NO_CACHE)
def publish_summary(summary: dict[str, Any]) -> None:
    """The summary as a markdown artifact, for whoever looks at the run in Prefect."""
    counts = summary["images"]
    lines = [
        f"# {summary['product']}: {summary['regions']} regions",
        "",
        f"Models: {', '.join(summary['models'].values())}. Profile {summary['profile']}, bundle `{summary['bundle']}`.",
        "",
        "| labelled | reused | quarantined | model calls | seconds |",
        "| ---: | ---: | ---: | ---: | ---: |",
        f"| {counts['labelled']} | {counts['reused']} | {counts['quarantined']} "
        f"| {summary['model_calls']} | {summary['seconds']} |",
        "",
        f"Report: `{summary['report']}`",
        *(f"- quarantined: {name}: {reason}" for name, reason in summary["refused"]),
    ]
    create_markdown_artifact("\n".join(lines), key=f"label-{summary['run']}", description="What the run did")


@task(name="publish-digest", cache_policy=NO_CACHE)
def publish_digest(run: str, workspace: str) -> None:
    """What of a finished run to review first, as a table artifact, and its contact sheet as an image artifact."""
    settings = Settings.load(workspace=Path(workspace))
    with Catalog(settings.catalog_url) as catalog:
        finished = finished_run(settings, catalog, catalog.run(run))
    create_table_artifact(review_first(finished), key=f"review-first-{run}", description="What to review first")
    sheet = thumbnail(finished.folder / "contact_sheet.png")
    create_image_artifact(sheet, key=f"contact-sheet-{run}", description="The images with the highest scores")


@task(name="publish-lines", cache_policy=NO_CACHE)
def publish_lines(key: str, lines: list[str]) -> None:
    """A report of a few lines as a markdown artifact; the first is its heading."""
    text = "\n".join([f"# {lines[0]}", "", *(f"- {line}" for line in lines[1:])])
    create_markdown_artifact(text, key=artifact_key(key))


@task(name="publish-link", cache_policy=NO_CACHE)
def publish_link(key: str, url: str, text: str) -> None:
    """Where people go on, as a link artifact."""
    create_link_artifact(url, text, key=artifact_key(key))


@task(name="link-fiftyone", cache_policy=NO_CACHE)
def link_fiftyone(product: str, workspace: str) -> None:
    """Where a product is curated, as a link artifact, if the workspace's App runs."""
    url = dataset_url(Settings.load(workspace=Path(workspace)), product)
    if url is not None:
        create_link_artifact(url, f"{product} in FiftyOne", key=artifact_key(f"fiftyone-{product}"))


def artifact_key(name: str) -> str:
    """A name as Prefect takes it for an artifact: lower case, digits, dashes.

    Example:
        >>> artifact_key("Cap_Blau/Nord-7")
        'cap-blau-nord-7'
    """
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")


@task(name="publish-table", cache_policy=NO_CACHE)
def publish_table(key: str, rows: list[dict[str, Any]]) -> None:
    """What became of each product as a table artifact."""
    create_table_artifact(rows, key=artifact_key(key))
