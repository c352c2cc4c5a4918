"""The bundles that ship, and files of bundles."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from saa_core import library
from saa_core.errors import BundleError
from saa_core.prompts import PromptBundle

CLASSES = {"ksdd2": 1, "mtd": 1, "mvtec": 15, "visa": 12}
"""Classes of each data set."""


@pytest.fixture(scope="module")
def facts(shared: Path) -> dict[str, dict[str, Any]]:
    """What the released program holds for each class, by the name of its bundle."""
    path = shared / "prompts" / "reference_prompts.yaml"
    if not path.is_file():
        pytest.skip("needs ../shared/prompts/reference_prompts.yaml, which is not part of the project")
    datasets = yaml.safe_load(path.read_text(encoding="utf-8"))["datasets"]
    return {f"{dataset}/{name}": fact for dataset, classes in datasets.items() for name, fact in classes.items()}


def captions(bundle: PromptBundle) -> list[list[str]]:
    """Phrases of each caption, in the captions' order."""
    found: dict[int | None, list[str]] = {}
    for phrase in bundle.language.specific:
        found.setdefault(phrase.caption, []).append(phrase.text)
    assert list(found) == list(range(len(found)))
    return list(found.values())


def split(caption: str) -> Iterator[str]:
    """Phrases of a caption: between the dots, those that hold words."""
    return (phrase.strip() for phrase in caption.split(".") if phrase.strip())


def test_every_class_has_the_facts_of_the_released_program(facts: dict[str, dict[str, Any]]) -> None:
    assert set(library.names()) == {"generic", *facts}
    for name, fact in facts.items():
        bundle = library.load(name)
        assert captions(bundle) == [list(split(caption)) for caption in fact["manual"]], name
        assert bundle.language.object == fact["object"].replace("_", " "), name
        assert bundle.language.background == fact["filter"], name
        assert bundle.property.objects == fact["n"], name
        assert bundle.property.area_max == fact["theta"], name
        assert bundle.confidence.top_k == fact["k"], name


def test_under_the_reference_profile_a_class_asks_for_as_many_captions(facts: dict[str, dict[str, Any]]) -> None:
    for name, fact in facts.items():
        bundle = library.load(name).with_profile("reference")
        assert 1 + len(bundle.language.agnostic) + len(captions(bundle)) == fact["passes"], name
        assert bundle.saliency.source == ("object" if fact["n"] > 1 else "image-farthest"), name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mvtec/bottle", [["broken part", "contamination", "white broken"]]),
        ("visa/capsules", [["black melt", "dark liquid"], ["bubble"]]),
        ("visa/pcb2", [["bent wire"], ["pointed"], ["wire"]]),
        ("ksdd2/ksdd2", [["black hole"], ["defect"]]),
    ],
)
def test_captions_by_hand(name: str, expected: list[list[str]]) -> None:
    assert captions(library.load(name)) == expected


def test_figures_by_hand() -> None:
    candle, capsule = library.load("visa/candle"), library.load("mvtec/capsule")
    assert (candle.property.objects, candle.property.area_max, candle.confidence.top_k) == (4, 0.3, 1)
    assert (capsule.property.objects, capsule.property.area_max, capsule.confidence.top_k) == (1, 0.6, 5)
    assert library.load("visa/pcb1").language.object == "printed circuit board"


def test_every_data_set_is_whole_and_in_order() -> None:
    names = library.names()
    assert names == sorted(names)
    assert {file: sum(name.startswith(f"{file}/") for name in names) for file in CLASSES} == CLASSES
    assert len(names) == 1 + sum(CLASSES.values())


def test_every_bundle_is_its_own_says_its_source_and_comes_back_from_yaml() -> None:
    bundles = library.all_bundles()
    assert len({bundle.id for bundle in bundles.values()}) == len(bundles)
    for name, bundle in bundles.items():
        assert bundle.product == name.split("/")[-1]
        assert bundle.profile == "batch"
        assert PromptBundle.from_yaml(bundle.to_yaml()) == bundle
        assert library.load(name) == bundle
        if name != "generic":
            assert "caoyunkang/Segment-Any-Anomaly" in bundle.origin
            assert "tuned on" in bundle.origin


def test_the_generic_bundle_holds_the_class_agnostic_phrases_alone() -> None:
    assert [phrase.text for phrase in library.load("generic").phrases] == ["anomaly", "defect"]
    assert library.load("generic").language.object is None


@pytest.mark.parametrize(
    ("name", "near"), [("bottle", "mvtec/bottle"), ("visa/candel", "visa/candle"), ("cashews", "visa/cashew")]
)
def test_an_unknown_name_is_told_the_nearest(name: str, near: str) -> None:
    with pytest.raises(BundleError, match=f"did you mean .*'{near}'") as caught:
        library.load(name)
    assert caught.value.name == name


def test_even_a_name_like_no_other_is_told_some() -> None:
    with pytest.raises(BundleError, match=r"did you mean '.+' or '.+' or '.+'\?"):
        library.load("0")


# ------------------------------------------------------------------------------------------------------- a user's files

SHORT = 'bundles: {mvtec_ad/bottle: {language: {object: bottle, specific: ["broken glass", "contamination"]}}}'


def test_the_shortest_form() -> None:
    (name, bundle), *rest = library.read_bundles(SHORT, "my.yaml").items()
    assert not rest
    assert name == bundle.product == "mvtec_ad/bottle"
    assert bundle.language.object == "bottle"
    assert [phrase.text for phrase in bundle.phrases] == ["anomaly", "defect", "broken glass", "contamination"]
    assert bundle.origin == ""
    assert bundle.profile == "batch"


def test_json_is_read_as_well() -> None:
    content = yaml.safe_load(SHORT)
    for indent in (None, 2, "\t"):
        text = json.dumps(content, indent=indent)
        assert library.read_bundles(text, "my.json") == library.read_bundles(SHORT, "my.yaml")


def test_source_and_key_are_defaults() -> None:
    text = "{source: a hunch, bundles: {a: {product: can, origin: measured}, b: , 3: {}}}"
    found = library.read_bundles(text, "my.yaml")
    assert [(key, bundle.product, bundle.origin) for key, bundle in found.items()] == [
        ("a", "can", "measured"),
        ("b", "b", "a hunch"),
        ("3", "3", "a hunch"),
    ]


def test_a_file_of_one_bundle() -> None:
    bundle = library.load("mvtec/bottle")
    assert library.read_bundles(bundle.to_yaml(), "my.yaml") == {"bottle": bundle}


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("bundels: {}", "my.yaml", "unknown key 'bundels', did you mean 'bundles'?"),
        ("{bundles: {}, sorce: x}", "my.yaml", "unknown key 'sorce', did you mean 'source'?"),
        ("prodct: x", "my.yaml", "unknown key 'prodct', did you mean 'product'?"),
        ("language: {}", "my.yaml", "product: Field required"),
        ("bundles: {a: {lnguage: 2}}", "my.yaml, bundles.a", "unknown key 'lnguage', did you mean 'language'?"),
        ("bundles: {a: [1]}", "my.yaml, bundles.a", "valid dictionary"),
        ("bundles: [a]", "my.yaml", "not a mapping"),
        ("[a]", "my.yaml", "holds no bundle"),
        ("", "my.yaml", "holds no bundle"),
        ("{a", "my.yaml", "neither YAML nor JSON"),
        ("{source: [1], bundles: {a: {}}}", "my.yaml, bundles.a", "origin: Input should be a valid string"),
    ],
)
def test_errors_name_the_file_and_the_class(text: str, name: str, said: str) -> None:
    with pytest.raises(BundleError) as caught:
        library.read_bundles(text, "my.yaml")
    assert caught.value.name == name
    assert said in caught.value.reason
