"""The labeling configuration: made for a bundle, and merged into what a project has."""

from collections.abc import Iterator
from typing import Any, get_args
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from label_studio_sdk.label_interface import LabelInterface

from integrations.label_studio.labeling_config import Merged, build, labels_in, merge
from integrations.labels import GENERIC, label_of, labels_of
from saa_core.errors import ServiceError
from saa_core.prompts import PromptBundle
from saa_core.reviews import Verdict

WORDS = st.text(max_size=40)
ODD = [
    "a < b & c > \"d\" 'e'",
    "]]>",
    "<!-- x -->",
    "&amp;",
    "Kratzer ä ß",
    "傷 ひび",
    "🙂 crack",
    "x" * 200,
    "a\tb\nc",
    "Crack",
]


@st.composite
def label_lists(draw: st.DrawFn) -> tuple[str, ...]:
    """Labels as bundles give them: any text that XML can hold, with few letters, so that some differ by case alone."""
    phrases = draw(st.lists(st.one_of(WORDS, st.text("aAbB <&", min_size=1), st.sampled_from(ODD)), max_size=6))
    usable = [phrase.replace(".", "") for phrase in phrases]
    return labels_of(bundle(*(phrase for phrase in usable if phrase.strip())))


def bundle(*specific: str) -> PromptBundle:
    return PromptBundle(product="bottle", language={"specific": list(specific)})  # type: ignore[arg-type]


def controls(xml: str) -> dict[str, ElementTree.Element]:
    return {
        element.attrib["name"]: element for element in ElementTree.fromstring(xml).iter() if "name" in element.attrib
    }


def attributes(xml: str, tag: str, attribute: str) -> list[str | None]:
    return [element.get(attribute) for element in ElementTree.fromstring(xml).iter(tag)]


# --------------------------------------------------------------------------------------------------------------- labels


def test_a_specific_phrase_is_its_own_label_and_every_other_the_generic_one() -> None:
    words = bundle("broken glass", "crack")
    assert labels_of(words) == ("broken glass", "crack", GENERIC)
    assert [label_of(phrase, words) for phrase in ("crack", "anomaly", "defect", "no such")] == [
        "crack",
        *[GENERIC] * 3,
    ]


def test_a_bundle_without_specific_phrases_has_the_generic_label() -> None:
    assert labels_of(bundle()) == (GENERIC,)


def test_a_specific_phrase_that_is_the_generic_word_is_one_label() -> None:
    words = bundle("defect", "crack", "crack")
    assert labels_of(words) == ("crack", GENERIC)
    assert label_of("defect", words) == GENERIC


def test_words_that_xml_cannot_hold_become_labels_that_it_can() -> None:
    words = bundle("thin\0 \x0b crack", "tab\tand\nline", "\x01\ufffe")
    assert labels_of(words) == ("thin crack", "tab and line", GENERIC)
    assert label_of("tab\tand\nline", words) == "tab and line"
    assert label_of("\x01\ufffe", words) == GENERIC


@given(st.lists(st.text(min_size=1, max_size=30).map(lambda t: t.replace(".", "")).filter(str.strip), max_size=8))
def test_every_phrase_has_a_label_that_the_configuration_holds(phrases: list[str]) -> None:
    words = bundle(*phrases)
    labels = labels_of(words)
    assert {label_of(text, words) for text in words.texts} <= set(labels)
    assert len(set(labels)) == len(labels)
    assert labels_in(build(labels)) == labels


# ---------------------------------------------------------------------------------------------------------------- build


def test_a_new_configuration_has_all_that_an_expert_needs() -> None:
    xml = build(("crack", GENERIC))
    found = controls(xml)
    assert {name: element.tag for name, element in found.items()} == {
        "image": "Image",
        "mask": "BrushLabels",
        "why": "TextArea",
        "verdict": "Choices",
    }
    assert found["image"].get("value") == "$image"
    assert {element.get("toName") for name, element in found.items() if name != "image"} == {"image"}
    assert found["why"].get("perRegion") == "true"
    assert attributes(xml, "Header", "value") == ["$title"]
    assert tuple(attributes(xml, "Choice", "value")) == get_args(Verdict)
    assert attributes(xml, "Label", "hotkey") == ["1", "2"]


def test_hundreds_of_labels_have_a_colour_each_and_the_first_nine_a_key() -> None:
    xml = build([f"kind {number}" for number in range(300)])
    assert len(set(attributes(xml, "Label", "background"))) == 300
    assert attributes(xml, "Label", "hotkey")[:10] == [*"123456789", None]


@given(label_lists())
def test_the_sdk_takes_every_configuration(labels: tuple[str, ...]) -> None:
    interface = LabelInterface(build(labels))
    interface.validate()
    assert tuple(interface.get_control("mask").labels) == labels
    assert interface.get_control("mask").to_name == ["image"]
    assert interface.get_object("image").value_name == "image"
    assert tuple(interface.get_control("verdict").labels) == get_args(Verdict)


def test_the_sdk_takes_predictions_for_it() -> None:
    interface = LabelInterface(build(("crack", GENERIC)))
    assert interface.validate_prediction({"model_version": "v", "result": [region("crack")]})
    assert not interface.validate_prediction({"model_version": "v", "result": [region("no such label")]})


def region(label: str) -> dict[str, Any]:
    return {
        "id": "r1",
        "from_name": "mask",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": 4,
        "original_height": 4,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": [0, 1], "brushlabels": [label]},
    }


# ---------------------------------------------------------------------------------------------------------------- merge

BY_HAND = """<View>
  <!-- Anna: keep the style, it is for the wall screen -->
  <Style>.lsf-main > div { color: red; }</Style>
  <View className="left"><Image value="$image" name="image" zoom="false"/>
    <BrushLabels toName="image" name="mask"><Label value="scratch" background="#FF0000" hotkey="1"/>
      <Label value="Long name" alias="stain"/></BrushLabels></View>
  <TextArea name="why" toName="image" perRegion="true"/>
  <Choices name="verdict" toName="image">
    <Choice value="good"/><Choice value="defective"/><Choice value="unsure"/></Choices>
  <Rating name="stars" toName="image" hotkey="2"/>
</View>"""


def test_nothing_to_add_leaves_the_configuration_to_the_letter() -> None:
    assert merge(BY_HAND, ("scratch", "stain")) == Merged(BY_HAND, (), (), (), False)


def test_labels_are_added_and_nothing_else_is_touched() -> None:
    merged = merge(BY_HAND, ("crack", "scratch"))
    assert (merged.added, merged.kept, merged.restored, merged.changed) == (("crack",), ("stain",), (), True)
    assert labels_in(merged.xml) == ("scratch", "stain", "crack")
    assert "<!-- Anna: keep the style, it is for the wall screen -->" in merged.xml
    before, after = controls(BY_HAND), controls(merged.xml)
    assert {name: element.attrib for name, element in before.items()} == {n: e.attrib for n, e in after.items()}
    style = ElementTree.fromstring(merged.xml).find("Style")
    assert style is not None
    assert style.text == ".lsf-main > div { color: red; }"
    # Keys and colours that are taken stay with who has them.
    assert attributes(merged.xml, "Label", "hotkey") == ["1", None, "3"]


def test_controls_that_were_removed_come_back() -> None:
    bare = '<View><Image name="image" value="$image"/><BrushLabels name="mask" toName="image"/></View>'
    merged = merge(bare, (GENERIC,))
    assert merged.restored == ("why", "verdict")
    assert merged.added == (GENERIC,)
    found = controls(merged.xml)
    assert (found["why"].tag, found["verdict"].tag) == ("TextArea", "Choices")
    assert tuple(attributes(merged.xml, "Choice", "value")) == get_args(Verdict)


def test_choices_that_were_removed_come_back() -> None:
    merged = merge(BY_HAND.replace('<Choice value="defective"/>', '<Choice value="ask Anna"/>'), ("scratch", "stain"))
    assert (merged.restored, merged.added, merged.changed) == (("verdict defective",), (), True)
    assert attributes(merged.xml, "Choice", "value") == ["good", "ask Anna", "unsure", "defective"]


@given(label_lists(), label_lists())
@example(("Crack", GENERIC), ("crack", "CRACK", GENERIC))
def test_merging_loses_no_label_and_no_control(first: tuple[str, ...], second: tuple[str, ...]) -> None:
    before = build(first)
    merged = merge(before, second)
    assert labels_in(merged.xml) == (*first, *merged.added)
    assert set(merged.added) == set(second) - set(first)
    assert set(merged.kept) == set(first) - set(second)
    assert {name: element.attrib for name, element in controls(before).items()} == {
        name: element.attrib for name, element in controls(merged.xml).items()
    }
    LabelInterface(merged.xml).validate()


@given(label_lists(), label_lists())
def test_merging_twice_changes_nothing(first: tuple[str, ...], second: tuple[str, ...]) -> None:
    once = merge(build(first), second)
    assert once.changed == bool(once.added)
    assert merge(once.xml, second) == Merged(once.xml, (), once.kept, (), False)


@given(label_lists(), label_lists())
def test_merged_labels_have_colours_and_keys_of_their_own(first: tuple[str, ...], second: tuple[str, ...]) -> None:
    xml = merge(build(first), second).xml
    colours = attributes(xml, "Label", "background")
    keys = [key for key in attributes(xml, "Label", "hotkey") if key]
    assert len(set(colours)) == len(colours)
    assert len(set(keys)) == len(keys) == min(9, len(colours))


# ------------------------------------------------------------------------------------------------ changed beyond repair

GOOD = build((GENERIC,))


def spoiled() -> Iterator[Any]:
    image, mask = '<Image name="image" value="$image">', '<BrushLabels name="mask" toName="image">'
    for what, old, new, there, wanted in (
        ("brush renamed", 'name="mask"', 'name="brush"', "it has no control named 'mask'", mask),
        ("brush replaced", "BrushLabels", "PolygonLabels", '<PolygonLabels name="mask" toName="image">', mask),
        ("brush elsewhere", 'name="mask" toName="image"', 'name="mask" toName="photo"', 'toName="photo"', mask),
        ("image renamed", '<Image name="image"', '<Image name="photo"', "it has no control named 'image'", image),
        ("other field", "$image", "$photo", '<Image name="image" value="$photo">', image),
        (
            "verdict is text",
            "Choices",
            "TextArea",
            '<TextArea name="verdict"',
            '<Choices name="verdict" toName="image">',
        ),
        ("words are a rating", "TextArea", "Rating", '<Rating name="why"', '<TextArea name="why" toName="image">'),
    ):
        yield pytest.param(GOOD.replace(old, new), there, wanted, id=what)


@pytest.mark.parametrize(("xml", "there", "wanted"), list(spoiled()))
def test_a_control_that_was_changed_by_hand_is_said_with_what_to_put_back(xml: str, there: str, wanted: str) -> None:
    with pytest.raises(ServiceError) as caught:
        merge(xml, (GENERIC,))
    assert there in str(caught.value)
    assert f"masks need {wanted}; put it back under Settings > Labeling Interface" in str(caught.value)


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "<View>",
        "no xml",
        '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><View>&b;</View>',
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><View>&a;</View>',
    ],
)
def test_what_is_no_xml_or_a_trap_is_said(xml: str) -> None:
    for call in (lambda: merge(xml, (GENERIC,)), lambda: labels_in(xml)):
        with pytest.raises(ServiceError, match="not XML that can be used"):
            call()


def test_an_empty_project_is_said_with_what_it_lacks() -> None:
    with pytest.raises(ServiceError, match="it has no control named 'image'"):
        merge("<View></View>", (GENERIC,))  # what Label Studio gives a project made by hand
