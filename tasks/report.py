"""Report: the run's own file, the page, the contact sheet, and a summary for Prefect's pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from integrations.catalog import Catalog
from integrations.outputs import RunFolder
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


@task(name="publish-lines", cache_policy=NO_CACHE)
def publish_lines(key: str, lines: list[str]) -> None:
    """A report of a few lines as a markdown artifact; the first is its heading."""
    create_markdown_artifact("\n".join([f"# {lines[0]}", "", *(f"- {line}" for line in lines[1:])]), key=key)


@task(name="publish-table", cache_policy=NO_CACHE)
def publish_table(key: str, rows: list[dict[str, Any]]) -> None:
    """What became of each product as a table artifact."""
    create_table_artifact(rows, key=key)
