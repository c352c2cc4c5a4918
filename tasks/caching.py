"""A cache key made of the content that a task depends on, and of nothing else.

Prefect's own policies do not fit: INPUTS alone gives two tasks with equal inputs one result, and DEFAULT holds the
run's id, so that nothing survives a killed process. Here a task names its identity, a version that is raised when its
meaning changes, and the inputs that matter; the program's version is part of every key.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext
from pydantic_core import to_jsonable_python

from saa_core import __version__


@dataclass
class ContentKey(CachePolicy):
    """Key of a task's result by content.

    Attributes:
        task: Identity of the task.
        version: Raised when the same inputs must give another result.
        inputs: Names of the parameters that the result depends on.
    """

    task: str = ""
    version: int = 1
    inputs: tuple[str, ...] = ()

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str:
        """Task, version and the SHA-256 of the program's version and the named inputs as canonical JSON."""
        named = {name: to_jsonable_python(inputs[name]) for name in self.inputs}
        content = json.dumps([__version__, named], sort_keys=True)
        return f"{self.task}-v{self.version}-{hashlib.sha256(content.encode()).hexdigest()[:32]}"
