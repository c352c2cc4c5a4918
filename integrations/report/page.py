"""What the HTML pages have in common: where templates and styles are, how they are written, and a few words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from integrations.files import write_atomic

HERE = Path(__file__).parent
"""Folder of the templates, styles and scripts."""


def environment(*styles: str) -> Environment:
    """Jinja2's, with everything escaped and nothing undefined; ``style`` is the content of these files of `HERE`."""
    made = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(duration=duration, figure=figure)
    made.globals["style"] = Markup("\n").join(Markup((HERE / name).read_text("utf-8")) for name in styles)
    return made


def write_page(template: Template, content: Mapping[str, Any], path: Path) -> Path:
    """Write the page piece by piece from what the template asks for; the file appears whole or not at all.

    Raises:
        StoreError: The file cannot be written.
    """
    # A name may hold bytes that are no UTF-8; the page shows '?' for them.
    write_atomic(path, b"".join(part.encode("utf-8", "replace") for part in template.generate(content)))
    return path


def duration(seconds: float) -> str:
    """As a person says it: ``0.25 s``, ``3.2 s``, ``1 min 00 s``, ``2 h 01 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def figure(value: float | None) -> str:
    """Three decimals; a whole number as it is, a dash for what is not defined."""
    return "–" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"
