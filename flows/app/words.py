"""Answers of the command line as the App shows them, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PASSED = {True: "passed", False: "**failed**", None: "-"}


def explained(found: Mapping[str, Any], rank: int | None = None) -> str:
    """What `saa explain --json` says of an image, or of one region of it.

    Args:
        found: The answer.
        rank: Of the region among those shown, 0 is the best; None is the whole image: what is shown on it, or the
            candidate that got furthest.
    """
    shown = [each for each in found["candidates"] if each["shown"]]
    meant = [each for each in shown if rank is not None and each["rank"] == rank + 1]
    lines = [] if meant else [found["answer"]]
    for each in meant or shown or found["candidates"][:1]:
        lines += [f"**{each['label']}** (#{each['number']}): {each['why']}.", _phrases(each), _checks(each)]
    return "\n\n".join([*lines, *(f"Note: {note}" for note in found["notes"])])


def _phrases(candidate: Mapping[str, Any]) -> str:
    rows = [f"| {each['text']} | {each['raw']:.3f} | {each['score']:.3f} |" for each in candidate["phrases"]]
    return "\n".join(["| phrase | raw score | after threshold and weight |", "| --- | --- | --- |", *rows])


def _checks(candidate: Mapping[str, Any]) -> str:
    rows = [
        f"| {each['rule']} | {each['name']} | {_figure(each['value'])} | {_limit(each)} | {_PASSED[each['passed']]} |"
        for each in candidate["checks"]
    ]
    return "\n".join(["| rule | what | value | limit | |", "| --- | --- | --- | --- | --- |", *rows])


def _limit(check: Mapping[str, Any]) -> str:
    return "any" if check["limit"] is None else f"{check['sign']} {_figure(check['limit'])}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
