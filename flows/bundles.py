"""Which bundle a verb means: a file, a name of the library, an id of the catalog, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from integrations.catalog import Catalog
from integrations.settings import Settings
from saa_core import library
from saa_core.errors import BundleError
from saa_core.prompts import Profile, Prompt, PromptBundle

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
    elif "/" in name or name in library.names():
        found = library.load(name)
    else:
        _refuse_half_a_name(name)
        found = catalog.bundle(name)
    return found if profile is None else found.with_profile(profile)


def bundles_for_classes(
    name: str | None, profile: Profile | None, without: Sequence[Prompt], catalog: Catalog
) -> Callable[[str], PromptBundle]:
    """The bundle of each class of a data set, by its name such as mvtec_ad/bottle.

    A part of the library, such as mvtec, gives each class the bundle of that name; so does a file of many bundles.
    """
    parts = {known.partition("/")[0] for known in library.names() if "/" in known}

    def bundle_for(class_name: str) -> PromptBundle:
        chosen = f"{name}/{class_name.rpartition('/')[2]}" if name in parts else name
        return bundle_for_product(chosen, class_name, profile, catalog).without(*without)

    return bundle_for


def catalog_to_read(settings: Settings) -> Catalog:
    """The workspace's catalog, or an empty one in memory where there is no workspace: looking makes no folder."""
    return Catalog(settings.catalog_url if settings.has_catalog else "sqlite://")


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


def _refuse_half_a_name(name: str) -> None:
    """A class or a part of the library alone is no bundle: say which whole names it may mean."""
    meant = [known for known in library.names() if name in known.split("/")]
    if meant:
        raise BundleError(name, f"not a bundle by itself; did you mean {' or '.join(meant[:3])}?")


def _pick(found: dict[str, PromptBundle], product: str, name: str) -> PromptBundle:
    if len(found) == 1:
        return next(iter(found.values()))
    for key in (product, product.rpartition("/")[2]):
        if key in found:
            return found[key]
    raise BundleError(name, f"holds no bundle for {product!r}; it has {', '.join(sorted(found))}")
