"""What a region is called, by us and by experts: the one label that goes with the phrase that found it."""

from __future__ import annotations

import re

from saa_core.prompts import PromptBundle

GENERIC = "defect"
"""The label of every class-agnostic phrase: "anomaly", "flaw" and the like are synonyms."""

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def label_of(phrase: str, bundle: PromptBundle) -> str:
    """The label of a region that `phrase` found: a class-specific phrase is its own, any other is GENERIC."""
    specific = any(phrase == known.text for known in bundle.language.specific)
    return (_fit(phrase) if specific else "") or GENERIC


def labels_of(bundle: PromptBundle) -> tuple[str, ...]:
    """Every label that `label_of` can give, each once, in the bundle's order; GENERIC is the last."""
    labels = dict.fromkeys(label_of(phrase.text, bundle) for phrase in bundle.language.specific)
    labels.pop(GENERIC, None)
    return (*labels, GENERIC)


def _fit(phrase: str) -> str:
    """A phrase as a label: without what XML cannot hold, white space as an attribute keeps it."""
    return " ".join(_NOT_XML.sub(" ", phrase).split())
