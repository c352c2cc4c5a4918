"""A crew of workers takes the images of a run in batches. One that dies costs what it was at; what kills it is found.

Batches are cut while a step goes on, so large that orchestration is a fiftieth of their work. It does not matter to
results which images share one: what batches compute is stored by image, and so is what was done when a worker died.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from prefect import Task
from prefect.futures import PrefectFuture

from flows.runners import Runner, Workers
from saa_core.types import ImageRef

KILLER = "the process that looked at it died, each time and at last with no other image: out of memory, or a crash"
"""Why an image is set aside of which no outcome came."""

_FIRST, _FEWEST, _MOST = 16, 4, 256
"""Images of a step's first batches, and the limits of all others."""
_AHEAD = 2
"""Batches for each worker: one that it works on and one that waits."""

Parameters = Callable[[Sequence[ImageRef]], Mapping[str, Any]]
"""What a task is told of a batch; the batch's number is added."""


class Outcome(Protocol):
    """What every task on a batch returns, among other things: the seconds that it took."""

    def __getitem__(self, key: str, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Done:
    """A batch that is done.

    Attributes:
        refs: Its images.
        outcome: What the task returned; None if it is one image that killed its worker.
        cached: Whether the outcome is of an earlier run.
    """

    refs: Sequence[ImageRef]
    outcome: Outcome | None = None
    cached: bool = False


_Sent = tuple[Sequence[ImageRef], PrefectFuture[Any]]


class Crew:
    """Workers, started for as long as it is entered.

    Args:
        workers: Their kind.
        batch_size: Images of a batch; None measures what is worth it.
    """

    def __init__(self, workers: Workers, batch_size: int | None) -> None:
        self._workers, self._fixed = workers, batch_size
        self._size = batch_size or _FIRST
        self._started = ExitStack()
        self._number = 0

    def __enter__(self) -> Self:
        self._runner: Runner = self._started.enter_context(self._workers.runner())
        self._count = self._workers.count(self._runner)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._started.close()

    def each(self, task: Task[Any, Any], refs: Iterable[ImageRef], parameters: Parameters) -> Iterator[Done]:
        """Do a task for all images.

        Args:
            task: Takes `batch`, the batch's number, and what `parameters` gives; an `Outcome` comes back.
            refs: The images.
            parameters: What it is told of some images.

        Yields:
            Each batch when it is done; an image that kills workers alone.
        """
        rest, flying = deque(refs), deque[_Sent]()
        self._number, self._size = 0, self._fixed or _FIRST
        while rest or flying:
            while rest and len(flying) < _AHEAD * self._count:
                flying.append(self._send(task, self._cut(rest), parameters))
            done = self._wait(flying.popleft())
            yield from [done] if done.outcome else self._found(task, done, flying, parameters)

    def _found(self, task: Task[Any, Any], lost: Done, flying: deque[_Sent], parameters: Parameters) -> Iterator[Done]:
        """A worker died: let the others end, then try what was lost while nothing else runs and can be blamed."""
        lost_too = []
        while flying:
            done = self._wait(flying.popleft())
            if done.outcome:
                yield done
            else:
                lost_too.append(done)
        self._replace()
        for suspect in (lost, *lost_too):
            yield from self._alone(task, suspect.refs, parameters)

    def _alone(self, task: Task[Any, Any], refs: Sequence[ImageRef], parameters: Parameters) -> Iterator[Done]:
        done = self._wait(self._send(task, refs, parameters))
        if not done.outcome:
            self._replace()
        if done.outcome or len(refs) == 1:
            yield done
            return
        for half in (refs[: len(refs) // 2], refs[len(refs) // 2 :]):
            yield from self._alone(task, half, parameters)

    def _send(self, task: Task[Any, Any], refs: Sequence[ImageRef], parameters: Parameters) -> _Sent:
        told = {"batch": self._number, **parameters(refs)}
        self._number += 1
        with self._workers.lease():
            return refs, self._runner.submit(task, parameters=told)

    def _wait(self, sent: _Sent) -> Done:
        refs, future = sent
        try:
            outcome: Outcome = future.result()
        except self._workers.deaths:
            return Done(refs)
        if self._fixed is None:
            self._size = worthwhile(outcome["seconds"] / len(refs), self._workers.worth)
        return Done(refs, outcome, future.state.name == "Cached")

    def _cut(self, rest: deque[ImageRef]) -> list[ImageRef]:
        # The last ones are shared out, so that no worker waits for another.
        fair = max(_FEWEST, math.ceil(len(rest) / self._count))
        size = self._size if self._fixed else min(self._size, fair)
        return [rest.popleft() for _ in range(min(size, len(rest)))]

    def _replace(self) -> None:
        if self._workers.die_together:
            self._started.close()
            self._runner = self._started.enter_context(self._workers.runner())


def worthwhile(seconds: float, worth: float) -> int:
    """Images of a batch.

    Args:
        seconds: Of work that an image takes.
        worth: Seconds of work that make a task worth its orchestration.
    """
    return min(max(math.ceil(worth / seconds) if seconds * _MOST > worth else _MOST, _FEWEST), _MOST)
