"""Where the batches of a run are worked on: threads, processes of this machine, a Dask or a Ray cluster.

With an address the cluster is the user's, and its workers need what this process has: the workspace and the images
under the same paths, the same settings and credentials in their environment, and Prefect's API by PREFECT_API_URL.
Without one it lives as long as the run: on the loopback interface, or where that cannot be had, behind a token.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from flows.runtime import limit_threads
from integrations.settings import RunnerName, Settings
from saa_core.errors import ServiceError, SettingsError
from saa_core.models import ModelSetup
from saa_core.runtime import choose

Runner = TaskRunner[Any]

_WORTH_HERE, _WORTH_AWAY = 1.7, 11.5
"""Seconds of work that 2 % of are what Prefect takes for a task: in a thread, and in another process, which sets up
Prefect's context for each task anew. Both were measured."""
_PATIENCE = 10.0
"""Seconds that a cluster may take to answer."""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")


@dataclass(frozen=True, slots=True)
class Workers:
    """A kind of workers.

    Attributes:
        runner: Makes a task runner that is not started yet.
        count: How many tasks a started runner works on at once.
        worth: Seconds of work that make a task worth its orchestration.
        deaths: What a task's future raises when the process that worked on it died.
        die_together: Whether the death of one ends them all, so that the runner has to be made anew.
        lease: Entered around the submission of a task, it asks for what a worker has one of: its GPU.
    """

    runner: Callable[[], Runner]
    count: Callable[[Runner], int]
    worth: float = _WORTH_AWAY
    deaths: tuple[type[Exception], ...] = ()
    die_together: bool = False
    lease: Callable[[], AbstractContextManager[Any]] = nullcontext


def workers_for(settings: Settings, setup: ModelSetup) -> Workers:
    """The workers that the settings name, for tasks with some models.

    Raises:
        SettingsError: The package of a runner is not installed, or an address is given for one that has none.
        ServiceError: No cluster answers at the address.
    """
    kind, address = settings.runner, settings.address
    if address is not None:
        _check_address(kind, address)
    if kind in ("dask", "ray") and find_spec(f"prefect_{kind}") is None:
        raise SettingsError(f"runner {kind}", f'needs a package: pip install "saa-labeling[{kind}]"')
    # Networks use all processors, or the GPU, for one task at a time.
    count = settings.workers if setup.weight_free else 1
    if kind == "threads":
        return Workers(lambda: ThreadPoolTaskRunner(max_workers=count), lambda _: count, _WORTH_HERE)
    if kind == "process":
        return _processes(count, setup)
    return _dask(address, count, setup) if kind == "dask" else _ray(address, count, setup)


def _processes(count: int, setup: ModelSetup) -> Workers:
    initializer = limit_threads if setup.weight_free else None
    return Workers(
        lambda: ProcessPoolTaskRunner(max_workers=count, initializer=initializer),
        lambda _: count,
        deaths=(BrokenExecutor,),
        die_together=True,
    )


def _dask(address: str | None, count: int, setup: ModelSetup) -> Workers:
    import dask

    # A cluster tells every step of its start, in the middle of our progress; read as `distributed` is imported.
    dask.config.set({"logging.distributed": dask.config.get("logging.distributed", "warning")})
    from distributed import KilledWorker
    from prefect_dask import DaskTaskRunner

    gpu = {"GPU": 1} if _on_gpu(setup) else {}
    cluster = {
        "n_workers": count,
        "threads_per_worker": 1,
        "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0",  # without one it would still answer, on a port that others use
        "resources": gpu,
        "env": _environment(setup),
        # A task whose worker died comes back at once: who is to blame is found out by the crew.
        "scheduler_kwargs": {"allowed_failures": 0},
    }
    return Workers(
        lambda: DaskTaskRunner(address=f"tcp://{address}") if address else DaskTaskRunner(cluster_kwargs=cluster),
        lambda runner: sum(runner.client.nthreads().values()) or count,  # type: ignore[attr-defined]
        deaths=(KilledWorker,),
        lease=lambda: dask.annotate(resources=gpu),
    )


def _ray(address: str | None, count: int, setup: ModelSetup) -> Workers:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None and not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        # Ray listens on every interface whatever it is told, and whoever reaches it runs code: only with this token.
        os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    import ray
    from prefect_ray import RayTaskRunner
    from prefect_ray.context import remote_options

    away = {"address": f"ray://{address}"} if address else {}
    here = {} if address else {"num_cpus": count, "include_dashboard": False}
    options = {**here, "log_to_driver": False, "runtime_env": {"env_vars": _environment(setup)}}
    crashes = ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError
    # Retries of Ray's own would let one image kill worker after worker before anybody hears of it.
    lease = {"max_retries": 0, "num_gpus": int(_on_gpu(setup))}
    return Workers(
        lambda: RayTaskRunner(**away, init_kwargs=options),
        lambda _: int(ray.cluster_resources().get("CPU", count)),
        deaths=crashes,
        lease=lambda: remote_options(**lease),
    )


def _on_gpu(setup: ModelSetup) -> bool:
    return not setup.weight_free and choose(setup.device, setup.precision, setup.runtime).device == "cuda"


def _environment(setup: ModelSetup) -> dict[str, str]:
    """Variables that limit a worker's threads: to one where several work side by side, and to all processors else."""
    return dict.fromkeys(_THREADS, "1" if setup.weight_free else str(os.cpu_count() or 1))


def _check_address(kind: RunnerName, address: str) -> None:
    if kind not in ("dask", "ray"):
        raise SettingsError(f"address {address}", f"is of a cluster, and the runner {kind} has none: use dask or ray")
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise SettingsError(f"address {address}", "expected HOST:PORT, such as 10.0.0.5:8786")
    try:
        socket.create_connection((host, int(port)), _PATIENCE).close()
    except OSError as error:
        raise ServiceError(address, f"no {kind.capitalize()} cluster answers ({error.strerror or error})") from error
