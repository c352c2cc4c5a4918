"""Which bundle a name means."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.bundles import bundle_for_product, bundles_for_classes, read_file
from integrations.catalog import Catalog
from saa_core import library
from saa_core.errors import BundleError
from saa_core.prompts import PromptBundle


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(f"sqlite:///{tmp_path / 'catalog.sqlite'}") as opened:
        yield opened


def test_nothing_means_the_champion_or_generic(catalog: Catalog) -> None:
    assert bundle_for_product(None, "cup", None, catalog) == library.load("generic")
    champion = PromptBundle(product="cup", origin="refined")
    catalog.add_bundle(champion, "champion")
    assert bundle_for_product(None, "cup", None, catalog) == champion


def test_library_id_and_profile(catalog: Catalog) -> None:
    bottle = library.load("mvtec/bottle")
    assert bundle_for_product("mvtec/bottle", "anything", None, catalog) == bottle
    catalog.add_bundle(bottle, "library")
    assert bundle_for_product(bottle.id[:6], "anything", None, catalog) == bottle
    assert bundle_for_product("mvtec/bottle", "anything", "paper", catalog).profile == "paper"


def test_file_of_one_and_of_many(catalog: Catalog, tmp_path: Path) -> None:
    one, many = tmp_path / "one.yaml", tmp_path / "many.yaml"
    one.write_text("product: cup\nlanguage: {specific: [chip]}\n")
    many.write_text("bundles: {cup: {language: {specific: [chip]}}, set/jug: {language: {specific: [dent]}}}\n")
    assert bundle_for_product(str(one), "jug", None, catalog).product == "cup"
    assert bundle_for_product(str(many), "cup", None, catalog).texts[-1] == "chip"
    assert bundle_for_product(str(many), "set/jug", None, catalog).texts[-1] == "dent"
    with pytest.raises(BundleError, match="no bundle for 'pot'; it has cup, set/jug"):
        bundle_for_product(str(many), "pot", None, catalog)


def test_classes_take_their_part_of_the_library(catalog: Catalog) -> None:
    bundle_for = bundles_for_classes("mvtec", None, ["language"], catalog)
    assert bundle_for("mvtec_ad/bottle") == library.load("mvtec/bottle").without("language")
    with pytest.raises(BundleError, match="mvtec/"):
        bundle_for("mvtec_ad/teapot")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        read_file(tmp_path / "none.yaml")


@pytest.mark.parametrize(("half", "whole"), [("bottle", "mvtec/bottle"), ("visa", "visa/candle")])
def test_half_a_library_name_says_the_whole_one(catalog: Catalog, half: str, whole: str) -> None:
    with pytest.raises(BundleError, match=whole):
        bundle_for_product(half, "cup", None, catalog)
