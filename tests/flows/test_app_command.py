"""What the App's operators run, and how they word its answers; no server is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.app.command import saa
from flows.app.words import explained
from saa_core.errors import SaaError


class TestCommand:
    def test_the_workspace_is_the_servers(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SAA_WORKSPACE", str(tmp_path / "w"))
        assert saa("config", "show")["workspace"]["value"] == str(tmp_path / "w")

    def test_an_error_in_its_own_words(self, tmp_path: Path) -> None:
        with pytest.raises(SaaError, match=r"^mvtec/bottl: no such bundle in the library, did you mean"):
            saa("bundle", "show", "mvtec/bottl", "--workspace", str(tmp_path / "w"))

    def test_one_that_could_not_even_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTHONHOME", "/none")
        with pytest.raises(SaaError, match=r"^saa ended with exit code 1: "):
            saa("config", "show")


class TestWords:
    def test_the_region_that_is_meant(self) -> None:
        told = explained(answer(), rank=1)
        assert told.startswith("**dent** (#2): sure enough.")
        assert "| dent | 0.500 | 0.400 |" in told
        assert "| region floor | confidence | 0.7 | >= 0.3 | passed |" in told
        assert "| property | largest area | 0.1 | any | passed |" in told
        assert "scratch" not in told

    def test_an_image_is_what_is_shown_on_it(self) -> None:
        told = explained(answer())
        assert told.startswith("Marked: 2 regions.")
        assert [name in told for name in ("**scratch**", "**dent**", "**flaw**")] == [True, True, False]

    def test_an_image_without_regions_is_the_one_that_got_furthest(self) -> None:
        found = answer() | {
            "answer": "Not marked.",
            "candidates": [candidate(1, "flaw", None), candidate(2, "far", None)],
        }
        told = explained(found)
        assert told.startswith("Not marked.")
        assert "| top K | rank | - | <= 5 | **failed** |" in told
        assert ("**flaw**" in told, "**far**" in told) == (True, False)

    def test_a_region_that_is_no_more(self) -> None:
        told = explained(answer() | {"notes": ["label the images again"]}, rank=7)
        assert told.startswith("Marked: 2 regions.")
        assert told.endswith("Note: label the images again")

    def test_nothing_at_all(self) -> None:
        assert explained({"answer": "Not marked.", "candidates": [], "notes": []}) == "Not marked."


def answer() -> dict[str, Any]:
    candidates = [candidate(1, "scratch", 1), candidate(2, "dent", 2), candidate(3, "flaw", None)]
    return {"answer": "Marked: 2 regions.", "candidates": candidates, "notes": []}


def candidate(number: int, label: str, rank: int | None) -> dict[str, Any]:
    checks = [
        check("property", "largest area", 0.1, "<", None, passed=True),
        check("region floor", "confidence", 0.7, ">=", 0.3, passed=True),
        check("top K", "rank", rank, "<=", 5, passed=rank is not None),
    ]
    phrases = [{"text": label, "raw": 0.5, "score": 0.4}]
    told = {"number": number, "label": label, "rank": rank, "shown": rank is not None, "why": "sure enough"}
    return told | {"phrases": phrases, "checks": checks}


def check(rule: str, name: str, value: float | None, sign: str, limit: float | None, *, passed: bool) -> dict[str, Any]:
    return {"rule": rule, "name": name, "value": value, "sign": sign, "limit": limit, "passed": passed}
