"""`saa explain`: why an image is marked, or why it is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.common import BundleOption, JsonOption, ProductOption, WorkspaceOption, answer, print_json, progress

if TYPE_CHECKING:
    from flows.explain import Explained
    from saa_core.answers import Expert, ExpertRegion
    from saa_core.explanation import Check, ExplainedCandidate, Explanation, PhraseScore


def explain(
    image: Annotated[str, typer.Argument(help="A name in the run, a file, or the beginning of the image's key.")],
    product: ProductOption,
    bundle: BundleOption = None,
    run: Annotated[
        str | None, typer.Option("--run", help="A run's id or its beginning. [default: the product's latest]")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Draw the candidates into this PNG file.")] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say why an image is marked or not: every region the models proposed, and the rule that removed it.

    Example: `saa explain 003.png --product bottle --out why.png`

    The first line is the answer. In the table each number stands under the limit it was held against, and ✗ marks the
    first that failed. With --bundle: what another bundle would do with the same image in the same set.
    """
    from flows.bundles import catalog_to_read
    from flows.explain import draw, explain_image
    from integrations.settings import Settings

    settings = Settings.load(workspace=workspace)
    with catalog_to_read(settings) as catalog, progress():
        found = explain_image(image, product, settings, catalog, run, bundle)
    picture = draw(found, settings, out) if out else None
    if as_json:
        print_json({**_described(found), "picture": str(picture) if picture else None})
    else:
        _tell(found, picture)


# ----------------------------------------------------------------------------------------------------------- for people


def _tell(found: Explained, picture: Path | None) -> None:
    from saa_core.answers import expert_words, map_words, verdict

    explanation = found.explanation
    answer(verdict(explanation))
    answer(_about(found))
    for line in expert_words(found.expert, explanation) if found.expert else ():
        answer(line)
    for line in (*_table(explanation), *_phrases(explanation)) if explanation.candidates else ():
        answer(line)
    answer(map_words(explanation))
    for note in found.notes:
        answer(f"note: {note}")
    if picture:
        answer(f"picture: {picture}")


def _about(found: Explained) -> str:
    bundle = found.explanation.bundle
    whose = "the run's own" if found.own else f"not the run's own, {found.run.bundle}"
    return f"{found.image.names[0]} of run {found.run.id}, by bundle {bundle.id} (profile {bundle.profile}; {whose})"


def _table(explanation: Explanation) -> Iterator[str]:
    """A line a candidate and a column a number, with its limit in the second line; a cross marks what failed."""
    from saa_core.answers import why

    checks = explanation.candidates[0].checks
    rows = [
        [
            "#",
            "box",
            "phrase",
            *(group[-1].name.removeprefix("largest ") for group in _columns(checks)),
            "saliency",
            "Eq. 7",
            "because",
        ],
        ["", "x0,y0 x1,y1", "", *(", ".join(map(_limit, group)) for group in _columns(checks)), "", "", ""],
    ]
    for each in explanation.candidates:
        x0, y0, x1, y1 = each.box
        numbers = [f"{'✗ ' if each.failed in group else ''}{_number(group[-1])}" for group in _columns(each.checks)]
        scores = f"{each.saliency:.3f}", f"{each.score:.3f}"
        because = f"{'shown: ' if each.rank else ''}{why(each, explanation)}"
        rows.append([str(each.number), f"{x0},{y0} {x1},{y1}", each.label, *numbers, *scores, because])
    return _aligned(rows)


def _columns(checks: Sequence[Check]) -> list[Sequence[Check]]:
    """The checks by what they measure: an area has two limits."""
    return [list(group) for _, group in groupby(checks, key=lambda check: check.name.rpartition(" ")[2])]


def _limit(check: Check) -> str:
    return "any" if check.limit is None else f"{check.sign} {_figure(check, check.limit)}"


def _number(check: Check) -> str:
    return "-" if check.value is None else _figure(check, check.value)


def _figure(check: Check, value: float) -> str:
    return f"{value:.0f}" if check.name == "rank" else f"{value:.3f}"


def _phrases(explanation: Explanation) -> Iterator[str]:
    """What each phrase says of each candidate: the raw score, and what is left after threshold and weight."""
    phrases = explanation.bundle.phrases
    yield "\nphrases: the raw score, and what is left of it after threshold and weight where that is another number"
    rows = [
        ["#", *(phrase.text for phrase in phrases)],
        ["", *(f">= {phrase.threshold:g}, x {phrase.weight:g}" for phrase in phrases)],
    ]
    rows += [[str(each.number), *map(_said, each.phrases)] for each in explanation.candidates]
    yield from _aligned(rows)
    yield ""


def _said(phrase: PhraseScore) -> str:
    raw, left = f"{phrase.raw:.3f}", f"{phrase.score:.3f}"
    return raw if raw == left else f"{raw} -> {left}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as their widest cell, however wide the terminal: a folded number is hard to read."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


# -------------------------------------------------------------------------------------------------------- for programs


def _described(found: Explained) -> dict[str, Any]:
    from saa_core.answers import map_words, verdict

    explanation, result = found.explanation, found.explanation.result
    return {
        "answer": verdict(explanation),
        "image": {"key": found.image.key, "names": list(found.image.names)},
        "run": found.run.id,
        "bundle": result.bundle,
        "own_bundle": found.own,
        "score": result.score,
        "region_floor": explanation.floor,
        "candidates": [_candidate(each, explanation) for each in explanation.candidates],
        "map": {**asdict(explanation.map), "words": map_words(explanation)},
        "expert": _expert(found.expert),
        "notes": list(found.notes),
    }


def _candidate(each: ExplainedCandidate, explanation: Explanation) -> dict[str, Any]:
    from saa_core.answers import why

    return {**_without_mask(each), "shown": each.rank is not None, "why": why(each, explanation)}


def _expert(said: Expert | None) -> dict[str, Any] | None:
    if said is None:
        return None
    regions = [_without_mask(region) for region in said.regions]
    return {**asdict(said), "updated": said.updated.isoformat(), "regions": regions}


def _without_mask(record: ExplainedCandidate | ExpertRegion) -> dict[str, Any]:
    return {name: value for name, value in asdict(record).items() if name != "mask"}
