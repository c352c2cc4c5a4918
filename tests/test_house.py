"""Promises about the project as a whole, which no single module can keep."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import typer.main

import saa_core

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()

HEAVY = {"torch", "torchvision", "transformers", "prefect", "sqlalchemy", "fsspec", "fiftyone"}
TERMINAL = {"typer", "rich"}
ARRAYS = {"numpy", "scipy", "cv2", "PIL", "skimage", "pydantic"}
TEXT = {".cfg", ".html", ".ini", ".j2", ".jinja", ".mako", ".md", ".py", ".toml", ".txt", ".yaml", ".yml"}


def test_version_is_one() -> None:
    assert saa_core.__version__ == PROJECT["version"]


def test_importing_the_core_loads_nothing_heavy() -> None:
    assert (HEAVY | TERMINAL).isdisjoint(loaded_by("saa_core", "saa_core.models"))


def test_the_command_line_shows_its_help_without_the_libraries_of_its_work() -> None:
    assert (HEAVY | ARRAYS | {"asyncio", "httpx"}).isdisjoint(loaded_by("flows.cli"))


def test_readme_names_only_targets_that_make_has() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "setup", "check"} <= targets
    assert set(re.findall(r"\bmake ([a-z]+)\b", code_of(README))) <= targets


def test_readme_names_only_verbs_that_saa_has() -> None:
    from flows.cli import app  # here, so that a command line that cannot start breaks this promise alone

    verbs = set(typer.main.get_command(app).commands)
    assert set(re.findall(r"(?:^|`)saa ([a-z]+)", code_of(README), re.MULTILINE)) <= verbs


def test_every_pin_is_exact_or_says_why_not() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    loose = [i for i, line in enumerate(lines) if line and not line.startswith("#") and "==" not in line]
    assert all(lines[i - 1].startswith("#") for i in loose)


def test_no_file_names_a_package_registry() -> None:
    # In pieces, or this file would be the first offender.
    hosts = re.compile("|".join(("py" + r"pi\.org", "python" + r"hosted\.org", "test" + r"\.pypi", "--" + "index-url")))
    offenders = [path for path in own_files() if hosts.search(path.read_text(encoding="utf-8"))]
    assert offenders == []


def loaded_by(*modules: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after importing these."""
    code = f"import sys, {', '.join(modules)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def code_of(markdown: str) -> str:
    """Fenced blocks and inline code; prose may say what it likes."""
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", markdown, re.DOTALL))


def own_files() -> Iterator[Path]:
    """Text files of the project, found without git, which a tarball lacks."""
    for folder in (".", ".ci", "benchmarks", "flows", "tasks", "integrations", "saa_core", "tests"):
        pattern = "*" if folder in (".", ".ci") else "**/*"
        yield from (p for p in (ROOT / folder).glob(pattern) if p.suffix in TEXT or p.name in ("Makefile", "run"))
