"""Watch for drift: a sentence for each of a run's lots that no longer looks like those before the promotion."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from integrations.alarm_webhook import post_alarm
from integrations.catalog import Catalog
from integrations.drift_watch import notes
from integrations.settings import Settings
from saa_core.errors import SaaError
from tasks.patience import patient_task
from tasks.workbench import store_of


@task(name="watch-drift", cache_policy=NO_CACHE)
def watch_drift(run_id: str, workspace: str) -> list[str]:
    """What the reader of a finished run should know of its lots; it never fails, since the masks are written.

    Args:
        run_id: The run.
        workspace: Where everything is.
    """
    settings = Settings.load(workspace=workspace)
    try:
        with Catalog(settings.catalog_url) as catalog:
            run = catalog.run(run_id)
            return list(notes(catalog, store_of(run, settings, catalog.bundle(run.bundle)), settings, run))
    except SaaError as error:
        return [f"Whether its lots have drifted could not be told: {error}"]


@patient_task("send-alarm")
def send_alarm(product: str, run_id: str, sentences: list[str], workspace: str) -> bool:
    """Tell the site's webhook of an alarm; returns whether it has one, see `integrations.alarm_webhook`."""
    return post_alarm(Settings.load(workspace=workspace), product, run_id, sentences)
