"""Every deployment, defined once: `saa serve` runs them, and prefect.yaml, which `python -m flows.deployments` writes
for the settings of a site, gives them to workers.

Only labelling what arrived and the nightly run have a schedule; the others are started by events (see `flows.events`),
and the nightly run does what an event should have done. Runs of one deployment follow one another: those that an event
asks for wait, since each may be for another product; one that a schedule asks for while the one before still works is
cancelled, since that one does its work.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import yaml
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.flows import Flow
from prefect.types.entrypoint import EntrypointType

from flows import events, unattended
from integrations.settings import Settings

POOL = "saa"
"""Work pool of prefect.yaml, of the type process."""

Collision = Literal["ENQUEUE", "CANCEL_NEW"]


@dataclass(frozen=True, slots=True)
class When:
    """An event that starts a deployment.

    Attributes:
        event: Its name.
        fields: Of its payload, which become the request.
        labels: What its resource has to have.
    """

    event: str
    fields: tuple[str, ...] = ("product",)
    labels: tuple[tuple[str, str], ...] = ()

    def trigger(self, deployment: str) -> dict[str, Any]:
        """As prefect.yaml has it; the request arrives with the types of its fields, whatever the product is called."""
        request = ", ".join(f"{json.dumps(name)}: event.payload[{name!r}]" for name in self.fields)
        template = {"__prefect_kind": "jinja", "template": f"{{{{ {{{request}}} | tojson }}}}"}
        return {
            "name": f"saa: {self.event} starts {deployment}",
            "enabled": True,
            "expect": [self.event],
            "match": {"prefect.resource.id": "saa.product.*", **dict(self.labels)},
            "parameters": {"request": {"__prefect_kind": "json", "value": template}},
        }


@dataclass(frozen=True, slots=True)
class Deployment:
    """One flow as it is deployed, under the flow's function's name.

    Attributes:
        flow: One of `flows.unattended`.
        collision: What becomes of a run that is asked for while another one works.
        schedule: When it runs, as prefect.yaml has it.
        when: Events that start it.
    """

    flow: Flow[..., Any]
    collision: Collision
    schedule: dict[str, Any] | None = None
    when: tuple[When, ...] = ()

    @property
    def name(self) -> str:
        """Of the deployment."""
        return self.flow.fn.__name__

    @property
    def entrypoint(self) -> str:
        """Where the installed package has the flow."""
        return f"{self.flow.fn.__module__}.{self.name}"

    def as_yaml(self) -> dict[str, Any]:
        """Its part of prefect.yaml."""
        return {
            "name": self.name,
            "description": self.flow.description,
            "entrypoint": self.entrypoint,
            "work_pool": {"name": POOL},
            "schedules": [self.schedule] if self.schedule else [],
            "concurrency_limit": {"limit": 1, "collision_strategy": self.collision},
            "triggers": [when.trigger(self.name) for when in self.when],
        }

    def for_runner(self) -> RunnerDeployment:
        """For the runner of `saa serve`."""
        limit: Any = ConcurrencyLimitConfig.model_validate({"limit": 1, "collision_strategy": self.collision})
        triggers = [DeploymentEventTrigger.model_validate(when.trigger(self.name)) for when in self.when]
        return RunnerDeployment.from_flow(
            self.flow,
            name=self.name,
            description=self.flow.description,
            schedules=[_schedule(self.schedule)] if self.schedule else None,
            concurrency_limit=limit,
            triggers=list(triggers),
            entrypoint_type=EntrypointType.MODULE_PATH,
        )


def _schedule(content: dict[str, Any]) -> dict[str, Any]:
    """A schedule as the runner takes it."""
    if "cron" in content:
        return {"schedule": CronSchedule(cron=content["cron"], timezone=content["timezone"]), "active": True}
    return {"schedule": IntervalSchedule(interval=timedelta(seconds=content["interval"])), "active": content["active"]}


def deployments(settings: Settings) -> tuple[Deployment, ...]:
    """Every deployment, by the settings of a site: when it looks at watched folders, and the hour of the night."""
    # Without a watched folder the schedule is there, and inactive.
    often = {"interval": settings.watch_minutes * 60, "active": bool(settings.watch)}
    night = {"cron": f"0 {settings.nightly_hour} * * *", "timezone": "UTC"}
    labelled = (When(events.LABELLED, ("product", "run")),)
    return (
        Deployment(unattended.label, "CANCEL_NEW", often),
        Deployment(unattended.relabel, "ENQUEUE", when=(When(events.PROMOTED),)),
        Deployment(unattended.publish, "ENQUEUE", when=labelled),
        Deployment(unattended.collect, "ENQUEUE"),
        Deployment(unattended.refine, "ENQUEUE", when=(When(events.REVIEWED, labels=((events.ENOUGH, "true"),)),)),
        Deployment(unattended.curate, "ENQUEUE", when=labelled),
        Deployment(unattended.nightly, "CANCEL_NEW", night),
    )


def prefect_yaml(settings: Settings) -> str:
    """The text of prefect.yaml."""
    head = (
        "# Written by `python -m flows.deployments`, for the settings of the site; `prefect deploy --all` takes it.\n"
    )
    content = {"name": "saa", "pull": [], "deployments": [each.as_yaml() for each in deployments(settings)]}
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


if __name__ == "__main__":
    sys.stdout.write(prefect_yaml(Settings.load()))
