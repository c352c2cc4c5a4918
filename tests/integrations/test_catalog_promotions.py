import getpass
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from integrations.catalog import Catalog
from saa_core.errors import BundleError
from saa_core.prompts import PromptBundle

ROOT = Path(__file__).parents[2]
A = PromptBundle(product="bottle")
B, C, D = (A.changed(parent=A.id, confidence={"top_k": k}) for k in (1, 2, 3))
SCREW = PromptBundle(product="screw")


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'catalog.sqlite'}"


@pytest.fixture
def catalog(catalog_url: str) -> Iterator[Catalog]:
    with Catalog(catalog_url) as opened:
        for bundle in (A, B, C, D, SCREW):
            opened.add_bundle(bundle)
        yield opened


def states(catalog: Catalog, product: str = "bottle") -> dict[str, str]:
    return {record.bundle.id: record.state for record in catalog.bundles(product)}


# ------------------------------------------------------------------------------------------------------------- promote


def test_the_first_champion(catalog: Catalog) -> None:
    record = catalog.promote(A.id, reason="it works", who="anna")
    assert record is not None
    assert (record.product, record.bundle, record.previous, record.kind) == ("bottle", A.id, None, "promote")
    assert (record.reason, record.who) == ("it works", "anna")
    assert catalog.champion("bottle") == A
    assert catalog.promotions("bottle") == (record,)


def test_the_champion_before_is_retired_and_nothing_else_changes(catalog: Catalog) -> None:
    catalog.promote(SCREW.id, reason="")
    catalog.promote(A.id, reason="")
    record = catalog.promote(B.id, reason="better")
    assert record is not None
    assert record.previous == A.id
    expected = {A.id: "retired", B.id: "champion", C.id: "proposed", D.id: "proposed"}
    assert states(catalog) == expected
    assert catalog.champion("screw") == SCREW
    assert [move.bundle for move in catalog.promotions("bottle")] == [A.id, B.id]
    assert [move.bundle for move in catalog.promotions("screw")] == [SCREW.id]


def test_bundles_of_every_state_can_be_promoted(catalog: Catalog) -> None:
    shipped = A.changed(parent=D.id)
    catalog.add_bundle(shipped, "library")
    for bundle in (shipped, A, shipped):
        assert catalog.promote(bundle.id[:8], reason="")
        assert catalog.champion("bottle") == bundle


def test_promoting_the_champion_again_changes_nothing(catalog: Catalog) -> None:
    catalog.promote(A.id, reason="")
    assert catalog.promote(A.id, reason="again") is None
    assert catalog.promote(A.id, reason="by one who compared it with another", expected=B.id) is None
    assert len(catalog.promotions("bottle")) == 1


def test_a_champion_that_was_never_promoted_is_taken_over(tmp_path: Path) -> None:
    with Catalog(url(tmp_path)) as catalog:
        catalog.add_bundle(A, "champion")
        catalog.add_bundle(B)
        catalog.promote(B.id, reason="", expected=A.id)
        assert catalog.rollback("bottle", reason="").bundle == A.id
        with pytest.raises(BundleError, match=f"{A.id} is the first"):
            catalog.rollback("bottle", reason="")


def test_a_decision_without_a_name_is_the_users(catalog: Catalog) -> None:
    record = catalog.promote(A.id, reason="")
    assert record is not None
    assert record.who == getpass.getuser()


def test_a_bundle_that_is_not_there(catalog: Catalog) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        catalog.promote("zzz", reason="")
    assert catalog.champion("bottle") is None


def test_a_comparison_with_a_champion_that_is_gone_promotes_nothing(catalog: Catalog) -> None:
    catalog.promote(A.id, reason="", expected=None)
    catalog.promote(B.id, reason="", who="anna", expected=A.id)
    for stale in (A.id, None):
        with pytest.raises(BundleError, match=f"{C.id}: {B.id} was promoted meanwhile by anna; refine again"):
            catalog.promote(C.id, reason="", expected=stale)
    assert states(catalog)[C.id] == "proposed"
    assert len(catalog.promotions("bottle")) == 2


def test_a_comparison_with_a_champion_that_never_was(catalog: Catalog) -> None:
    with pytest.raises(BundleError, match="a champion that its product does not have"):
        catalog.promote(C.id, reason="", expected=SCREW.id)
    assert catalog.champion("bottle") is None


# ------------------------------------------------------------------------------------------------------------ rollback


def test_rollback_goes_back_one_and_again_one_more(catalog: Catalog) -> None:
    for bundle in (A, B, C):
        catalog.promote(bundle.id, reason="")
    first = catalog.rollback("bottle", reason="misses scratches", who="anna")
    assert (first.bundle, first.previous, first.kind, first.who) == (B.id, C.id, "rollback", "anna")
    assert catalog.rollback("bottle", reason="").bundle == A.id
    assert states(catalog) == {A.id: "champion", B.id: "retired", C.id: "retired", D.id: "proposed"}
    with pytest.raises(BundleError, match=f"bottle: no earlier champion to go back to: {A.id} is the first"):
        catalog.rollback("bottle", reason="")


def test_a_rollback_is_of_one_product(catalog: Catalog) -> None:
    catalog.promote(A.id, reason="")
    catalog.promote(SCREW.id, reason="")
    catalog.promote(B.id, reason="")
    with pytest.raises(BundleError, match="screw: no earlier champion"):
        catalog.rollback("screw", reason="")
    assert catalog.rollback("bottle", reason="").bundle == A.id


def test_nothing_to_roll_back(catalog: Catalog) -> None:
    with pytest.raises(BundleError, match="pill: no earlier champion to go back to: there was none yet"):
        catalog.rollback("pill", reason="")


@settings(max_examples=40)
@given(st.lists(st.sampled_from([A, B, C, D, None]), max_size=12))
def test_any_promotions_and_rollbacks(steps: list[PromptBundle | None]) -> None:
    stack: list[str] = []
    parents = {bundle.id: bundle.parent for bundle in (A, B, C, D)}
    with Catalog("sqlite://") as catalog:
        for bundle in (A, B, C, D):
            catalog.add_bundle(bundle)
        for step in steps:
            if step is not None:
                catalog.promote(step.id, reason="")
                stack += [step.id] if [step.id] != stack[-1:] else []
            elif len(stack) > 1 or (stack and parents[stack[-1]] in parents):
                last = stack.pop()
                stack = stack or [str(parents[last])]
                assert catalog.rollback("bottle", reason="").bundle == stack[-1]
            else:
                with pytest.raises(BundleError):
                    catalog.rollback("bottle", reason="")
        champions = [identity for identity, state in states(catalog).items() if state == "champion"]
        assert champions == stack[-1:]
        moves = catalog.promotions("bottle")
        assert all(before.bundle == after.previous for before, after in pairwise(moves))
        assert [move.number for move in moves] == sorted({move.number for move in moves})


@pytest.mark.parametrize("statement", ["UPDATE promotions SET reason = 'mine'", "DELETE FROM promotions"])
def test_the_database_itself_keeps_the_history(catalog: Catalog, tmp_path: Path, statement: str) -> None:
    record = catalog.promote(A.id, reason="it works")
    with (
        closing(sqlite3.connect(tmp_path / "catalog.sqlite")) as raw,
        pytest.raises(sqlite3.Error, match="promotions: rows are never changed"),
    ):
        raw.execute(statement)
    assert catalog.promotions("bottle") == (record,)


# ----------------------------------------------------------------------------------------------------------- processes

PROMOTER = """
import sys
from integrations.catalog import Catalog
from saa_core.errors import BundleError

url, bundle, expected = sys.argv[1:]
with Catalog(url) as catalog:
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        print(catalog.promote(bundle, reason="", who=bundle, expected=expected or None) is not None)
    except BundleError as error:
        print(error)
"""

# Stops where the old champion is retired, the new one is in place, and nothing is committed.
KILLED = """
import sys, time
from sqlalchemy import Engine, event
from integrations.catalog import Catalog

@event.listens_for(Engine, "before_cursor_execute")
def pause(connection, cursor, statement, *rest):
    if statement.startswith("INSERT INTO promotions"):
        print("in the middle", flush=True)
        time.sleep(60)

with Catalog(sys.argv[1]) as catalog:
    catalog.promote(sys.argv[2], reason="")
"""


def python(code: str, *arguments: str) -> "subprocess.Popen[str]":
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, **pipes)


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


@pytest.mark.slow
@pytest.mark.parametrize("champion", [None, A])
def test_of_processes_that_promote_at_once_one_does(
    catalog: Catalog, catalog_url: str, champion: PromptBundle | None
) -> None:
    if champion is not None:
        catalog.promote(champion.id, reason="")
    before = len(catalog.promotions("bottle"))
    rivals = [python(PROMOTER, catalog_url, each.id, champion.id if champion else "") for each in (B, C, D)]
    assert [line(rival) for rival in rivals] == ["ready"] * 3
    for rival in rivals:
        go(rival)
    said = [rival.communicate(timeout=60)[0].strip() for rival in rivals]
    assert said.count("True") == 1
    winner = (B, C, D)[said.index("True")]
    assert catalog.champion("bottle") == winner
    assert list(states(catalog).values()).count("champion") == 1
    assert [move.bundle for move in catalog.promotions("bottle")[before:]] == [winner.id]
    overtaken = f"{winner.id} was promoted meanwhile by {winner.id}; refine again"
    assert sum(overtaken in each for each in said) == 2


@pytest.mark.slow
def test_a_process_killed_while_it_promotes_leaves_the_champion_in_place(catalog: Catalog, tmp_path: Path) -> None:
    first = catalog.promote(A.id, reason="")
    before = states(catalog)
    with python(KILLED, url(tmp_path), B.id) as victim, python(PROMOTER, url(tmp_path), C.id, A.id) as next_one:
        assert line(victim) == "in the middle"
        assert line(next_one) == "ready"
        assert states(catalog) == before
        go(next_one)  # it waits for the one that will never commit
        victim.kill()
        victim.wait()
        assert line(next_one) == "True"
    assert states(catalog) == {**before, A.id: "retired", C.id: "champion"}
    assert [move.bundle for move in catalog.promotions("bottle")] == [A.id, C.id]
    assert catalog.promotions("bottle")[0] == first


def test_a_rollback_of_the_first_champion_leads_to_what_it_was_made_from(tmp_path: Path) -> None:
    """Which may be a bundle of the library, of another product: that decides then, and its own state stays."""
    base = PromptBundle(product="generic")
    first = base.changed(product="bottle", parent=base.id, decision={"threshold": 0.7})
    with Catalog(f"sqlite:///{tmp_path / 'catalog.sqlite'}") as catalog:
        catalog.add_bundle(base, "library")
        catalog.add_bundle(first)
        catalog.promote(first.id, reason="better", expected=None)
        moved = catalog.rollback("bottle", reason="worse")
        assert (moved.bundle, moved.previous) == (base.id, first.id)
        champion = catalog.champion("bottle")
        assert champion is not None
        assert champion.id == base.id
        assert catalog.champion("generic") is None
        states = {record.bundle.id: record.state for record in catalog.bundles()}
        assert states == {base.id: "library", first.id: "retired"}
        with pytest.raises(BundleError, match="no earlier champion"):
            catalog.rollback("bottle", reason="further")
        catalog.promote(first.id, reason="after all", expected=base.id)
        again = catalog.champion("bottle")
        assert again is not None
        assert again.id == first.id
        assert catalog.rollback("bottle", reason="no").bundle == base.id
