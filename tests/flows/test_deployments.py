"""Every deployment, without a server: its parameters, its schedule, its triggers, and prefect.yaml's agreement."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prefect.client.schemas.schedules import CronSchedule
from prefect.events import DeploymentEventTrigger
from prefect.exceptions import ParameterTypeError
from prefect.flows import Flow
from prefect.utilities.schema_tools.hydration import HydrationContext, hydrate
from prefect.utilities.schema_tools.validation import is_valid, validate
from pydantic import ValidationError

from flows import events, requests
from flows.deployments import Deployment, deployments, prefect_yaml
from integrations.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
ALL = deployments(Settings())
each = pytest.mark.parametrize("deployment", ALL, ids=lambda deployment: deployment.name)


def schema(deployment: Deployment) -> dict[str, Any]:
    found: dict[str, Any] = deployment.flow.parameters.model_dump()
    return found


def test_all_that_is_promised_is_there() -> None:
    names = {deployment.name for deployment in ALL}
    assert names == {"label", "relabel", "publish", "collect", "refine", "curate", "nightly"}


def test_prefect_yaml_says_the_same() -> None:
    written = (ROOT / "prefect.yaml").read_text("utf-8")
    assert yaml.safe_load(written) == yaml.safe_load(prefect_yaml(Settings()))


@each
def test_its_entrypoint_is_the_flow(deployment: Deployment) -> None:
    module, _, name = deployment.entrypoint.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, Flow)
    assert found is deployment.flow


@each
def test_its_form_explains_every_field(deployment: Deployment) -> None:
    found = schema(deployment)
    (request,) = found["definitions"].values()
    assert request["description"]
    assert all(field["description"] for field in request["properties"].values())
    assert request["additionalProperties"] is False


@each
def test_its_parameters_are_valid(deployment: Deployment) -> None:
    # What a schedule runs it with, and what a person may fill in.
    assert deployment.flow.validate_parameters({})["request"].product is None
    assert is_valid({}, schema(deployment))
    assert is_valid({"request": {"product": "cap / blue"}}, schema(deployment))
    assert validate({"request": {"produkt": "bottle"}}, schema(deployment))
    with pytest.raises(ParameterTypeError):
        deployment.flow.validate_parameters({"request": {"product": ""}})


@each
def test_its_schedule_is_one(deployment: Deployment) -> None:
    found = deployment.for_runner()
    for schedule in found.schedules or []:
        assert schedule.schedule is not None
        if isinstance(schedule.schedule, CronSchedule):
            assert schedule.schedule.timezone == "UTC"
    assert found.concurrency_limit == 1
    assert found.entrypoint == deployment.entrypoint


class TestSchedules:
    @staticmethod
    def of(name: str, **settings: Any) -> Any:
        (found,) = (each for each in deployments(Settings(**settings)) if each.name == name)
        return found.schedule

    def test_folders_are_looked_into_when_there_are_any(self) -> None:
        assert self.of("label") == {"interval": 300, "active": False}
        assert self.of("label", watch={"cap": "/caps"}, watch_minutes=0.5) == {"interval": 30, "active": True}

    def test_the_night_has_its_hour(self) -> None:
        assert self.of("nightly", nightly_hour=4) == {"cron": "0 4 * * *", "timezone": "UTC"}

    def test_nothing_else_has_one_as_events_and_the_night_start_it(self) -> None:
        assert all(self.of(each.name) is None for each in ALL if each.name not in ("label", "nightly"))


WIRES = [(when, deployment) for deployment in ALL for when in deployment.when]


def test_every_event_has_its_deployments() -> None:
    assert sorted((when.event, deployment.name) for when, deployment in WIRES) == [
        (events.PROMOTED, "relabel"),
        (events.REVIEWED, "refine"),
        (events.LABELLED, "curate"),
        (events.LABELLED, "publish"),
    ]


@pytest.mark.parametrize(("when", "deployment"), WIRES, ids=lambda each: getattr(each, "name", ""))
@given(product=st.text(min_size=1), run=st.text("0123456789abcdef", min_size=16, max_size=16))
def test_an_event_becomes_a_request_whatever_the_product_is_called(
    when: Any, deployment: Deployment, product: str, run: str
) -> None:
    trigger = DeploymentEventTrigger.model_validate(when.trigger(deployment.name))
    assert trigger.parameters is not None
    payload = {"product": product, "run": run, "bundle": run, "new": 3, "waiting": 10}
    found = filled(trigger.parameters, payload)
    assert is_valid(found, schema(deployment))
    request = deployment.flow.validate_parameters(found)["request"]
    assert request.product == product
    assert getattr(request, "run", None) == (run if "run" in when.fields else None)


def filled(parameters: dict[str, Any], payload: dict[str, Any]) -> dict[str, Any]:
    """The parameters as a server makes them of an event."""
    context = HydrationContext(
        render_jinja=True, jinja_context={"event": {"payload": payload}}, render_workspace_variables=False
    )
    found: dict[str, Any] = hydrate(parameters, context)
    return found


def test_a_run_needs_a_hexadecimal_id() -> None:
    assert requests.Publish(product="cap", run="3f2a").run == "3f2a"
    with pytest.raises(ValidationError):
        requests.Publish(product="cap", run="../3f2a")


def test_a_site_writes_its_own() -> None:
    site = yaml.safe_load(prefect_yaml(Settings(watch={"cap": "/caps"}, nightly_hour=5)))
    known = {each["name"]: each for each in site["deployments"]}
    assert known["label"]["schedules"][0]["active"] is True
    assert known["nightly"]["schedules"][0]["cron"] == "0 5 * * *"
