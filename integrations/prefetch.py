"""Read ahead: the next image of a list is decoded while something else looks at this one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from saa_core.types import RGB, ImageRef


class Prefetch:
    """Images of a list, one ahead of whoever asks for them in order; in another order they are decoded when asked for.

    Args:
        decode: Gives the pixels of an image, or raises.
        refs: The images in the order in which they will be asked for.
    """

    def __init__(self, decode: Callable[[ImageRef], RGB], refs: Sequence[ImageRef]) -> None:
        self._decode, self._refs = decode, list(refs)
        self._pool = ThreadPoolExecutor(1)
        self._next: tuple[str, Future[RGB]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __call__(self, ref: ImageRef) -> RGB:
        """The pixels of an image; raises what decoding it raises."""
        ready, self._next = self._next, None
        image = ready[1].result() if ready is not None and ready[0] == ref.key else self._decode(ref)
        place = next((number for number, each in enumerate(self._refs) if each.key == ref.key), len(self._refs))
        following = self._refs[place + 1 : place + 2]
        if following:
            self._next = following[0].key, self._pool.submit(self._decode, following[0])
        return image
