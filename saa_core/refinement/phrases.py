"""New phrases for a product, each with its reason, and the race that spares most of them a full model pass.

Phrases come from the experts' words, the library, sibling products and a small grammar. Equally many general words
stand beside them as a control, since specific words help some products and hurt others, and only reviews tell which.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from typing import Literal

from saa_core.prompts import PromptBundle
from saa_core.refinement.wording import COLOURS, SHAPES, Key, key, noun, phrases_in

Source = Literal["expert", "library", "grammar", "sibling", "general"]

GENERAL = (
    *("defect", "anomaly", "damage", "flaw", "irregularity", "fault", "imperfection", "blemish", "abnormality"),
    *("damaged part", "defective part", "faulty part", "abnormal part", "unusual part", "irregular part"),
    *("damaged area", "defective area", "faulty area", "abnormal area", "unusual area", "irregular area"),
    *("surface damage", "surface flaw", "surface fault", "surface imperfection", "surface irregularity"),
)
"""Words for any defect, the usual ones first."""

_VAGUE = key(" ".join((*GENERAL, "bad wrong other unknown something thing issue problem")))


@dataclass(frozen=True, slots=True)
class Proposal:
    """A phrase that a product's bundle might use.

    Attributes:
        text: A valid `saa_core.prompts.Phrase`, in lower case.
        reason: Why it is proposed, for the reader.
        source: `expert` words, the product's `library` entry, a `sibling` product, the attribute `grammar`, or a
            `general` word of the control.
        count: Times that experts wrote it, or the noun it is built from; library entries or siblings that have it.
    """

    text: str
    reason: str
    source: Source
    count: int


def propose(
    current: Sequence[str],
    words: Mapping[str, int],
    object_name: str | None,
    product: str,
    siblings: Mapping[str, Sequence[str]],
    library: Mapping[str, PromptBundle],
    limit: int = 16,
) -> tuple[Proposal, ...]:
    """Phrases worth a model pass, the best founded first, then their control.

    First come the experts' words, the frequent ones first; then the library's entries of the same name; siblings of a
    similar name, then those with a defect noun in common; then shape x colour x noun, the nouns being those of the
    experts, attributes that experts used first; last, siblings that have nothing in common with the product. Phrases
    that differ in case, number or the order of their words are one.

    Args:
        current: Phrases of the bundle; none of them is proposed.
        words: What experts wrote of regions and images, and the labels they gave, as they stand, with their counts;
            split and cleaned by `wording.phrases_in`.
        object_name: Of the inspected object, if it is known.
        product: Name of the product.
        siblings: Other products, by name, with their class-specific phrases that have a weight.
        library: Bundles by name, as of `saa_core.library.all_bundles`.
        limit: Most specific phrases, and most general ones; at least 0.

    Returns:
        At most `limit` specific proposals, then as many of `GENERAL`, those that experts wrote first; fewer only where
        `current` has most of these. The same for any order of the arguments' contents.

    Example:
        >>> [found.text for found in propose([], {"Scratches, a dent": 2}, None, "cap", {}, {}, limit=2)]
        ['dent', 'scratches', 'defect', 'anomaly']
    """
    names = [name for name in (product, object_name) if name]
    heard = _grouped((text, (text,), count) for text, count in words.items())
    near, far = _from_siblings(siblings, names, _specific_nouns((*current, *words)))
    sources = (_from_experts(heard), _from_library(library, names), near, _from_grammar(heard, limit), far)
    taken = set(map(key, (*current, *chain(*map(phrases_in, current)), *names)))
    specific = (found for found in chain(*sources) if not _vague(found.text))
    chosen = _first_of_each(specific, taken)[:limit]
    control = _first_of_each(_general(heard), taken)
    return (*chosen, *control[: len(chosen)])


def halve(
    proposals: Sequence[Proposal],
    images: Sequence[str],
    score: Callable[[Sequence[Proposal], Sequence[str]], Sequence[float]],
    sizes: Sequence[int] = (8, 16),
    seed: int = 0,
) -> tuple[tuple[Proposal, float, int], ...]:
    """Successive halving: all proposals on few images, the better half on more, what is left on all.

    Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization" (AISTATS 2016,
    Algorithm 1), with rounds of given sizes. Specific and general phrases are halved separately, so that the control
    stays as large as what it controls. Of equal scores the earlier proposal is the better one.

    Args:
        proposals: The best founded first, none twice.
        images: Keys of at least one image. Those of the early rounds are drawn by hash; each round's hold the former's.
        score: Of proposals on images, one finite number each, larger is better. Called once a round.
        sizes: Images of the early rounds, at least 1 each; the last round has all images.
        seed: Of the draw.

    Returns:
        For each proposal its last score and the number of images that it was scored on, the survivors (all images)
        first, the best first among those that left in one round.
    """
    if not proposals:
        return ()
    drawn = sorted(set(images), key=lambda image: sha256(f"{seed}/{image}".encode()).digest())
    left, trail = list(proposals), list[tuple[Proposal, float, int]]()
    for size in sorted({min(size, len(drawn)) for size in (*sizes, len(drawn))}):
        scores = zip(left, score(left, drawn[:size]), strict=True)
        ranked = [(found, float(value), size) for found, value in sorted(scores, key=lambda pair: -pair[1])]
        kept = ranked if size == len(drawn) else _better_half(ranked)
        trail = [*kept, *(entry for entry in ranked if entry not in kept), *trail[len(left) :]]
        left = [found for found in left if any(found is entry[0] for entry in kept)]
    return tuple(trail)


def _better_half(ranked: Sequence[tuple[Proposal, float, int]]) -> list[tuple[Proposal, float, int]]:
    """The better half of the specific ones and of the general ones, each rounded up."""
    groups = ([entry for entry in ranked if (entry[0].source == "general") == general] for general in (False, True))
    kept = [entry for group in groups for entry in group[: (len(group) + 1) // 2]]
    return [entry for entry in ranked if entry in kept]


# --------------------------------------------------------------------------------------------------------- the sources


@dataclass(frozen=True, slots=True)
class _Group:
    """Spellings of one phrase: the usual one, how often it was met, and where, sorted."""

    text: str
    count: int
    origins: tuple[str, ...]


def _grouped(said: Iterable[tuple[str, Iterable[str], int]]) -> list[_Group]:
    """Phrases of (origin, its texts, count), the frequent ones first; what an origin says twice counts once."""
    forms: dict[Key, Counter[str]] = {}
    origins: dict[Key, list[str]] = {}
    for origin, texts, count in said:
        phrases = sorted(set(chain(*map(phrases_in, texts))), reverse=True)
        for words, phrase in {key(phrase): phrase for phrase in phrases}.items():
            forms.setdefault(words, Counter())[phrase] += count
            origins.setdefault(words, []).append(origin)
    groups = [_Group(_usual(forms[words]), forms[words].total(), tuple(sorted(origins[words]))) for words in forms]
    return sorted(groups, key=lambda group: (-group.count, group.text))


def _usual(forms: Counter[str]) -> str:
    return min(forms, key=lambda text: (-forms[text], len(text), text))


def _from_experts(heard: Iterable[_Group]) -> Iterator[Proposal]:
    for group in heard:
        yield Proposal(group.text, f"an expert wrote it {_times(group.count)}", "expert", group.count)


def _from_library(library: Mapping[str, PromptBundle], names: Iterable[str]) -> Iterator[Proposal]:
    own = set(map(key, names)) - {frozenset()}
    same = (
        (name, [phrase.text for phrase in bundle.language.specific if phrase.weight > 0], 1)
        for name, bundle in library.items()
        if own & {key(_last(name)), key(bundle.product), key(bundle.language.object or "")}
    )
    for group in _grouped(same):
        yield Proposal(group.text, _have_it(group.origins), "library", group.count)


def _from_siblings(
    siblings: Mapping[str, Sequence[str]], names: Iterable[str], nouns: Mapping[Key, str]
) -> tuple[list[Proposal], list[Proposal]]:
    """Phrases of siblings that resemble the product, the more alike ones first, and those of the others."""
    own = {word for name in names for word in key(name) if len(word) > 1}  # "bottle a" and "can a" are not alike
    similar = {name: f"; {name} has a similar name" for name in siblings if own & key(_last(name))}
    texts = {
        name: siblings[name] if name in similar else _without(siblings[name], key(_last(name))) for name in siblings
    }
    shared = {name: nouns.keys() & _specific_nouns(texts[name]) for name in siblings if name not in similar}
    sharing = {name: f"; {name} has {min(nouns[k] for k in keys)!r} too" for name, keys in shared.items() if keys}
    others = {name: "" for name, keys in shared.items() if not keys}
    first, second, last = (_of_siblings(texts, why) for why in (similar, sharing, others))
    return [*first, *second], last


def _without(texts: Iterable[str], name: Key) -> list[str]:
    """The texts that do not speak of a product: "bent wire on pcb" says nothing to a bottle."""
    return [text for text in texts if not name & key(text)]


def _of_siblings(siblings: Mapping[str, Sequence[str]], why: Mapping[str, str]) -> list[Proposal]:
    groups = _grouped((name, siblings[name], 1) for name in why)
    reasons = [_have_it(group.origins) + why[group.origins[0]] for group in groups]
    return [Proposal(group.text, reason, "sibling", group.count) for group, reason in zip(groups, reasons, strict=True)]


def _from_grammar(heard: Iterable[_Group], most: int) -> Iterator[Proposal]:
    """Shape x colour x noun: specific nouns first, then by `_attributes`, the frequent nouns first."""
    used: Counter[str] = Counter()
    for group in heard:
        used.update(dict.fromkeys({*COLOURS, *SHAPES}.intersection(group.text.split()), group.count))
    nouns = _grouped((group.text, (noun(group.text),), group.count) for group in heard)[:most]
    every = ((vague, words, group) for vague in (False, True) for words in _attributes(used) for group in nouns)
    for vague, words, group in every:
        if _vague(group.text) == vague and not set(words) & set(group.text.split()):
            reason = f"built from {group.text!r}, which an expert wrote {_times(group.count)}"
            yield Proposal(" ".join((*words, group.text)), reason, "grammar", group.count)


def _attributes(used: Mapping[str, int]) -> list[tuple[str, ...]]:
    """Colours, shapes, and pairs of both: those that were used first, then single ones."""
    single = [(word,) for word in (*COLOURS, *SHAPES)]
    pairs = [(shape, colour) for shape in SHAPES for colour in COLOURS]

    def rank(words: tuple[str, ...]) -> tuple[int, int, int]:
        return sum(word not in used for word in words), len(words), -sum(used.get(word, 0) for word in words)

    return sorted([*single, *pairs], key=rank)


def _general(heard: Iterable[_Group]) -> list[Proposal]:
    """All of `GENERAL`, those that experts wrote first."""
    written = {key(group.text): group.count for group in heard}
    return sorted((_control(text, written.get(key(text), 0)) for text in GENERAL), key=lambda found: -found.count)


def _control(text: str, count: int) -> Proposal:
    said = f"; an expert wrote it {_times(count)}" if count else ""
    return Proposal(text, f"a general word, to compare the specific ones with{said}", "general", count)


def _first_of_each(found: Iterable[Proposal], taken: set[Key]) -> list[Proposal]:
    first: dict[Key, Proposal] = {}
    for proposal in found:
        words = key(proposal.text)
        if words not in taken:
            first.setdefault(words, proposal)
    return list(first.values())


def _specific_nouns(texts: Iterable[str]) -> dict[Key, str]:
    nouns = sorted((noun(phrase) for text in texts for phrase in phrases_in(text)), reverse=True)
    return {key(word): word for word in nouns if not _vague(word)}


def _vague(text: str) -> bool:
    """Whether any defect could be called so; an empty text is vague."""
    return key(text) <= _VAGUE


def _have_it(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} has it"
    return f"{names[0]} and {names[1] if len(names) == 2 else f'{len(names) - 1} others'} have it"


def _last(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
