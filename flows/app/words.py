"""Answers of the command line as the App shows them, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def explained(found: Mapping[str, Any], rank: int | None = None) -> str:
    """What `saa explain --json` says of an image, or of one region of it.

    Args:
        found: The answer.
        rank: Of the region among those shown, 0 is the best; None is the whole image.
    """
    candidates = [each for each in found["candidates"] if rank is None or each["rank"] == rank + 1]
    lines = [found["answer"]] if rank is None or not candidates else []
    for each in candidates:
        lines += [f"**{each['label']}** (#{each['number']}): {each['why']}.", _phrases(each), _checks(each)]
    return "\n\n".join([*lines, *(f"Note: {note}" for note in found["notes"])])


def _phrases(candidate: Mapping[str, Any]) -> str:
    rows = [f"| {each['text']} | {each['raw']:.3f} | {each['score']:.3f} |" for each in candidate["phrases"]]
    return "\n".join(["| phrase | raw score | after threshold and weight |", "| --- | --- | --- |", *rows])


def _checks(candidate: Mapping[str, Any]) -> str:
    rows = [
        f"| {each['rule']} | {each['name']} | {_figure(each['value'])} | {each['sign']} {_figure(each['limit'])} | "
        f"{'passed' if each['passed'] else '-' if each['passed'] is None else '**failed**'} |"
        for each in candidate["checks"]
    ]
    return "\n".join(["| rule | what | value | limit | |", "| --- | --- | --- | --- | --- |", *rows])


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
