"""The project's labeling configuration: made from a bundle's words, later only ever added to.

Format: https://labelstud.io/tags (label-studio 1.23). The expert's screen has the image, a brush with a label per kind
of defect, a line of the expert's own words per region and a verdict on the whole image. Annotations refer to controls
and labels by name, so whatever a project's configuration has stays.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from saa_core.errors import ServiceError
from saa_core.reviews import Verdict

_NAME = "labeling configuration"
_HOTKEYS = "123456789"

_IMAGE = {"name": "image", "value": "$image"}
_MASK = {"name": "mask", "toName": "image"}
_WORDS = {"name": "why", "toName": "image"}
_VERDICT = {"name": "verdict", "toName": "image"}
_LOOK: Mapping[str, Mapping[str, str]] = {
    "image": {
        "zoom": "true",
        "zoomControl": "true",
        "brightnessControl": "true",
        "contrastControl": "true",
        # The editor's own limits leave no room for the controls above and the tools beside the picture.
        "maxHeight": "calc(100vh - 320px)",
        "maxWidth": "calc(100% - 42px)",
    },
    "mask": {},
    "why": {
        "perRegion": "true",
        "editable": "true",
        "displayMode": "region-list",
        "placeholder": "what is it, in your words",
    },
    "verdict": {"choice": "single", "showInline": "true"},
}


@dataclass(frozen=True, slots=True)
class Merged:
    """A project's configuration with all that a bundle needs.

    Attributes:
        xml: The configuration; the project's own, to the letter, if nothing had to be added.
        added: Labels that were not there.
        kept: Labels that are there and that the bundle does not use.
        restored: Controls that were missing and are back.
        changed: Whether `xml` differs from the project's own.
    """

    xml: str
    added: tuple[str, ...]
    kept: tuple[str, ...]
    restored: tuple[str, ...]
    changed: bool


def build(labels: Sequence[str]) -> str:
    """The configuration of a new project.

    Args:
        labels: As `integrations.labels.labels_of` gives them.
    """
    root = Element("View")
    root.append(Element("Header", {"value": "$title"}))
    mask = _control("BrushLabels", _MASK)
    root.append(mask)
    _add_labels(mask, labels, ())
    _restore(root)
    # Last: what stands below a picture of any height is below the screen's edge.
    root.append(_control("Image", _IMAGE))
    return _text(root)


def merge(current_xml: str, labels: Sequence[str]) -> Merged:
    """A project's configuration with the labels and controls that it lacks; nothing is taken away or renamed.

    Args:
        current_xml: The configuration as the project has it.
        labels: As `integrations.labels.labels_of` gives them.

    Raises:
        ServiceError: The configuration is no XML, or lacks what masks hang on: its image or its brush was removed,
            renamed or pointed elsewhere. The message says what to put back.
    """
    root = _parsed(current_xml)
    _require(root, "Image", _IMAGE)
    mask = _require(root, "BrushLabels", _MASK)
    present = tuple(_labels(mask))
    added = tuple(dict.fromkeys(label for label in labels if label not in present))
    _add_labels(mask, added, _elements(root))
    restored = _restore(root)
    changed = bool(added or restored)
    kept = tuple(label for label in present if label not in labels)
    return Merged(_text(root) if changed else current_xml, added, kept, restored, changed)


def labels_in(xml: str) -> tuple[str, ...]:
    """The labels of the brush, in order, as annotations name them.

    Raises:
        ServiceError: As `merge`.
    """
    return tuple(_labels(_require(_parsed(xml), "BrushLabels", _MASK)))


def _parsed(xml: str) -> Element:
    # A comment may be the only note of why a project is as it is.
    parser = DefusedXMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    try:
        parser.feed(xml)
        root: Element = parser.close()
    except (ElementTree.ParseError, DefusedXmlException) as error:
        raise ServiceError(_NAME, f"not XML that can be used ({error}); repair it in the project's settings") from None
    return root


def _elements(root: Element) -> tuple[Element, ...]:
    """All of them but the comments."""
    return tuple(element for element in root.iter() if isinstance(element.tag, str))


def _labels(control: Element) -> Iterator[str]:
    for label in control.iter("Label"):
        name = label.get("alias") or label.get("value")
        if name:
            yield name


def _require(root: Element, tag: str, attributes: Mapping[str, str]) -> Element:
    found = _named(root, attributes["name"])
    if found is None or found.tag != tag or any(found.get(key) != value for key, value in attributes.items()):
        there = f"it has {_opening(found)}" if found is not None else f"it has no control named {attributes['name']!r}"
        wanted = _opening(Element(tag, dict(attributes)))
        raise ServiceError(
            _NAME, f"{there}, but masks need {wanted}; put it back under Settings > Labeling Interface, then push again"
        )
    return found


def _named(root: Element, name: str) -> Element | None:
    return next((element for element in _elements(root) if element.get("name") == name), None)


def _opening(element: Element) -> str:
    shown = (f' {key}="{value}"' for key, value in element.attrib.items() if key in ("name", "toName", "value"))
    return f"<{element.tag}{''.join(shown)}>"


def _control(tag: str, attributes: Mapping[str, str]) -> Element:
    return Element(tag, {**attributes, **_LOOK[attributes["name"]]})


def _add_labels(mask: Element, labels: Iterable[str], others: Iterable[Element]) -> None:
    others = tuple(others)
    hotkeys = (key for key in _HOTKEYS if all(element.get("hotkey") != key for element in others))
    taken = {element.get("background") for element in others}
    colours = (colour for colour in _colours() if colour not in taken)
    for label in labels:
        look = {"background": next(colours)}
        key = next(hotkeys, None)
        mask.append(Element("Label", {"value": label, **look, **({"hotkey": key} if key else {})}))


def _colours() -> Iterator[str]:
    """Colours without end, each far from those before it: hues a golden section apart, three lots of brightness."""
    for number in range(2**16):
        hue, value = (number * 0.618034) % 1, (1.0, 0.8, 0.6)[number // 12 % 3]
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, value)
        yield f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def _restore(root: Element) -> tuple[str, ...]:
    """Put back the controls for words and verdict, and the verdict's choices, where they are missing."""
    missing = [name for name in (_WORDS["name"], _VERDICT["name"]) if _named(root, name) is None]
    if "why" in missing:
        root.append(_control("TextArea", _WORDS))
    if "verdict" in missing:
        root.append(_control("Choices", _VERDICT))
    _require(root, "TextArea", _WORDS)
    verdict = _require(root, "Choices", _VERDICT)
    there = {choice.get("alias") or choice.get("value") for choice in verdict.iter("Choice")}
    absent = [name for name in get_args(Verdict) if name not in there]
    verdict.extend(Element("Choice", {"value": name}) for name in absent)
    lost = [f"verdict {name}" for name in absent] if "verdict" not in missing else []
    return (*missing, *lost)


def _text(root: Element) -> str:
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode")
