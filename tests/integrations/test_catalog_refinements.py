import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from integrations.catalog import Catalog, RefinementRecord
from saa_core.errors import StoreError
from saa_core.prompts import PromptBundle
from saa_core.refinement.outcome import EvidenceSummary, Figures, Interval, Refinement

ROOT = Path(__file__).parents[2]
NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
CHAMPION = PromptBundle(product="bottle")
BETTER = CHAMPION.changed(parent=CHAMPION.id, decision={"threshold": 0.3})
REFINEMENT = Refinement(
    product="bottle",
    outcome="promoted",
    reasons=("better on every resample",),
    champion=CHAMPION,
    proposed=BETTER,
    seed=7,
    configurations=2000,
    resamples=200,
    risk=False,
    evidence=EvidenceSummary("e" * 16, 10, 20, 0, 6, 6, 31),
    gain=Interval(0.05, 0.01, 0.09),
    before=Figures(0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, None, {"crack": 0.5}),
    after=Figures(0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.1, {"crack": 0.6}),
)
RECORD = replace(RefinementRecord.of(REFINEMENT), created=NOON)


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'catalog.sqlite'}"


@pytest.fixture
def catalog(catalog_url: str) -> Iterator[Catalog]:
    with Catalog(catalog_url) as opened:
        opened.add_bundle(CHAMPION, "champion")
        opened.add_bundle(BETTER)
        yield opened


# --------------------------------------------------------------------------------------------------------- refinements


def test_a_record_says_where_the_bundle_comes_from() -> None:
    assert (RECORD.bundle, RECORD.product, RECORD.champion) == (BETTER.id, "bottle", CHAMPION.id)
    assert (RECORD.evidence, RECORD.outcome, RECORD.seed) == ("e" * 16, "promoted", 7)
    assert RECORD.content["reasons"] == ["better on every resample"]
    assert RECORD.content["gain"] == {"mean": 0.05, "lower": 0.01, "upper": 0.09}
    assert RECORD.content["before"]["recall"] == {"crack": 0.5}
    assert RECORD.content["held_before"] is None
    assert ["decision.threshold", CHAMPION.decision.threshold, 0.3] in RECORD.content["changes"]


def test_a_refinement_without_a_proposal_has_no_record() -> None:
    with pytest.raises(ValueError, match="proposes no bundle"):
        RefinementRecord.of(replace(REFINEMENT, outcome="kept", proposed=None))


def test_a_refinement_comes_back_as_it_was_given(catalog: Catalog) -> None:
    catalog.record_refinement(RECORD)
    assert catalog.refinement(BETTER.id) == RECORD
    assert catalog.refinements("bottle") == (RECORD,)
    assert catalog.refinement(CHAMPION.id) is None
    assert catalog.refinements("screw") == ()


def test_a_bundle_and_its_evidence_are_known_by_their_first_record(catalog: Catalog) -> None:
    catalog.record_refinement(RECORD)
    catalog.record_refinement(replace(RECORD, outcome="proposed", seed=8, created=NOON + timedelta(days=1)))
    assert catalog.refinements("bottle") == (RECORD,)


def test_a_bundle_that_was_found_twice_has_its_latest_evidence(catalog: Catalog) -> None:
    early, late = (
        replace(RECORD, evidence=name, created=NOON + timedelta(days=n)) for n, name in ((-1, "z"), (1, "a"))
    )
    for record in (late, RECORD, early):
        catalog.record_refinement(record)
    assert catalog.refinements("bottle") == (early, RECORD, late)
    assert catalog.refinement(BETTER.id) == late


def test_a_refinement_needs_its_bundle(catalog: Catalog) -> None:
    with pytest.raises(StoreError, match=r"(?i)foreign key"):
        catalog.record_refinement(replace(RECORD, bundle="nobody"))


# ------------------------------------------------------------------------------------------------------------ hold-out


def test_a_lot_is_assigned_once(catalog: Catalog) -> None:
    assert catalog.holdout("bottle") == {}
    assert catalog.assign_holdout("bottle", {"L2": True, "L1": False}) == {"L1": False, "L2": True}
    assert catalog.assign_holdout("bottle", {"L2": False, "L1": True, "L3": True}) == {
        "L1": False,
        "L2": True,
        "L3": True,
    }
    assert catalog.assign_holdout("screw", {"L2": False}) == {"L2": False}
    assert catalog.holdout("bottle") == {"L1": False, "L2": True, "L3": True}
    assert catalog.assign_holdout("pill", {}) == {}


def test_looks_are_counted_by_product(catalog: Catalog) -> None:
    assert catalog.look("bottle", "e1", CHAMPION.id, BETTER.id, 0.25) == 1
    assert catalog.look("screw", "e1", "s", "t", None) == 1
    assert catalog.look("bottle", "e1", CHAMPION.id, BETTER.id, None) == 2
    first, second = catalog.looks("bottle")
    assert (first.evidence, first.champion, first.bundle, first.gain) == ("e1", CHAMPION.id, BETTER.id, 0.25)
    assert second.gain is None
    assert second.at >= first.at
    assert catalog.looks("pill") == ()


STATEMENTS = [
    "UPDATE refinements SET outcome = 'kept'",
    "DELETE FROM refinements",
    "UPDATE holdout SET held = 0",
    "DELETE FROM holdout",
    "UPDATE looks SET gain = 9",
    "DELETE FROM looks",
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_the_database_itself_keeps_the_rows(catalog: Catalog, tmp_path: Path, statement: str) -> None:
    catalog.record_refinement(RECORD)
    catalog.assign_holdout("bottle", {"L1": True})
    catalog.look("bottle", "e", CHAMPION.id, BETTER.id, 0.5)
    looks = catalog.looks("bottle")
    with (
        closing(sqlite3.connect(tmp_path / "catalog.sqlite")) as raw,
        pytest.raises(sqlite3.Error, match="rows are never changed"),
    ):
        raw.execute(statement)
    assert (catalog.refinements("bottle"), catalog.holdout("bottle")) == ((RECORD,), {"L1": True})
    assert catalog.looks("bottle") == looks


# Each holds out the lots that the other does not.
ASSIGNER = """
import sys
from integrations.catalog import Catalog

url, parity = sys.argv[1], int(sys.argv[2])
with Catalog(url) as catalog:
    print("ready", flush=True)
    sys.stdin.readline()
    for n in range(50):
        catalog.assign_holdout("bottle", {f"L{n}": n % 2 == parity})
        catalog.look("bottle", str(parity), "a", "b", None)
    print(sorted(catalog.holdout("bottle").items()))
"""


def test_two_processes_assign_the_same_lots_and_look(catalog: Catalog, tmp_path: Path) -> None:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    commands = [[sys.executable, "-c", ASSIGNER, url(tmp_path), parity] for parity in "01"]
    writers = [subprocess.Popen(command, **pipes) for command in commands]
    assert [writer.stdout.readline() for writer in writers if writer.stdout] == ["ready\n"] * 2
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    said = [writer.communicate(timeout=60)[0].strip() for writer in writers]
    assert said == [str(sorted(catalog.holdout("bottle").items()))] * 2
    assert len(catalog.holdout("bottle")) == 50
    assert len({look.number for look in catalog.looks("bottle")}) == 100
