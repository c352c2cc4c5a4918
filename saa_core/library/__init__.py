"""The bundles that ship with the program, and files of bundles in the same form.

A library file holds many bundles: `source`, in words, says where their figures come from, and `bundles` maps a class to
its bundle. A class is its bundle's product, and the source its origin, unless the bundle states its own.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from saa_core.errors import BundleError
from saa_core.prompts import PromptBundle, nearest, parse

_FILES = ("generic", "ksdd2", "mtd", "mvtec", "visa")
_LIBRARY_KEYS = ("source", "bundles")


def names() -> list[str]:
    """Names of all bundles that ship, sorted: `generic`, and `<file>/<class>` such as `mvtec/bottle`."""
    return sorted(all_bundles())


def load(name: str) -> PromptBundle:
    """The bundle that ships under `name`.

    Raises:
        BundleError: There is none; the nearest names are given.
    """
    known = all_bundles()
    if name not in known:
        near = " or ".join(map(repr, difflib.get_close_matches(name, known, n=3, cutoff=0.0)))
        raise BundleError(name, f"no such bundle in the library, did you mean {near}?")
    return known[name]


def all_bundles() -> dict[str, PromptBundle]:
    """Every bundle that ships, by name."""
    return {name: bundle for file in _FILES for name, bundle in _shipped(file).items()}


def read_bundles(text: str, name: str) -> dict[str, PromptBundle]:
    """Read a file of one bundle or of many.

    The shortest form of many: ``bundles: {bottle: {language: {specific: [broken glass, contamination]}}}``.

    Args:
        text: YAML or JSON: one bundle, or a library file.
        name: What the user calls the file, for errors.

    Returns:
        The bundles by class, for one bundle by product.

    Raises:
        BundleError: The text is neither YAML nor JSON, a key is unknown (the nearest known one is named) or a value is
            bad.
    """
    content = parse(text, name)
    if not isinstance(content, Mapping):
        raise BundleError(name, "holds no bundle: expected one, or `bundles:` with one for each class")
    if "bundles" in content:
        return _many(content, name)
    _check_keys(content, [*PromptBundle.model_fields, *_LIBRARY_KEYS], name)
    bundle = PromptBundle.from_content(content, name)
    return {bundle.product: bundle}


def _many(content: Mapping[Any, Any], name: str) -> dict[str, PromptBundle]:
    _check_keys(content, _LIBRARY_KEYS, name)
    bundles = content["bundles"]
    if not isinstance(bundles, Mapping):
        raise BundleError(name, "`bundles` is not a mapping from class to bundle")
    shared = {"origin": content["source"]} if "source" in content else {}
    return {str(key): _one(str(key), bundle, shared, name) for key, bundle in bundles.items()}


def _one(key: str, content: object, shared: dict[str, object], name: str) -> PromptBundle:
    """A class without content is its name alone, hence the class-agnostic bundle."""
    stated = {} if content is None else content
    filled = {"product": key, **shared, **stated} if isinstance(stated, Mapping) else stated
    return PromptBundle.from_content(filled, f"{name}, bundles.{key}")


def _check_keys(content: Mapping[Any, Any], known: Collection[str], name: str) -> None:
    for key in map(str, content):
        if key not in known:
            raise BundleError(name, f"unknown key {key!r}, did you mean {nearest(key, known)!r}?")


@cache
def _shipped(file: str) -> dict[str, PromptBundle]:
    text = files(__name__).joinpath(f"{file}.yaml").read_text(encoding="utf-8")
    bundles = read_bundles(text, f"{file}.yaml")
    return {key if key == file == "generic" else f"{file}/{key}": bundle for key, bundle in bundles.items()}
