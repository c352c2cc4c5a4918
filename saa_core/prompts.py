"""Prompt bundles: the four prompts of SAA++ and the decision, as one immutable, hashed document per product.

A bundle's id is the SHA-256 of its canonical content and its parent's id, so a bundle cannot change under its name and
a chain of refinements can be followed back. Language, property, saliency and confidence prompts are those of the paper
(Cao et al., VAND 2023); `Profile` names the settings that tell its equations from the authors' released program.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from itertools import pairwise
from operator import itemgetter
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from saa_core.errors import BundleError
from saa_core.types import Query
from saa_core.untrusted import load_yaml

Profile = Literal["batch", "paper", "reference"]
Prompt = Literal["language", "property", "saliency", "confidence"]
SaliencySource = Literal["batch", "image-nearest", "image-farthest", "object"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True, allow_inf_nan=False)


class Phrase(_Strict):
    """Words for one kind of defect.

    Attributes:
        text: The words, without '.'; a '.' separates phrases inside a caption.
        weight: Multiplies the phrase's scores; 0 silences it.
        threshold: Scores of the phrase below it count as 0, in [0, 1].
        caption: Phrases with the same number share one caption, hence one pass of a text-prompted detector;
            None is a caption of its own.
    """

    text: str = Field(min_length=1, max_length=200)
    weight: float = Field(default=1.0, ge=0.0, le=10.0)
    threshold: float = Field(default=0.0, ge=0.0, le=1.0)
    caption: int | None = Field(default=None, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return {"text": value} if isinstance(value, str) else value

    @field_validator("text")
    @classmethod
    def _one_phrase(cls, text: str) -> str:
        if "." in text.rstrip("."):
            raise ValueError(f"{text!r} holds several phrases; list them one by one")
        text = text.rstrip(".").rstrip()
        if not text:
            raise ValueError("a phrase needs words")
        return text


class LanguagePrompt(_Strict):
    """P^L: class-agnostic phrases T_a, class-specific phrases T_s, and the name of the inspected object.

    Attributes:
        agnostic: T_a.
        specific: T_s.
        object: Name of the inspected object.
        background: Words that mean the product itself: a box that a detector describes with them is no defect.
        score: What a box of a text-prompted detector scores: its best `phrase`, or its best `slot`, the highest of all
            tokens of its caption, separators included, as in the released program.
    """

    agnostic: tuple[Phrase, ...] = (Phrase(text="anomaly"), Phrase(text="defect"))
    specific: tuple[Phrase, ...] = ()
    object: str | None = None
    background: str | None = None
    score: Literal["phrase", "slot"] = "phrase"


class PropertyPrompt(_Strict):
    """P^P, Eq. 4.

    Attributes:
        area_min: A region must cover at least this share of the object's area.
        area_max: theta_area: and less than this share; None is no limit, since a defect may be the whole object.
        location: At least this share of the region lies on the object. The paper calls it theta_IoU; a small defect has
            a tiny true IoU with its object, so the test is containment |r and object| / |r|.
        measure: Areas of `mask`s (the equations) or of `box`es (the released program).
        objects: Number of objects in an image; an object covers less than 1/objects of it.
    """

    area_min: float = Field(default=0.0, ge=0.0, le=1.0)
    area_max: float | None = Field(default=None, gt=0.0, le=1.0)
    location: float = Field(default=0.5, ge=0.0, le=1.0)
    measure: Literal["mask", "box"] = "mask"
    objects: int = Field(default=1, ge=1, strict=True)


class SaliencyPrompt(_Strict):
    """P^S, Eq. 5-7.

    Attributes:
        source: Where a pixel's neighbours are looked for: the other images of the set, the image itself (nearest as in
            the paper, or farthest as in the released program), or the other objects in the image.
        neighbours: N of Eq. 5, for the image as context.
        gain: g in exp(g * saliency of the region); 0 switches the prompt off.
        measure: A region's saliency: the `mean` inside it, as printed, or its `contrast`, the mean inside less the mean
            around, which of nested candidates prefers the one that fits.
        input: Side in pixels that a CNN sees the image at; None is 256, or 1024 where an image shows several objects,
            as in the released program. Features without weights have a size of their own.
        stages: Stages of a CNN whose features are joined, counted from 1 (a quarter of the input's side); None is
            1 to 3, as in the paper.
    """

    source: SaliencySource = "batch"
    neighbours: int = Field(default=400, ge=1)
    gain: float = Field(default=1.0, ge=0.0, le=20.0)
    measure: Literal["mean", "contrast"] = "mean"
    input: int | None = Field(default=None, ge=32, le=2048)
    stages: tuple[Annotated[int, Field(ge=1, le=4)], ...] | None = Field(default=None, min_length=1)

    @field_validator("stages")
    @classmethod
    def _once_each(cls, stages: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if stages is not None and list(stages) != sorted(set(stages)):
            raise ValueError("name each stage once, from the finest on")
        return stages


class ConfidencePrompt(_Strict):
    """P^C, Eq. 8-9.

    Attributes:
        top_k: K of Eq. 8; None keeps every region.
        suppression: A region that shares more than this part of the smaller of the two with a better one is dropped;
            1 keeps duplicates.
        map: Eq. 9 as printed (`mean`), as released (`shrunk`, one is added to the denominator), or the `dense` map:
            saliency fused with the phrases' evidence, which needs no region to cover a pixel.
    """

    top_k: int | None = Field(default=5, ge=1)
    suppression: float = Field(default=1.0, gt=0.0, le=1.0)
    map: Literal["mean", "shrunk", "dense"] = "mean"


class Decision(_Strict):
    """Where scores are cut.

    Attributes:
        score_floor: Candidates whose best phrase scores less are dropped before Eq. 4.
        region_floor: Regions of less confidence are not shown.
        threshold: Where the anomaly map is cut into a mask.
        accept: Regions of at least this confidence need no review; None: every region needs one. It was proved with
            the bundle's other numbers; whoever changes one of these takes it out.
        calibration: Rising steps (confidence, precision): from the confidence on, so many of the regions were right;
            empty where it is not known. It goes with the other numbers like `accept`.
    """

    score_floor: float = Field(default=0.0, ge=0.0, le=1.0)
    region_floor: float = Field(default=0.0, ge=0.0, le=1.0)
    threshold: float = Field(default=0.5, ge=0.0, le=1.0)
    accept: float | None = Field(default=None, ge=0.0, le=1.0)
    calibration: tuple[tuple[Share, Share], ...] = ()

    @field_validator("calibration")
    @classmethod
    def _rising(cls, steps: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        if any(low >= high or worse > better for (low, worse), (high, better) in pairwise(steps)):
            raise ValueError("steps must rise, in confidence and in precision")
        return steps

    def needs_review(self, confidence: float) -> bool:
        """Whether an expert has to look at a region of this confidence, in [0, 1]."""
        return self.accept is None or confidence < self.accept

    def precision(self, confidence: float) -> float | None:
        """Share of regions of about this confidence that were right, in [0, 1]; below all steps the first's.

        None without a calibration.
        """
        if not self.calibration:
            return None
        step = bisect_right(self.calibration, confidence, key=itemgetter(0))
        return self.calibration[max(step - 1, 0)][1]


class PromptBundle(_Strict):
    """One product's prompts, immutable and hashed; the unit that is versioned, promoted and rolled back.

    What a bundle does not state, its profile sets; what the profile leaves open has the defaults above.
    """

    product: str = Field(min_length=1)
    profile: Profile = "batch"
    parent: str | None = None
    origin: str = ""
    """Where the figures come from, for the reader; part of the hash."""
    language: LanguagePrompt = LanguagePrompt()
    property: PropertyPrompt = PropertyPrompt()
    saliency: SaliencyPrompt = SaliencyPrompt()
    confidence: ConfidencePrompt = ConfidencePrompt()
    decision: Decision = Decision()

    @model_validator(mode="before")
    @classmethod
    def _fill_from_profile(cls, content: object) -> object:
        return _filled(content) if isinstance(content, Mapping) else content

    @cached_property
    def id(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the canonical content (which holds the parent's id)."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]

    # Cached, like the id, since it is asked for per image; `property` names a section in this class.
    @cached_property
    def phrases(self) -> tuple[Phrase, ...]:
        """Class-agnostic phrases, then class-specific ones; a text that occurs twice counts once, the later wins."""
        return tuple({phrase.text: phrase for phrase in (*self.language.agnostic, *self.language.specific)}.values())

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The words of `phrases`."""
        return tuple(phrase.text for phrase in self.phrases)

    @cached_property
    def query(self) -> Query:
        """What the models are asked for."""
        captions = tuple(phrase.caption for phrase in self.phrases)
        shared = captions if any(number is not None for number in captions) else ()
        language = self.language
        return Query(self.texts, shared, language.object, language.background, self.property.objects)

    def canonical(self) -> str:
        """The content as JSON: keys sorted, no white space, what a profile sets written out, other defaults left out.

        So a bundle keeps its meaning when a profile's numbers change, and its id when a later version adds a field; for
        that, no default ever changes.
        """
        content, whole = self.model_dump(mode="json", exclude_defaults=True), self.model_dump(mode="json")
        for section, values in _settings(self.profile, self.product, self.property.objects).items():
            stated = content.setdefault(section, {})
            stated.update({name: whole[section][name] for name in values})
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def to_yaml(self) -> str:
        """The content as YAML for a person; `PromptBundle.from_yaml` gives back an equal bundle."""
        content = self.model_dump(mode="json")
        return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)

    @classmethod
    def from_yaml(cls, text: str, name: str = "bundle") -> Self:
        """Read a bundle.

        Raises:
            BundleError: `text` is neither YAML nor JSON, holds an unknown key (the nearest known one is named) or a
                bad value.
        """
        return cls.from_content(parse(text, name), name)

    @classmethod
    def from_content(cls, content: object, name: str = "bundle") -> Self:
        """Validate parsed content; errors as in `from_yaml`."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise BundleError(name, "; ".join(_explain(error))) from error

    def changed(self, **sections: Any) -> Self:
        """A bundle with sections replaced, e.g. ``changed(confidence={"top_k": 3})``; the rest of a section stays.

        Raises:
            BundleError: As in `from_yaml`.
        """
        content = self.model_dump()
        for section, value in sections.items():
            old = content.get(section)
            content[section] = {**old, **value} if isinstance(old, dict) and isinstance(value, Mapping) else value
        return type(self).from_content(content, self.product)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """`changed`, since pydantic's own copy would neither validate nor forget the old id; `deep` has no effect."""
        return self.changed(**(update or {}))

    def with_profile(self, profile: Profile) -> Self:
        """The same prompts under the settings of another profile, its class-agnostic phrases included.

        The bundle itself, if it has that profile already. Where the released program puts the data set's name of the
        class into its captions, we put the object's word (differs for VisA's capsules, macaroni and pcb classes).
        """
        if profile == self.profile:
            return self
        settings = _settings(profile, self.language.object or self.product, self.property.objects)
        settings["language"] = {"score": "phrase"} | settings["language"]
        return self.changed(profile=profile, **settings)

    def without(self, *prompts: Prompt) -> Self:
        """The ablations of the paper's Table 2: the bundle with whole prompts switched off."""
        bundle = self
        for prompt in prompts:
            bundle = bundle.changed(**_ABLATIONS[prompt])
        if "saliency" in prompts and bundle.confidence.map == "dense":
            # The dense map is saliency itself; without saliency the map is what the regions alone say, and a floor
            # that was set for scores raised by saliency would leave none.
            bundle = bundle.changed(confidence={"map": "mean"}, decision={"region_floor": 0.0})
        return bundle


_PROFILES: dict[str, dict[str, dict[str, object]]] = {
    "batch": {
        "property": {"measure": "mask", "location": 0.5},
        "saliency": {"source": "batch", "neighbours": 400, "gain": 3.0, "measure": "contrast"},
        "confidence": {"map": "dense", "suppression": 0.5},
        "decision": {"score_floor": 0.0, "region_floor": 0.3, "threshold": 0.4},
    },
    "paper": {
        "property": {"measure": "mask", "location": 0.5},
        "saliency": {"source": "image-nearest", "neighbours": 400, "gain": 1.0, "measure": "mean"},
        "confidence": {"map": "mean", "suppression": 1.0},
        "decision": {"score_floor": 0.0, "region_floor": 0.0, "threshold": 0.5},
    },
    "reference": {
        "property": {"measure": "box", "location": 0.0},
        "saliency": {"source": "image-farthest", "neighbours": 400, "gain": 3.0, "measure": "mean"},
        "confidence": {"map": "shrunk", "suppression": 1.0},
        "decision": {"score_floor": 0.1, "region_floor": 0.0, "threshold": 0.5},
    },
}
"""The typed switches between the equations, the released program and the set as context; all set the same keys."""

_ABLATIONS: dict[Prompt, dict[str, dict[str, object]]] = {
    "language": {"language": {"agnostic": [{"text": "anomaly"}], "specific": []}},
    "property": {"property": {"area_min": 0.0, "area_max": None, "location": 0.0}},
    "saliency": {"saliency": {"gain": 0.0}},
    "confidence": {"confidence": {"top_k": None}},
}


def _settings(profile: str, name: object, objects: object) -> dict[str, dict[str, object]]:
    """What a profile sets for a product that shows `objects` times `name`; nothing for an unknown profile."""
    settings = _PROFILES.get(profile, {})
    if profile != "reference":
        return settings | {"language": {"agnostic": LanguagePrompt().agnostic}}
    source = "object" if isinstance(objects, int) and objects > 1 else "image-farthest"
    captions = [f"{noun} on {name}" for noun in ("defect", "damage", "flaw")]
    language: dict[str, object] = {"agnostic": captions, "score": "slot"}
    return settings | {"language": language, "saliency": settings["saliency"] | {"source": source}}


def _filled(content: Mapping[str, Any]) -> dict[str, Any]:
    """Content before validation, with what it leaves open set by its profile."""
    stated = {section: _stated(value) for section, value in content.items()}
    language, limits = (stated[key] if isinstance(stated.get(key), dict) else {} for key in ("language", "property"))
    name = language.get("object") or stated.get("product")
    settings = _settings(str(stated.get("profile", "batch")), name, limits.get("objects"))
    for section, values in settings.items():
        given = stated.get(section, {})
        stated[section] = values | given if isinstance(given, dict) else given
    return stated


def _stated(section: Any) -> Any:
    return section.model_dump(exclude_unset=True) if isinstance(section, BaseModel) else section


class _Dumper(yaml.SafeDumper):
    """Escapes the line breaks of Unicode, which a reader else takes for a plain one."""

    def analyze_scalar(self, scalar: str) -> Any:
        analysis = super().analyze_scalar(scalar)
        if not {"\x85", "\u2028", "\u2029"}.isdisjoint(scalar):
            analysis.allow_single_quoted = analysis.allow_block = analysis.allow_block_plain = False
        return analysis


def parse(text: str, name: str) -> object:
    """The content of a YAML or JSON file.

    Raises:
        BundleError: It is neither; `name` is what the user calls the file.
    """
    with suppress(ValueError, RecursionError):
        return json.loads(text)  # first, since JSON may be indented by tabs, which YAML refuses
    try:
        return load_yaml(text)
    except (yaml.YAMLError, ValueError) as error:  # an impossible date is a ValueError
        raise BundleError(name, f"neither YAML nor JSON: {' '.join(str(error).split())}") from error


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that `word` resembles most, for an error message."""
    return difflib.get_close_matches(word, list(known), n=1, cutoff=0.0)[0]


def diff(old: PromptBundle, new: PromptBundle) -> list[tuple[str, object, object]]:
    """What changed from `old` to `new`: (dotted path, old value, new value), sorted by path.

    Phrases are keyed by their text, so their order does not count here, though it does in the id. None stands for a
    phrase that is not there.
    """
    before, after = dict(_flatten(old)), dict(_flatten(new))
    return [
        (path, before.get(path), after.get(path))
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


def _flatten(bundle: PromptBundle) -> Iterator[tuple[str, object]]:
    content = bundle.model_dump(mode="json")
    for key, value in content.items():
        if not isinstance(value, dict):
            yield key, value
            continue
        for name, leaf in value.items():
            if name in ("agnostic", "specific"):
                for phrase in leaf:
                    yield f"{key}.{name}[{phrase['text']}]", {k: v for k, v in phrase.items() if k != "text"}
            else:
                yield f"{key}.{name}", leaf


def _explain(error: ValidationError) -> Iterator[str]:
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"]) or "content"
        if problem["type"] == "extra_forbidden":
            near = nearest(str(problem["loc"][-1]), _known_keys(problem["loc"][:-1]))
            yield f"unknown key {path!r}, did you mean {near!r}?"
        else:
            yield f"{path}: {problem['msg'].removeprefix('Value error, ')}"


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = PromptBundle
    for part in location:
        if part in ("agnostic", "specific"):
            return list(Phrase.model_fields)
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else model
    return list(model.model_fields)
