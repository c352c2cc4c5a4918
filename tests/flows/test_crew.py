"""How a crew cuts its images into batches, with a runner that tells how long each took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.states import Completed

from flows.crew import Crew, worthwhile
from flows.runners import Workers
from saa_core.types import ImageRef


@dataclass
class Scripted:
    """A runner whose tasks take so many seconds an image, and those of some images end their worker."""

    seconds: float
    deadly: frozenset[str] = frozenset()
    sent: list[list[str]] = field(default_factory=list)

    def submit(self, task: object, parameters: Mapping[str, Any]) -> _Future:
        self.sent.append(parameters["names"])
        return _Future(self, parameters["names"])


@dataclass
class _Future:
    runner: Scripted
    names: list[str]
    state = Completed()

    def result(self) -> dict[str, Any]:
        if self.runner.deadly & set(self.names):
            raise ConnectionError
        return {"seconds": self.runner.seconds * len(self.names)}


def refs(count: int) -> list[ImageRef]:
    return [ImageRef(f"{number:064}", "", (str(number),), None) for number in range(count)]


def names(images: Sequence[ImageRef]) -> dict[str, list[str]]:
    return {"names": [image.names[0] for image in images]}


def work(runner: Scripted, count: int, workers: int = 2, batch: int | None = None) -> dict[str, bool]:
    """Whether each image was done, in the order of the crew's answers."""
    kind = Workers(lambda: nullcontext(runner), lambda _: workers, deaths=(ConnectionError,))  # type: ignore[arg-type, return-value]
    with Crew(kind, batch) as crew:
        done = list(crew.each(None, refs(count), names))  # type: ignore[arg-type]
    return {ref.names[0]: each.outcome is not None for each in done for ref in each.refs}


@given(st.integers(0, 300), st.integers(1, 5), st.floats(0.001, 20))
def test_every_image_is_sent_once(count: int, workers: int, seconds: float) -> None:
    runner = Scripted(seconds)
    assert work(runner, count, workers) == dict.fromkeys(map(str, range(count)), True)
    assert [name for sent in runner.sent for name in sent] == [str(number) for number in range(count)]


@pytest.mark.parametrize("seconds", [0.02, 0.3, 2.0, 9.0])
def test_batches_become_as_large_as_is_worth_it(seconds: float) -> None:
    runner = Scripted(seconds)
    work(runner, 2000)
    sizes = [len(sent) for sent in runner.sent]
    assert sizes[:4] == [16] * 4  # before the first is measured
    assert max(sizes[4:]) == worthwhile(seconds, 11.5)
    assert sizes[4:] == sorted(sizes[4:], reverse=True)  # the last ones are shared out
    assert abs(sizes[-1] - sizes[-2]) <= 4


def test_a_size_that_is_set_is_kept() -> None:
    runner = Scripted(0.001)
    work(runner, 20, batch=3)
    assert [len(sent) for sent in runner.sent] == [3] * 6 + [2]


@given(st.sets(st.integers(0, 59), max_size=4))
def test_images_that_kill_are_found_and_no_other_is_blamed(deadly: set[int]) -> None:
    runner = Scripted(1.0, frozenset(map(str, deadly)))
    found = work(runner, 60)
    assert {int(name) for name, done in found.items() if not done} == deadly
    assert len(found) == 60
