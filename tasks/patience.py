"""Tasks that ask a service again which does not answer, where nobody waits at a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from saa_core.errors import ServiceError

_P = ParamSpec("_P")
_R = TypeVar("_R")
_RETRIES = 3
_SECONDS = 10
_JITTER = 0.5
_BUSY = 429


def patient_task(name: str) -> Callable[[Callable[_P, _R]], Task[_P, _R]]:
    """A task that may be run again, as its writes are idempotent: after about 10, 20 and 40 seconds.

    Only what a service may do better next time is tried again, and only in runs of a deployment: a person at a terminal
    is told at once.
    """
    return task(
        name=name,
        cache_policy=NO_CACHE,
        retries=_RETRIES,
        retry_delay_seconds=exponential_backoff(_SECONDS),
        retry_jitter_factor=_JITTER,
        retry_condition_fn=_may_pass,
    )


def _may_pass(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    if not (runtime.deployment.id or runtime.flow_run.parent_deployment_id):
        return False
    return is_transient(state.result(raise_on_failure=False))


def is_transient(error: object) -> bool:
    """Whether a service was away, busy or broken, and did not refuse."""
    if not isinstance(error, ServiceError):
        return False
    return error.status is None or error.status == _BUSY or error.status >= 500
