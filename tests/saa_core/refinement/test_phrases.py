"""Which phrases are proposed, in what order and why, and which survive the race."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saa_core.library import all_bundles
from saa_core.prompts import Phrase, PromptBundle
from saa_core.refinement.phrases import GENERAL, Proposal, halve, propose
from saa_core.refinement.wording import key

SAID = (
    "scratch;Scratches;black hole;holes and a dent;round dent;Damage;no defect;anomaly;cap;defect on pcb;wire;"
    "unusual part;broken;small black hole on rim;0.5 mm;black;hole black"
)
TEXTS = st.text(max_size=12) | st.sampled_from(SAID.split(";"))
NAMES = st.sampled_from(["cap", "caps", "pcb7", "metal_nut", "line/cap", "7", "bottle a", "mvtec/bottle"])
SHIPPED = all_bundles()


def bundle(product: str, *specific: object, name: str | None = None) -> PromptBundle:
    return PromptBundle.from_content({"product": product, "language": {"specific": list(specific), "object": name}})


@st.composite
def arguments(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "current": draw(st.lists(TEXTS, max_size=4)),
        "words": draw(st.dictionaries(TEXTS, st.integers(1, 9), max_size=6)),
        "object_name": draw(st.none() | NAMES),
        "product": draw(NAMES),
        "siblings": draw(st.dictionaries(NAMES, st.lists(TEXTS, max_size=4), max_size=4)),
        "library": {name: SHIPPED[name] for name in draw(st.lists(st.sampled_from(sorted(SHIPPED)), unique=True))},
        "limit": draw(st.integers(0, 16)),
    }


def asked(**given: Any) -> tuple[Proposal, ...]:
    nothing: dict[str, Any] = {"current": [], "words": {}, "object_name": None, "product": "cap"}
    return propose(**(nothing | {"siblings": {}, "library": {}} | given))


def specific(found: Sequence[Proposal]) -> list[Proposal]:
    return [each for each in found if each.source != "general"]


def general(found: Sequence[Proposal]) -> list[Proposal]:
    return [each for each in found if each.source == "general"]


def told(found: Sequence[Proposal], source: str) -> dict[str, tuple[int, str]]:
    return {each.text: (each.count, each.reason) for each in found if each.source == source}


# ------------------------------------------------------------------------------------------------------ for any content


@given(arguments(), st.randoms(use_true_random=False))
def test_order_does_not_matter(given: dict[str, Any], rng: random.Random) -> None:
    def shuffled(content: Any) -> Any:
        if isinstance(content, dict):
            return {name: shuffled(content[name]) for name in rng.sample(list(content), len(content))}
        return rng.sample(content, len(content)) if isinstance(content, list) else content

    assert propose(**shuffled(given)) == propose(**given)


def test_order_does_not_matter_where_much_is_said_alike() -> None:
    library = {name: bundle("cap", "melt", "melts") for name in ("x/cap", "y/cap")}
    siblings = {"jar": ["scars", "scar", "chips", "chip", "hole"], "can": ["chip", "hole", "chips"]}
    words = {"hole": 2, "holes": 2, "gap": 2, "gaps and gap": 1}
    one = asked(words=words, siblings=siblings, library=library, current=["dent", "lid"])
    words = dict(reversed(words.items()))
    library = dict(reversed(library.items()))
    siblings = {name: siblings[name][::-1] for name in reversed(siblings)}
    assert asked(words=words, siblings=siblings, library=library, current=["lid", "dent"]) == one
    assert told(one, "sibling")["chip"] == (2, "can and jar have it; can has 'hole' too")


@given(arguments())
def test_every_proposal_is_a_new_phrase(given: dict[str, Any]) -> None:
    found = propose(**given)
    assert all(Phrase(text=each.text).text == each.text == each.text.strip() for each in found)
    assert len({key(each.text) for each in found}) == len(found)
    assert {key(each.text) for each in found}.isdisjoint(map(key, given["current"]))
    assert {each.text.lower() for each in found}.isdisjoint(text.lower() for text in given["current"])
    assert all(each.reason for each in found)


@given(arguments())
def test_nothing_new_is_left_once_all_is_taken_up(given: dict[str, Any]) -> None:
    found = propose(**given)
    again = propose(**given | {"current": [*given["current"], *(each.text for each in found)]})
    assert {each.text for each in found}.isdisjoint(each.text for each in again)


@given(arguments())
def test_the_control_is_as_large_as_what_it_controls(given: dict[str, Any]) -> None:
    found = propose(**given)
    of_control = general(found)
    assert found == (*specific(found), *of_control)
    assert len(of_control) == len(specific(found)) <= given["limit"]


# --------------------------------------------------------------------------------------------------- experts, labels


def test_an_experts_words_come_first_the_frequent_ones_before_the_rare() -> None:
    words = {"Scratches, a dent": 2, "scratch": 3, "no hole": 9, "it is broken": 1}
    found = asked(words=words, library={"x/cap": bundle("cap", "hole")}, limit=4)
    assert [(each.text, each.source, each.count) for each in specific(found)] == [
        ("scratch", "expert", 5),
        ("dent", "expert", 2),
        ("broken", "expert", 1),
        ("hole", "library", 1),
    ]
    assert [each.reason for each in found[1:3]] == ["an expert wrote it 2 times", "an expert wrote it once"]


def test_a_text_that_says_a_thing_twice_says_it_once() -> None:
    assert told(asked(words={"scratches and a scratch": 2}), "expert") == {"scratch": (2, "an expert wrote it 2 times")}


@pytest.mark.parametrize("text", ["Metal nut", "nuts", "NUT"])
def test_the_object_alone_is_no_defect(text: str) -> None:
    found = asked(words={text: 3}, product="metal_nut", object_name="nut")
    assert told(found, "expert") == {}


def test_what_is_there_is_not_proposed_in_another_number_or_case() -> None:
    assert told(asked(words={"scratches": 1, "Holes": 1, "dent": 1}, current=["Scratch", "the hole"]), "expert") == {
        "dent": (1, "an expert wrote it once")
    }


def test_general_words_of_experts_belong_to_the_control() -> None:
    found = asked(words={"flaws": 2, "fault": 5, "bad area": 1, "other": 1}, limit=3)
    assert told(found, "expert") == {}
    assert [(each.text, each.count) for each in general(found)] == [("fault", 5), ("flaw", 2), ("defect", 0)]
    assert general(found)[0].reason.endswith("; an expert wrote it 5 times")


def test_the_control_ends_where_all_general_words_are_taken() -> None:
    found = asked(words={"hole": 1}, current=GENERAL[1:])
    assert (len(specific(found)), [each.text for each in general(found)]) == (16, ["defect"])


def test_no_general_word_is_in_the_list_twice() -> None:
    assert len(set(map(key, GENERAL))) == len(GENERAL)


# --------------------------------------------------------------------------------------------------- library, siblings


@pytest.mark.parametrize(
    ("product", "object_name"),
    [("bottle", None), ("Bottles_3", None), ("line 4", "bottle"), ("mvtec bottle", "bottle")],
)
def test_the_library_entry_of_the_same_name(product: str, object_name: str | None) -> None:
    found = asked(product=product, object_name=object_name, library=SHIPPED)
    texts = ["broken part", "contamination", "white broken"]
    assert told(found, "library") == dict.fromkeys(texts, (1, "mvtec/bottle has it"))


def test_library_entries_with_the_same_object() -> None:
    library = {
        "a/one": bundle("one", "chip", "melt", {"text": "spot", "weight": 0}, name="cap"),
        "b/cap": bundle("two", "chips", "melt"),
        "c/three": bundle("cap", "chip", "gap"),
        "d/cup": bundle("cup", "leak"),
    }
    assert told(asked(library=library), "library") == {
        "chip": (3, "a/one and 2 others have it"),
        "melt": (2, "a/one and b/cap have it"),
        "gap": (1, "c/three has it"),
    }


def test_a_product_without_letters_has_no_library_entry() -> None:
    assert asked(product="4711", library={"x/12": bundle("12", "dent")}) == ()


def test_siblings_of_a_similar_name_then_of_similar_defects_then_the_rest() -> None:
    siblings = {
        "a/cup": ["leak", "melt"],
        "b/lid": ["chip", "black holes"],
        "line/cap blue": ["gap on cap", "scar"],
        "jar": ["chip", "hole", "crack in jar"],
    }
    found = asked(siblings=siblings, current=["hole", "defect"])
    assert [(each.text, each.count, each.reason) for each in specific(found)] == [
        ("gap on cap", 1, "line/cap blue has it; line/cap blue has a similar name"),
        ("scar", 1, "line/cap blue has it; line/cap blue has a similar name"),
        ("chip", 2, "b/lid and jar have it; b/lid has 'hole' too"),
        ("black holes", 1, "b/lid has it; b/lid has 'hole' too"),
        ("leak", 1, "a/cup has it"),
        ("melt", 1, "a/cup has it"),
    ]


def test_a_siblings_phrase_that_names_the_sibling_says_nothing_to_others() -> None:
    assert asked(siblings={"pcb1": ["bent wire on pcb"]}) == ()
    assert asked(siblings={"pcb1": ["bent wire on pcb"]}, product="pcb2")[0].text == "bent wire on pcb"


def test_a_letter_in_common_is_no_similar_name() -> None:
    found = asked(siblings={"can a": ["leak"]}, product="bottle a")
    assert told(found, "sibling") == {"leak": (1, "can a has it")}


def test_siblings_with_nothing_in_common_come_after_the_grammar() -> None:
    found = specific(asked(words={"hole": 1}, siblings={"cup": ["leak"]}, limit=999))
    assert [each.source for each in (found[0], found[1], found[-1])] == ["expert", "grammar", "sibling"]


# -------------------------------------------------------------------------------------------------------------- grammar


def test_the_grammar_takes_up_what_experts_used() -> None:
    found = asked(words={"black hole": 2, "round dents": 1, "defect": 50}, limit=9)
    assert list(told(found, "grammar")) == [
        "black dents",
        "round hole",
        "round black hole",
        "round black dents",
        "white hole",
        "white dents",
        "dark hole",
    ]
    assert told(found, "grammar")["round hole"] == (2, "built from 'hole', which an expert wrote 2 times")


def test_the_grammar_builds_on_general_nouns_last() -> None:
    nouns = [each.text.split()[-1] for each in specific(asked(words={"hole": 1, "defect": 9}, limit=999))]
    assert nouns == sorted(nouns, reverse=True)
    assert set(nouns) == {"hole", "defect"}


def test_the_grammar_counts_a_noun_wherever_it_stands() -> None:
    found = told(asked(words={"hole on rim": 2, "long holes": 1}), "grammar")
    assert found["black hole"] == (3, "built from 'hole', which an expert wrote 3 times")


def test_the_grammar_says_no_attribute_twice() -> None:
    assert not [text for text in told(asked(words={"wire red": 1}, limit=999), "grammar") if text.count("red") > 1]


def test_states_are_no_nouns() -> None:
    assert told(asked(words={"broken": 3, "scratched": 2}), "grammar") == {}


# -------------------------------------------------------------------------------------------------------------- halving


def proposals(specific: int, general: int = 0) -> list[Proposal]:
    first = [Proposal(f"word {number}", "because", "expert", 1) for number in range(specific)]
    return first + [Proposal(f"general {number}", "because", "general", 0) for number in range(general)]


IMAGES = [f"image {number}" for number in range(40)]
Asked = list[tuple[list[Proposal], list[str]]]


def scorer(value: Callable[[Proposal], float]) -> tuple[Asked, Callable[..., list[float]]]:
    """A score that ignores the images, and what it was asked."""
    calls: Asked = []

    def score(found: Sequence[Proposal], images: Sequence[str]) -> list[float]:
        calls.append((list(found), list(images)))
        return [value(each) for each in found]

    return calls, score


def by_number(each: Proposal) -> float:
    return float(each.text.split()[-1])


def test_the_better_half_goes_on_to_more_images() -> None:
    calls, score = scorer(by_number)
    found = proposals(8)
    result = halve(found, IMAGES, score)
    assert [(len(each), len(images)) for each, images in calls] == [(8, 8), (4, 16), (2, 40)]
    assert result == tuple(
        (found[number], float(number), 40 if number > 5 else 16 if number > 3 else 8) for number in range(7, -1, -1)
    )


def test_the_images_are_nested_and_do_not_depend_on_their_order() -> None:
    calls, score = scorer(by_number)
    halve(proposals(8), IMAGES, score)
    first, second, last = (images for _, images in calls)
    assert set(first) < set(second) < set(last) == set(IMAGES)
    halve(proposals(8), [*reversed(IMAGES), IMAGES[0]], score)
    assert [images for _, images in calls[3:]] == [first, second, last]
    halve(proposals(8), IMAGES, score, seed=1)
    assert calls[6][1] != first


def test_of_equals_the_earlier_proposals_survive() -> None:
    _, score = scorer(lambda _: 0.5)
    found = proposals(5)
    assert [each for each, _, size in halve(found, IMAGES, score) if size == 40] == found[:2]


def test_control_and_controlled_are_halved_apart() -> None:
    _, score = scorer(lambda each: by_number(each) + 100 * (each.source == "general"))
    survivors = [each.text for each, _, size in halve(proposals(7, 7), IMAGES, score) if size == 40]
    assert survivors == ["general 6", "general 5", "word 6", "word 5"]


@pytest.mark.parametrize(("images", "sizes"), [(5, [5]), (8, [8]), (12, [8, 12]), (17, [8, 16, 17])])
def test_few_images_need_fewer_rounds(images: int, sizes: list[int]) -> None:
    calls, score = scorer(by_number)
    halve(proposals(4), IMAGES[:images], score)
    assert [len(asked) for _, asked in calls] == sizes


def test_nothing_to_race() -> None:
    calls, score = scorer(by_number)
    assert halve([], IMAGES, score) == ()
    assert calls == []


@given(st.lists(st.floats(0, 1), max_size=12), st.integers(1, 40), st.lists(st.integers(1, 30), max_size=3))
def test_every_proposal_has_its_place_in_the_trail(values: list[float], images: int, sizes: list[int]) -> None:
    found = proposals(len(values))
    _, score = scorer(lambda each: values[int(by_number(each))])
    result = halve(found, IMAGES[:images], score, sizes)
    assert sorted(each.text for each, _, _ in result) == sorted(each.text for each in found)
    assert all(value == values[int(by_number(each))] for each, value, _ in result)
    assert list(result) == sorted(result, key=lambda entry: (-entry[2], -entry[1], found.index(entry[0])))
