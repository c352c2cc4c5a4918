"""The cache key of a task: content, task and version, and nothing else."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tasks.caching import ContentKey

POLICY = ContentKey(task="look", version=2, inputs=("keys", "models"))


def key(policy: ContentKey = POLICY, **inputs: Any) -> str:
    # The key asks nothing of the run's context, which is the point of it.
    return policy.compute_key(None, inputs, {})  # type: ignore[arg-type]


def test_names_task_and_version() -> None:
    assert key(keys=["a"], models="m").startswith("look-v2-")


def test_other_inputs_do_not_matter() -> None:
    assert key(keys=["a"], models="m", batch=1) == key(keys=["a"], models="m", batch=7, refs=object())


def test_another_task_with_the_same_inputs_is_another_key() -> None:
    other = ContentKey(task="leap", version=2, inputs=("keys", "models"))
    assert key(keys=["a"], models="m").split("-")[-1] == key(other, keys=["a"], models="m").split("-")[-1]
    assert key(keys=["a"], models="m") != key(other, keys=["a"], models="m")


@given(st.lists(st.text()), st.lists(st.text()))
def test_keys_differ_when_inputs_do(first: list[str], second: list[str]) -> None:
    assert (key(keys=first, models="m") == key(keys=second, models="m")) == (first == second)
