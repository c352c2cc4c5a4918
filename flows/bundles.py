"""Which bundle a verb means: a file, a name of the library, an id of the catalog, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from integrations.catalog import Catalog
from saa_core import library
from saa_core.errors import BundleError
from saa_core.prompts import Profile, PromptBundle

_SUFFIXES = {".yaml", ".yml", ".json"}


def bundle_for_product(name: str | None, product: str, profile: Profile | None, catalog: Catalog) -> PromptBundle:
    """The bundle to label a product with.

    Args:
        name: What the user gave; None is the product's champion, or the generic bundle where it has none.
        product: The product, which picks the bundle from a file that holds several.
        profile: Profile to put it under; None keeps its own.
        catalog: Where ids and champions are known.

    Raises:
        BundleError: No such bundle; the nearest names are in the message.
    """
    if name is None:
        found = catalog.champion(product) or library.load("generic")
    elif is_file(name):
        found = _pick(read_file(Path(name)), product, name)
    elif name in library.names():
        found = library.load(name)
    else:
        found = catalog.bundle(name)
    return found if profile is None else found.with_profile(profile)


def bundles_for_classes(
    name: str | None, profile: Profile | None, without: list[str], catalog: Catalog
) -> Callable[[str], PromptBundle]:
    """The bundle of each class of a data set; a library name without a class, such as mvtec, picks by class name."""

    def bundle_for(class_name: str) -> PromptBundle:
        short = class_name.rpartition("/")[2]
        given = f"{name}/{short}" if name in {known.partition("/")[0] for known in library.names() if "/" in known} else name
        key = class_name if given is not None and is_file(given) else short
        return bundle_for_product(given, key, profile, catalog).without(*without)  # type: ignore[arg-type]

    return bundle_for


def is_file(name: str) -> bool:
    """Whether a bundle's name is meant as a file."""
    return Path(name).suffix.lower() in _SUFFIXES or Path(name).is_file()


def read_file(path: Path) -> dict[str, PromptBundle]:
    """Every bundle of a file, by product.

    Raises:
        BundleError: The file cannot be read, or holds no bundle.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(str(path), f"cannot be read: {error}") from error
    return library.read_bundles(text, str(path))


def _pick(found: dict[str, PromptBundle], product: str, name: str) -> PromptBundle:
    if len(found) == 1:
        return next(iter(found.values()))
    for key in (product, product.rpartition("/")[2]):
        if key in found:
            return found[key]
    raise BundleError(name, f"holds no bundle for {product!r}; it has {', '.join(sorted(found))}")
