"""Bundles: identity, round trips, errors in words, profiles and ablations."""

import hashlib
import json
import os
import subprocess
import sys
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from saa_core.errors import BundleError
from saa_core.prompts import ConfidencePrompt, Phrase, Profile, Prompt, PromptBundle, diff

PROFILES: tuple[Profile, ...] = ("batch", "paper", "reference")
SHARE = st.floats(0, 1)
WORDS = st.text(min_size=1, max_size=20).filter(lambda text: text.strip() and "." not in text)


def mappings(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Content with any of the keys left out."""
    return st.fixed_dictionaries({}, optional=values)


PHRASES = st.lists(
    WORDS
    | st.builds(
        lambda text, rest: {"text": text, **rest},
        WORDS,
        mappings(weight=st.floats(0, 10), threshold=SHARE, caption=st.none() | st.integers(0, 9)),
    ),
    max_size=4,
)
STEPS = st.lists(SHARE, unique=True, max_size=4).flatmap(
    lambda levels: st.lists(SHARE, min_size=len(levels), max_size=len(levels)).map(
        lambda shares: list(zip(sorted(levels), sorted(shares), strict=True))
    )
)
CONTENT = st.builds(
    lambda product, rest: {"product": product, **rest},
    WORDS,
    mappings(
        profile=st.sampled_from(PROFILES),
        parent=st.none() | WORDS,
        origin=st.text(max_size=40),
        language=mappings(agnostic=PHRASES, specific=PHRASES, object=st.none() | WORDS, background=st.none() | WORDS),
        property=mappings(area_min=SHARE, area_max=st.none() | st.floats(0.01, 1), objects=st.integers(1, 30)),
        saliency=mappings(neighbours=st.integers(1, 999), gain=st.floats(0, 20)),
        confidence=mappings(top_k=st.none() | st.integers(1, 99), suppression=st.floats(0.01, 1)),
        decision=mappings(
            score_floor=SHARE,
            region_floor=SHARE,
            threshold=SHARE,
            accept=st.none() | SHARE,
            calibration=STEPS,
        ),
    ),
)
BUNDLES = CONTENT.map(PromptBundle.from_content)


def bundle(**sections: Any) -> PromptBundle:
    return PromptBundle.from_content({"product": "bottle", **sections})


# ------------------------------------------------------------------------------------------------------------- identity

GOLDEN_TEXT = (
    '{"confidence":{"map":"dense","suppression":0.5},"decision":{"region_floor":0.3,"score_floor":0.0,'
    '"threshold":0.4},"language":{"agnostic":[{"caption":null,"text":"anomaly","threshold":0.0,'
    '"weight":1.0},{"caption":null,"text":"defect","threshold":0.0,"weight":1.0}],"object":"Flasche",'
    '"specific":[{"caption":0,"text":"größerer Riss","threshold":0.25,"weight":2.0}]},"product":"bottle",'
    '"property":{"area_max":0.3,"location":0.5,"measure":"mask"},"saliency":{"gain":3.0,'
    '"measure":"contrast","neighbours":400,"source":"batch"}}'
)
GOLDEN_ID = "9578c5dcd931763e"
GOLDEN_YAML = """
product: bottle
language:
  object: Flasche
  specific: [{text: größerer Riss, caption: 0, weight: 2, threshold: 0.25}]
property: {area_max: 0.3}
"""


def test_the_id_is_the_hash_of_the_canonical_content() -> None:
    found = PromptBundle.from_yaml(GOLDEN_YAML)
    assert found.canonical() == GOLDEN_TEXT
    assert hashlib.sha256(GOLDEN_TEXT.encode()).hexdigest()[:16] == GOLDEN_ID
    assert found.id == GOLDEN_ID


@pytest.mark.parametrize("seed", ["0", "1"])
def test_the_id_is_the_same_in_another_process(seed: str) -> None:
    program = "import sys, saa_core.prompts as p; print(p.PromptBundle.from_yaml(sys.stdin.buffer.read()).id)"
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], input=GOLDEN_YAML.encode(), capture_output=True, env=environment, check=True
    )
    assert done.stdout.split() == [GOLDEN_ID.encode()]


@settings(max_examples=30)
@given(BUNDLES)
def test_yaml_and_json_give_back_the_bundle(written: PromptBundle) -> None:
    for text in (written.to_yaml(), written.canonical(), json.dumps(json.loads(written.canonical()), indent="\t")):
        read = PromptBundle.from_yaml(text)
        assert read == written
        assert read.id == written.id


@pytest.mark.parametrize("separator", ["\n", "\r", "\x85", "\u2028", "\u2029", "'", '"'])
def test_no_sign_is_lost_in_yaml(separator: str) -> None:
    written = bundle(origin=f"experts{separator}said", language={"specific": [f"a{separator}b"]})
    assert PromptBundle.from_yaml(written.to_yaml()) == written


@settings(max_examples=50)
@given(BUNDLES, BUNDLES)
def test_equal_bundles_have_equal_ids(one: PromptBundle, other: PromptBundle) -> None:
    assert (one == other) == (one.id == other.id)
    assert hash(one) == hash(PromptBundle.from_yaml(one.to_yaml()))


def test_every_field_counts_in_the_id() -> None:
    plain = bundle()
    changes: list[dict[str, Any]] = [
        {"product": "can"},
        {"profile": "paper"},
        {"parent": plain.id},
        {"origin": "a file"},
        {"language": {"specific": ["scratch"]}},
        {"property": {"area_max": 0.2}},
        {"saliency": {"gain": 2}},
        {"confidence": {"top_k": 4}},
        {"decision": {"threshold": 0.6}},
        {"decision": {"accept": 0.9}},
        {"decision": {"calibration": [[0.1, 0.5]]}},
    ]
    assert len({plain.id, *(plain.changed(**change).id for change in changes)}) == len(changes) + 1


def test_a_bundle_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        bundle().product = "can"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        bundle().confidence.top_k = 3  # type: ignore[misc]


def test_a_changed_bundle_is_another_one() -> None:
    old = bundle(confidence={"top_k": 7, "suppression": 0.8})
    before = old.canonical(), old.id
    new = old.changed(confidence={"top_k": 3}, parent=old.id)
    assert (new.confidence.top_k, new.confidence.suppression, new.parent) == (3, 0.8, old.id)
    assert new.id != old.id
    assert (old.canonical(), old.id) == before
    assert old.changed() == old
    assert old.changed(confidence=ConfidencePrompt(top_k=2)).confidence.top_k == 2


def test_a_copy_is_validated_and_has_its_own_id() -> None:
    old = bundle()
    assert old.id
    assert old.model_copy(update={"product": "can"}).id == old.changed(product="can").id != old.id
    assert old.model_copy() == old
    with pytest.raises(BundleError, match="valid string"):
        old.model_copy(update={"product": 3})


# ------------------------------------------------------------------------------------------------------ errors in words


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1", "neither YAML nor JSON: while parsing"),
        ("made: 2024-13-45", "neither YAML nor JSON: month must be"),
        ("- bottle", "content: Input should be a valid dictionary"),
        ("", "content: Input should be a valid dictionary"),
        ("language: {}", "product: Field required"),
        ("product: ' '", "product: String should have at least 1 character"),
        ("product: x\nlanguage:", "language: Input should be a valid dictionary"),
        ("product: x\nprofile: [paper]", "profile: Input should be 'batch', 'paper' or 'reference'"),
        ("product: x\nsaliance: {}", "unknown key 'saliance', did you mean 'saliency'?"),
        ("product: x\nlanguage: {specifc: []}", "unknown key 'language.specifc', did you mean 'specific'?"),
        ("product: x\nconfidence: {topk: 3}", "unknown key 'confidence.topk', did you mean 'top_k'?"),
        (
            "product: x\nlanguage: {agnostic: [{text: a, wieght: 2}]}",
            "unknown key 'language.agnostic.0.wieght', did you mean 'weight'?",
        ),
        ("product: x\nproperty: {objects: '4'}", "property.objects: Input should be a valid integer"),
        ("product: x\nproperty: {area_max: 0}", "property.area_max: Input should be greater than 0"),
        ("product: x\nsaliency: {gain: .nan}", "saliency.gain: Input should be a finite number"),
        ("product: x\nlanguage: {specific: [a. b]}", "language.specific.0.text: 'a. b' holds several phrases"),
        ("product: x\nlanguage: {specific: ['. ']}", "language.specific.0.text: a phrase needs words"),
        ("product: x\ndecision: {accept: 1.5}", "decision.accept: Input should be less than or equal to 1"),
        ("product: x\ndecision: {calibration: [[0.5, 2]]}", "calibration.0.1: Input should be less than or equal to 1"),
        ("product: x\ndecision: {calibration: [[0.5, 1], [0.5, 1]]}", "decision.calibration: steps must rise"),
        ("product: x\ndecision: {calibration: [[0.4, 1], [0.5, 0.9]]}", "decision.calibration: steps must rise"),
        ("product: x\nlanguage: {specific: crack}", "language.specific: Input should be a valid tuple"),
    ],
)
def test_errors_name_the_file_and_the_key(text: str, said: str) -> None:
    with pytest.raises(BundleError) as caught:
        PromptBundle.from_yaml(text, "my.yaml")
    assert caught.value.name == "my.yaml"
    assert said in caught.value.reason
    assert "\n" not in caught.value.reason


def test_all_errors_are_told_at_once() -> None:
    with pytest.raises(BundleError, match=r"decision.threshold: .*; unknown key 'colour'"):
        PromptBundle.from_yaml("{product: x, colour: red, decision: {threshold: 2}}")


def test_a_change_that_is_wrong_is_an_error_in_words() -> None:
    with pytest.raises(BundleError, match="did you mean 'confidence'"):
        bundle().changed(confidnce={"top_k": 3})
    with pytest.raises(BundleError, match="product: Input should be a valid string"):
        bundle().changed(product={"name": "x"})
    with pytest.raises(BundleError, match="confidence: Input should be a valid dictionary"):
        bundle().changed(confidence=3)


# ------------------------------------------------------------------------------------------------------- what is proved


def test_without_a_proof_every_region_needs_review() -> None:
    decision = bundle().decision
    assert decision.needs_review(1.0)
    assert decision.precision(1.0) is None


def test_from_the_accept_threshold_on_no_region_needs_review() -> None:
    decision = bundle(decision={"accept": 0.8}).decision
    assert [decision.needs_review(confidence) for confidence in (0.79, 0.8, 0.81)] == [True, False, False]


def test_precision_rises_in_steps() -> None:
    decision = bundle(decision={"calibration": [[0.2, 0.5], [0.6, 0.9]]}).decision
    found = [decision.precision(confidence) for confidence in (0.0, 0.2, 0.59, 0.6, 1.0)]
    assert found == [0.5, 0.5, 0.5, 0.9, 0.9]


# -------------------------------------------------------------------------------------------------------------- phrases


def test_a_phrase_is_a_text_or_a_mapping() -> None:
    found = bundle(language={"specific": [" black hole . ", {"text": "scratch", "weight": 2}, Phrase(text="dent")]})
    assert found.language.specific == (
        Phrase(text="black hole"),
        Phrase(text="scratch", weight=2.0),
        Phrase(text="dent"),
    )


def test_phrases_are_agnostic_then_specific_and_the_later_of_equals_wins() -> None:
    found = bundle(language={"agnostic": ["anomaly", "defect"], "specific": [{"text": "anomaly", "weight": 3}, "hole"]})
    assert [(phrase.text, phrase.weight) for phrase in found.phrases] == [("anomaly", 3), ("defect", 1), ("hole", 1)]


# ----------------------------------------------------------------------------------------------------------------- diff


def test_a_bundle_does_not_differ_from_itself() -> None:
    assert diff(bundle(), bundle()) == []


def test_what_changed() -> None:
    old = bundle(language={"specific": ["hole", "scratch"]}, property={"area_max": 0.3})
    new = old.changed(
        parent=old.id,
        language={"specific": [{"text": "hole", "weight": 2}, "dent"]},
        property={"area_max": None},
    )
    plain = {"weight": 1.0, "threshold": 0.0, "caption": None}
    assert diff(old, new) == [
        ("language.specific[dent]", None, plain),
        ("language.specific[hole]", plain, plain | {"weight": 2.0}),
        ("language.specific[scratch]", plain, None),
        ("parent", None, old.id),
        ("property.area_max", 0.3, None),
    ]


@given(BUNDLES, BUNDLES)
def test_a_difference_in_reverse_is_the_reverse(one: PromptBundle, other: PromptBundle) -> None:
    assert diff(other, one) == [(path, after, before) for path, before, after in diff(one, other)]


# ------------------------------------------------------------------------------------------------------------- profiles


@pytest.mark.parametrize("profile", PROFILES)
def test_what_a_bundle_leaves_out_its_profile_sets(profile: Profile) -> None:
    assert bundle(profile=profile) == bundle().with_profile(profile)
    assert PromptBundle(product="bottle", profile=profile) == bundle().with_profile(profile)


def test_what_a_bundle_states_stays() -> None:
    stated = bundle(profile="reference", saliency={"gain": 2.0}, language={"agnostic": ["oddity"]})
    assert (stated.saliency.gain, stated.saliency.source) == (2.0, "image-farthest")
    assert [phrase.text for phrase in stated.phrases] == ["oddity"]
    assert PromptBundle(product="x", confidence=ConfidencePrompt(map="mean")).confidence.suppression == 0.5


def test_paper_holds_the_equations() -> None:
    paper = bundle(language={"specific": ["dent"]}).with_profile("paper")
    assert [phrase.text for phrase in paper.phrases] == ["anomaly", "defect", "dent"]
    assert (paper.property.measure, paper.property.location > 0) == ("mask", True)
    assert (paper.saliency.source, paper.saliency.neighbours, paper.saliency.gain) == ("image-nearest", 400, 1)
    assert (paper.confidence.map, paper.confidence.top_k, paper.confidence.suppression) == ("mean", 5, 1)
    assert paper.decision.score_floor == 0


def test_reference_holds_the_released_program() -> None:
    old = bundle(language={"object": "glass bottle", "specific": ["dent"]}, property={"area_max": 0.3})
    reference = old.with_profile("reference")
    captions = ["defect on glass bottle", "damage on glass bottle", "flaw on glass bottle", "dent"]
    assert [phrase.text for phrase in reference.phrases] == captions
    assert reference.property.model_dump() == {
        "area_min": 0.0,
        "area_max": 0.3,
        "location": 0.0,
        "measure": "box",
        "objects": 1,
    }
    saliency = reference.saliency
    assert (saliency.source, saliency.neighbours, saliency.gain) == ("image-farthest", 400, 3)
    assert (reference.confidence.map, reference.confidence.suppression) == ("shrunk", 1)
    assert reference.decision.score_floor == 0.1


def test_reference_compares_several_objects_with_each_other() -> None:
    assert bundle(property={"objects": 4}).with_profile("reference").saliency.source == "object"
    assert bundle(property={"objects": 4}, profile="reference").saliency.source == "object"
    assert bundle(profile="reference").phrases[0].text == "defect on bottle"


@given(BUNDLES, st.sampled_from(PROFILES), st.sampled_from(PROFILES))
def test_a_profile_forgets_the_one_before(old: PromptBundle, first: Profile, then: Profile) -> None:
    assert old.with_profile(first).with_profile(first) == old.with_profile(first)
    if then not in (first, old.profile):
        assert old.with_profile(first).with_profile(then) == old.with_profile(then)


def test_the_profile_that_a_bundle_has_keeps_its_figures() -> None:
    refined = bundle(decision={"score_floor": 0.3}, saliency={"gain": 4})
    assert refined.with_profile("batch") is refined


# ------------------------------------------------------------------------------------------------------------ ablations


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    ("prompt", "paths"),
    [
        ("language", {"language.specific[dent]", "language.agnostic[anomaly]"}),
        ("property", {"property.area_min", "property.area_max"}),
        ("saliency", {"saliency.gain"}),
        ("confidence", {"confidence.top_k"}),
    ],
)
def test_without_one_prompt_the_others_stay(profile: Profile, prompt: Prompt, paths: set[str]) -> None:
    full = bundle(
        profile=profile,
        language={"agnostic": [{"text": "anomaly", "weight": 2}], "specific": ["dent"]},
        property={"area_min": 0.1, "area_max": 0.3, "location": 0.0},
    )
    also = {"confidence.map", "decision.region_floor"} if (prompt, profile) == ("saliency", "batch") else set()
    assert {path for path, _, _ in diff(full, full.without(prompt))} == paths | also


def test_without_each_prompt_by_value() -> None:
    full = bundle(language={"specific": ["dent"]}, property={"area_max": 0.3})
    bare = full.without("language", "property", "saliency", "confidence")
    assert [phrase.text for phrase in bare.phrases] == ["anomaly"]
    assert (bare.property.area_min, bare.property.area_max, bare.property.location) == (0, None, 0)
    assert (bare.saliency.gain, bare.confidence.top_k, bare.confidence.map) == (0, None, "mean")
    assert full.without() == full


def test_without_saliency_the_released_map_keeps_its_form() -> None:
    assert bundle(profile="reference").without("saliency").confidence.map == "shrunk"


def test_the_yaml_is_for_people() -> None:
    text = bundle(language={"specific": ["größerer Riss"]}).to_yaml()
    assert list(yaml.safe_load(text))[:2] == ["product", "profile"]
    assert "größerer Riss" in text
