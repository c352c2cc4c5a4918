"""Reading what others may have written: nothing in it is executed, and it cannot grow without bounds."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

MOST_NODES = 200_000
"""Of a YAML text, each alias counted as all that it stands for; the library's largest file has a hundredth of it."""


def load_yaml(text: str) -> Any:
    """The content of a YAML text: numbers, text, lists and mappings.

    Raises:
        yaml.YAMLError: It is none, holds another tag, or its aliases make it too large.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _nodes(node, {}) > MOST_NODES:
            raise yaml.YAMLError(f"its aliases stand for more than {MOST_NODES} entries")
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    finally:
        loader.dispose()


def _nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """How many nodes a node stands for; more than `MOST_NODES` if it holds itself."""
    if id(node) not in known:
        known[id(node)] = MOST_NODES + 1  # while its parts are counted
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = [each for part in parts for each in (part if isinstance(part, tuple) else (part,))]
        known[id(node)] = 1 + sum(_nodes(each, known) for each in pairs)
    return known[id(node)]


def load_arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file, which has to be as `numpy.savez` writes it: nothing pickled, nothing compressed.

    Raises:
        ValueError: It is none, is damaged, or would unpack to more than itself.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(member.file_size for member in archive.infolist()) > len(data):
                raise ValueError("it would unpack to more than itself")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return dict(arrays.items())
    except (OSError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile) as error:
        raise ValueError(str(error) or type(error).__name__) from error
