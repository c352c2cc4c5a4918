"""What is thrown away, what stays, and that nobody misses what went."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from integrations.blob_keys import KINDS
from integrations.blobs import BlobStore
from integrations.catalog import Catalog, RunRecord
from integrations.catalog.records import now
from integrations.retention import Garbage, garbage, throw_away
from saa_core.errors import StoreError
from saa_core.models import build
from saa_core.prompts import PromptBundle
from tests.plates import BUNDLE, COUNT, PRODUCT, Labelled, Plates, perfect

pytestmark = pytest.mark.usefixtures("one_thread")
JUNK = "ab12" * 16
LOST_RUN = "0123456789abcdef"


def collected(plates: Plates) -> Garbage:
    return garbage(plates.catalog, plates.settings, lambda run, bundle: build(bundle=bundle), now())


def clean(plates: Plates) -> Garbage:
    found = collected(plates)
    throw_away(plates.catalog, plates.settings, found)
    return found


def put(plates: Plates, kind: str, key: str = JUNK) -> Path:
    BlobStore(plates.settings.blobs_url).put(kind, key, b"junk")
    return plates.settings.workspace / "blobs" / kind / key[:2] / key


def age(folder: Path, days: float = 3) -> None:
    """As if everything had been written, and every run begun, days ago."""
    moment = (now() - timedelta(days=days)).timestamp()
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (moment, moment))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_a_run_needs_stays_and_the_rest_goes(plates: Plates) -> None:
    store = plates.settings.workspace / "blobs"
    before = files(store)
    junk = [put(plates, kind) for kind in sorted(KINDS)]
    cut_off = store / "features" / "ab" / f".{JUNK[:40]}.0f.tmp"
    cut_off.write_bytes(b"half")
    foreign, evidence = store / "README", put(plates, "evidence")
    foreign.write_text("mine")
    age(store)
    found = clean(plates)
    assert found.by_kind == dict.fromkeys(KINDS, (1, 40)) | {"cut off": (1, 4)}
    assert found.kept == sum(map(len, before.values())) + 40
    assert not any(path.exists() for path in (*junk, cut_off))
    assert files(store) == before | {"README": b"mine", str(evidence.relative_to(store)): evidence.read_bytes()}
    assert clean(plates).by_kind == {}


@given(
    kinds=st.sets(st.sampled_from(sorted(KINDS)), min_size=1),
    keys=st.sets(st.text("0123456789abcdef", min_size=64, max_size=64), max_size=3),
)
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_exactly_what_nothing_leads_to_is_found(plates: Plates, kinds: set[str], keys: set[str]) -> None:
    store = plates.settings.workspace / "blobs"
    for kind in kinds:
        for key in keys:
            put(plates, kind, key)
    age(store)
    found = clean(plates)
    assert {(blob.kind, blob.key) for blob in found.blobs} == {(kind, key) for kind in kinds for key in keys}


@pytest.mark.parametrize("new_phrases", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_nobody_misses_what_went(plates: Plates, labelled: Labelled, new_phrases: bool) -> None:
    """A refinement and its champion: all again, without a model, even where it asked for new phrases."""
    refs = labelled.refs
    plates.catalog.add_reviews(perfect(refs))
    first = plates.refine(new_phrases=new_phrases, risk=True)
    tried = PromptBundle.from_content({**BUNDLE.model_dump(mode="json"), "language": {"specific": ["deep groove"]}})
    plates.store.candidates(refs[0], tried, plates.store.context(refs))  # words of no bundle, on a reviewed set
    put(plates, "candidates")
    age(plates.settings.workspace)
    assert set(clean(plates).by_kind) <= {"candidates", "calm"}
    plates.store = plates.opened()
    context = plates.store.context(refs)
    assert plates.store.has_candidates(refs[0], tried, context)
    assert plates.refine(new_phrases=new_phrases, risk=True) == first
    levels = plates.store.levels(refs, BUNDLE, context)
    for ref in refs:
        plates.store.decide(ref, BUNDLE, context, levels)
        assert plates.store.known_descriptor(ref.key) is not None
    assert plates.store.method.calls == 0


def test_words_of_no_bundle_go_where_nothing_was_reviewed(plates: Plates, labelled: Labelled) -> None:
    tried = BUNDLE.changed(language={"agnostic": [], "specific": [{"text": "deep groove"}]})
    context = plates.store.context(labelled.refs)
    plates.store.candidates(labelled.refs[0], tried, context)
    age(plates.settings.workspace)
    assert set(clean(plates).by_kind) == {"candidates"}
    assert not plates.store.has_candidates(labelled.refs[0], tried, context)


def test_those_of_a_bundle_stay(plates: Plates, labelled: Labelled) -> None:
    proposed = BUNDLE.changed(language={"agnostic": [], "specific": [{"text": "deep groove"}]})
    plates.catalog.add_bundle(proposed, "proposed")
    context = plates.store.context(labelled.refs)
    plates.store.candidates(labelled.refs[0], proposed, context)
    age(plates.settings.workspace)
    assert clean(plates).by_kind == {}


def test_what_is_young_stays(plates: Plates) -> None:
    young = put(plates, "features")
    (plates.settings.runs / LOST_RUN).mkdir(parents=True)
    assert clean(plates).by_kind == {}
    assert young.exists()


def test_a_run_that_has_begun_keeps_what_was_written_since(plates: Plates) -> None:
    put(plates, "features", "01" * 32)
    age(plates.settings.workspace, days=9)
    begun = RunRecord("run2", PRODUCT, BUNDLE.id, "batch", {}, "0", created=now() - timedelta(days=5))
    plates.catalog.begin_run(begun)
    since = put(plates, "features")
    age(since, days=3)
    found = clean(plates)
    assert [run.id for run in found.unfinished] == ["run2"]
    assert [blob.key for blob in found.blobs] == ["01" * 32]
    assert since.exists()


def test_a_run_that_begins_meanwhile_ends_it(plates: Plates) -> None:
    junk = put(plates, "context")
    age(plates.settings.workspace)
    found = collected(plates)
    plates.catalog.begin_run(RunRecord("run2", PRODUCT, BUNDLE.id, "batch", {}, "0"))
    with pytest.raises(StoreError, match="a run began or ended meanwhile"):
        throw_away(plates.catalog, plates.settings, found)
    assert junk.exists()


def test_folders_of_runs(plates: Plates) -> None:
    runs = plates.settings.runs
    for name in ("run1", LOST_RUN, "mine", ".hidden"):
        (runs / name / "masks").mkdir(parents=True)
        (runs / name / "masks" / "a.png").write_bytes(b"12345")
    age(plates.settings.workspace)
    found = clean(plates)
    assert found.by_kind["runs"][0] == 1
    assert found.by_kind["runs"][1] >= 5
    assert sorted(path.name for path in runs.iterdir()) == [".hidden", "mine", "run1"]


def test_a_catalog_without_runs_may_be_another_ones(tmp_path: Path) -> None:
    plates = Plates.at(tmp_path / "w")
    junk = put(plates, "features")
    age(plates.settings.workspace)
    with pytest.raises(StoreError, match="knows no run"):
        collected(plates)
    assert junk.exists()
    plates.catalog.close()


def test_models_that_are_not_there_end_it(plates: Plates) -> None:
    def absent(run: RunRecord, bundle: PromptBundle) -> object:
        raise StoreError("weights", "are not there")

    junk = put(plates, "features")
    age(plates.settings.workspace)
    with pytest.raises(StoreError, match="are not there"):
        garbage(plates.catalog, plates.settings, absent, now())  # type: ignore[arg-type]
    assert junk.exists()


def test_a_damaged_blob_of_a_reviewed_set_goes(plates: Plates, labelled: Labelled) -> None:
    plates.catalog.add_reviews(perfect(labelled.refs[:COUNT]))
    path = put(plates, "candidates")
    path.write_bytes(b"half")
    age(plates.settings.workspace)
    assert clean(plates).by_kind == {"candidates": (1, 4)}


def test_all_rows_stay(plates: Plates, labelled: Labelled) -> None:
    plates.catalog.add_reviews(perfect(labelled.refs))
    plates.catalog.promote(BUNDLE.id, reason="a test")
    asked: list[Callable[[Catalog], object]] = [
        lambda c: c.reviews(PRODUCT),
        lambda c: c.promotions(PRODUCT),
        lambda c: c.every_run(),
        lambda c: c.bundles(),
        lambda c: c.images_of("run1"),
    ]
    before = [ask(plates.catalog) for ask in asked]
    age(plates.settings.workspace)
    clean(plates)
    assert [ask(plates.catalog) for ask in asked] == before
