"""What the site's Prefect server does by itself, and what a service that was killed has left there: both on start."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from datetime import timedelta
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterStateName,
)
from prefect.client.schemas.filters import FlowRunFilterState as StateFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

HEARTBEAT = 30
"""Seconds between the signs of life of a run; Prefect takes no less."""

_SILENCE = 3 * HEARTBEAT
_ZOMBIES = "saa: a run without a sign of life has crashed"
_LATE = "Late"
_AT_ONCE = 200
_ENDS = ("Completed", "Failed", "Cancelled", "Crashed")


def zombie_automation() -> AutomationCore:
    """Marks runs as crashed whose process is gone, and whose runner is: nobody else would ever end them."""
    beat = "prefect.flow-run.heartbeat"
    return AutomationCore(
        name=_ZOMBIES,
        trigger=EventTrigger(
            after={beat},
            expect={beat, *(f"prefect.flow-run.{state}" for state in _ENDS)},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=_SILENCE),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=f"no sign of life for {_SILENCE} s")],
    )


async def ensure_automations(client: PrefectClient) -> None:
    """Make what is missing; a second one of the same name would do everything twice."""
    if not await client.read_automations_by_name(_ZOMBIES):
        await client.create_automation(zombie_automation())


async def drop_late_runs(client: PrefectClient, deployments: Collection[UUID]) -> int:
    """Of runs that no service took while none was there, keep the newest of each deployment: once makes all good.

    Returns:
        How many were dropped.
    """
    dropped = 0
    while late := await _late(client, deployments):
        by_deployment: dict[UUID | None, list[FlowRun]] = defaultdict(list)
        for run in late:
            by_deployment[run.deployment_id].append(run)
        old = [run for runs in by_deployment.values() for run in runs[1:]]
        for run in old:
            await client.delete_flow_run(run.id)
        dropped += len(old)
        if len(late) < _AT_ONCE or not old:
            break
    return dropped


async def _late(client: PrefectClient, deployments: Collection[UUID]) -> list[FlowRun]:
    """Scheduled runs whose time has passed, the newest first; those that an event asked for are none of them."""
    from prefect.client.schemas.sorting import FlowRunSort

    found = await client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=list(deployments))),
        flow_run_filter=FlowRunFilter(state=StateFilter(name=FlowRunFilterStateName(any_=[_LATE]))),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=_AT_ONCE,
    )
    return [run for run in found if run.auto_scheduled]
