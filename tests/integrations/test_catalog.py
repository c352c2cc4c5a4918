import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from integrations.catalog import Catalog, RunImage, RunRecord
from saa_core.errors import BundleError, StoreError
from saa_core.prompts import PromptBundle
from saa_core.types import ImageRef

BUNDLE = PromptBundle(product="bottle")
RUN = RunRecord("abc1", "bottle", BUNDLE.id, "batch", {"features": "filter-bank@1"}, "0.1.0", "images")
FIGURES = {"labelled": 2, "reused": 1, "quarantined": 1, "regions": 5, "model_calls": 9, "seconds": 1.5}
ROOT = Path(__file__).parents[2]


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'catalog.sqlite'}"


@pytest.fixture
def catalog(catalog_url: str) -> Iterator[Catalog]:
    with Catalog(catalog_url) as opened:
        opened.add_bundle(BUNDLE)
        yield opened


def ref(name: str, *others: str, lot: str | None = None) -> ImageRef:
    return ImageRef(name.rjust(64, "0"), f"/data/{name}", (name, *others), lot)


# ---------------------------------------------------------------------------------------------------------------- runs


def test_a_run_comes_back_as_it_was_given(catalog: Catalog) -> None:
    assert catalog.begin_run(RUN) == RUN
    assert catalog.run("abc1") == RUN


def test_beginning_again_changes_nothing(catalog: Catalog) -> None:
    catalog.begin_run(RUN)
    done = catalog.finish_run("abc1", **FIGURES)
    again = catalog.begin_run(replace(RUN, created=RUN.created + timedelta(days=1), source="elsewhere"))
    assert again == done
    assert again.state == "done"


def test_finishing_keeps_the_figures(catalog: Catalog) -> None:
    catalog.begin_run(RUN)
    done = catalog.finish_run("abc1", **FIGURES)
    assert done.finished is not None
    assert done.finished >= RUN.created
    assert done == replace(RUN, state="done", finished=done.finished, **FIGURES)
    assert catalog.run("abc1") == done
    assert catalog.finish_run("abc1", **(FIGURES | {"reused": 7})).reused == 7


def test_a_run_needs_its_bundle(catalog: Catalog) -> None:
    with pytest.raises(StoreError, match="nobody: not in the catalog"):
        catalog.begin_run(replace(RUN, bundle="nobody"))


def test_runs_by_the_beginning_of_their_id(catalog: Catalog) -> None:
    for name in ("abc1", "abc2", "abd", "a%"):
        catalog.begin_run(replace(RUN, id=name))
    assert catalog.run("abd").id == "abd"
    assert catalog.run("a%").id == "a%"
    with pytest.raises(StoreError, match="abc: several runs begin like this: abc1, abc2"):
        catalog.run("abc")
    with pytest.raises(StoreError, match="adb: no such run, did you mean abd"):
        catalog.run("adb")
    with pytest.raises(StoreError, match="no such run"):
        catalog.run("a_c1")


def test_a_run_by_its_whole_id_only(catalog: Catalog) -> None:
    catalog.begin_run(RUN)
    assert catalog.find_run("abc1") == RUN
    assert catalog.find_run("abc") is None


def test_an_id_that_begins_another_is_itself(catalog: Catalog) -> None:
    for name in ("ab", "abc1"):
        catalog.begin_run(replace(RUN, id=name))
    assert catalog.run("ab").id == "ab"


def test_no_run_yet(catalog: Catalog) -> None:
    assert catalog.latest_run() is None
    with pytest.raises(StoreError, match="there is none yet"):
        catalog.run("x")


def test_the_latest_run(catalog: Catalog) -> None:
    other = PromptBundle(product="screw")
    catalog.add_bundle(other)
    catalog.begin_run(replace(RUN, id="old", created=RUN.created - timedelta(days=2)))
    catalog.begin_run(replace(RUN, id="new", created=RUN.created - timedelta(days=1)))
    catalog.begin_run(replace(RUN, id="screw", product="screw", bundle=other.id))
    assert [getattr(catalog.latest_run(product), "id", None) for product in (None, "bottle", "screw", "pill")] == [
        "screw", "new", "screw", None,
    ]  # fmt: skip
    catalog.finish_run("old", **FIGURES)
    assert getattr(catalog.latest_run("bottle"), "id", None) == "old"


def test_the_latest_run_in_one_state(catalog: Catalog) -> None:
    catalog.begin_run(RUN)
    assert catalog.latest_run("bottle", state="done") is None
    done = catalog.finish_run("abc1", **FIGURES)
    later = catalog.begin_run(replace(RUN, id="later", created=RUN.created + timedelta(days=1)))
    assert catalog.latest_run("bottle", state="done") == done
    assert catalog.latest_run(state="running") == later


@pytest.mark.parametrize("call", ["record", "finish"])
def test_a_run_that_was_not_begun(catalog: Catalog, call: str) -> None:
    with pytest.raises(StoreError, match="x: no such run"):
        catalog.record_images("x", []) if call == "record" else catalog.finish_run("x", **FIGURES)


# -------------------------------------------------------------------------------------------------------------- images


def test_images_come_back_sorted(catalog: Catalog) -> None:
    catalog.begin_run(RUN)
    good = RunImage.of(ref("b.png", "c.png", lot="L1"), "labelled", height=4, width=5, bytes=99, score=0.25, regions=2)
    damaged = RunImage.of(ref("a.png"), "quarantined", reason="truncated")
    unread = RunImage("d.png", "quarantined", reason="Permission denied")
    catalog.record_images("abc1", [unread, good, damaged])
    assert catalog.images_of("abc1") == (damaged, good, unread)
    assert unread.names == ("d.png",)
    assert catalog.images_of("other") == ()


def test_noting_an_image_again_replaces_it(catalog: Catalog) -> None:
    catalog.begin_run(RUN)
    image = RunImage.of(ref("a.png"), "quarantined", reason="truncated")
    catalog.record_images("abc1", [image, RunImage("b.png", "quarantined", reason="empty file")])
    better = RunImage.of(ref("a.png"), "labelled", height=4, width=5, score=0.5)
    catalog.record_images("abc1", [better])
    catalog.record_images("abc1", [better])
    assert catalog.images_of("abc1")[0] == better
    assert len(catalog.images_of("abc1")) == 2


def test_what_is_known_of_an_image_is_not_forgotten(catalog: Catalog) -> None:
    catalog.begin_run(RUN)
    catalog.begin_run(replace(RUN, id="later"))
    catalog.record_images("abc1", [RunImage.of(ref("a.png"), "labelled", height=4, width=5, bytes=9, score=0.5)])
    catalog.record_images("later", [RunImage.of(ref("a.png"), "quarantined", reason="more than 10 pixels")])
    (image,) = catalog.images_of("later")
    assert (image.height, image.width, image.bytes, image.score) == (4, 5, 9, None)


def test_a_name_whose_bytes_changed_means_each_in_its_run(catalog: Catalog) -> None:
    catalog.begin_run(RUN)
    catalog.begin_run(replace(RUN, id="later"))
    old, new = (ImageRef(key * 64, f"/{key}/a.png", ("a.png",)) for key in "12")
    catalog.record_images("abc1", [RunImage.of(old, "labelled")])
    catalog.record_images("later", [RunImage.of(new, "labelled")])
    assert [catalog.images_of(run)[0].uri for run in ("abc1", "later")] == ["/1/a.png", "/2/a.png"]


def test_a_run_without_a_lot_does_not_take_it_from_the_image(catalog: Catalog) -> None:
    catalog.begin_run(RUN)
    catalog.begin_run(replace(RUN, id="later"))
    catalog.record_images("abc1", [RunImage.of(ref("a.png", lot="L1"), "labelled")])
    catalog.record_images("later", [RunImage.of(ref("a.png"), "labelled")])
    assert [catalog.images_of(run)[0].lot for run in ("abc1", "later")] == ["L1", "L1"]
    catalog.record_images("later", [RunImage.of(ref("a.png", lot="L2"), "labelled")])
    assert catalog.lots("bottle", [ref("a.png").key]) == {ref("a.png").key: "L2"}


def test_the_lot_of_each_image(catalog: Catalog) -> None:
    catalog.begin_run(RUN)
    first, second, third = (RunImage.of(each, "labelled") for each in (ref("1", lot="L1"), ref("2"), ref("3", lot="")))
    renamed = replace(second, name="0", names=("0",))
    catalog.record_images("abc1", [first, second, third])
    catalog.record_images("abc1", [replace(renamed, lot="L9"), replace(second, name="9", names=("9",), lot="L8")])
    keys = [str(image.key) for image in (first, second, third)]
    assert catalog.lots("bottle", [*keys, "z" * 64]) == {keys[0]: "L1", keys[1]: "L9", keys[2]: ""}
    assert catalog.lots("bottle", keys[:1]) == {keys[0]: "L1"}
    assert catalog.lots("screw", keys) == {}


def test_refs_have_every_name_and_the_lot_that_is_known(catalog: Catalog) -> None:
    catalog.begin_run(RUN)
    key = ref("a.png").key
    first, second = RunImage("b.png", "labelled", key=key, uri="/data/b"), RunImage("a.png", "labelled", key=key)
    catalog.record_images("abc1", [first, replace(second, uri="/data/a")])
    assert catalog.refs("bottle", [key, "z" * 64]) == {key: ImageRef(key, "/data/a", ("a.png", "b.png"))}
    catalog.record_images("abc1", [replace(first, lot="L1")])
    assert catalog.refs("bottle", [key])[key].lot == catalog.lots("bottle", [key])[key] == "L1"
    assert catalog.refs("screw", [key]) == {}


def test_the_runs_of_each_image_are_newest_first_and_done(catalog: Catalog) -> None:
    screw = PromptBundle(product="screw")
    catalog.add_bundle(screw)
    good, other, bad = (RunImage.of(ref(name), "labelled") for name in ("a", "b", "c"))
    for name in ("z-old", "m-new", "running"):
        catalog.begin_run(replace(RUN, id=name))
        catalog.record_images(name, [good, replace(bad, state="quarantined")])
    catalog.begin_run(replace(RUN, id="screw", product="screw", bundle=screw.id))
    catalog.record_images("screw", [good])
    catalog.record_images("m-new", [replace(other, state="reused"), replace(good, name="copy", names=("copy",))])
    for name in ("z-old", "screw", "m-new"):
        catalog.finish_run(name, **FIGURES)
    keys = [str(image.key) for image in (good, other, bad)]
    assert catalog.runs_of("bottle", keys) == {keys[0]: ("m-new", "z-old"), keys[1]: ("m-new",)}
    catalog.finish_run("z-old", **FIGURES)
    assert catalog.runs_of("bottle", keys[:1]) == {keys[0]: ("z-old", "m-new")}
    assert catalog.runs_of("screw", keys) == {keys[0]: ("screw",)}
    assert catalog.runs_of("bottle", []) == {}


def test_the_done_runs_of_a_product_and_their_images(catalog: Catalog) -> None:
    catalog.add_bundle(PromptBundle(product="screw"))
    for name, days in (("late", 0), ("early", 2), ("middle", 1), ("empty", 3), ("running", 4)):
        catalog.begin_run(replace(RUN, id=name, created=RUN.created - timedelta(days=days)))
    for name in ("late", "early", "middle", "empty"):
        catalog.finish_run(name, **FIGURES)
    b, a = RunImage.of(ref("b"), "labelled"), RunImage.of(ref("a"), "reused")
    lost = RunImage.of(ref("c"), "quarantined", reason="blurred")
    for name in ("late", "early", "running"):
        catalog.record_images(name, [b, a, lost] if name == "late" else [b])
    assert [run.id for run in catalog.runs("bottle")] == ["empty", "early", "middle", "late"]
    assert catalog.keys_by_run("bottle") == {"late": (ref("a").key, ref("b").key), "early": (ref("b").key,)}
    assert (catalog.runs("screw"), catalog.keys_by_run("screw")) == ((), {})


def test_a_batch_is_noted_whole_or_not_at_all(catalog: Catalog) -> None:
    catalog.begin_run(RUN)
    bad = RunImage("b.png", "labelled", regions=None)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=r"(?i)not.null"):
        catalog.record_images("abc1", [RunImage("a.png", "labelled"), bad])
    assert catalog.images_of("abc1") == ()


# ------------------------------------------------------------------------------------------------------------- bundles


def test_a_bundle_comes_back_equal(catalog: Catalog) -> None:
    bundle = BUNDLE.changed(parent=BUNDLE.id, language={"specific": ["black hole"]}, confidence={"top_k": 3})
    record = catalog.add_bundle(bundle)
    assert catalog.bundle(bundle.id[:6]) == bundle
    assert record.bundle == bundle
    assert record.state == "proposed"
    assert [each.bundle.id for each in catalog.bundles()] == [BUNDLE.id, bundle.id]


def test_adding_a_bundle_again_keeps_its_state(catalog: Catalog) -> None:
    assert catalog.add_bundle(BUNDLE, "library") == catalog.bundles()[0]
    assert catalog.bundles()[0].state == "proposed"


def test_bundles_of_a_product(catalog: Catalog) -> None:
    catalog.add_bundle(PromptBundle(product="screw"), "library")
    assert [each.state for each in catalog.bundles("screw")] == ["library"]
    assert catalog.bundles("pill") == ()


def test_a_product_has_one_champion(catalog: Catalog) -> None:
    assert catalog.champion("bottle") is None
    champion = BUNDLE.changed(parent=BUNDLE.id)
    catalog.add_bundle(champion, "champion")
    assert catalog.champion("bottle") == champion
    assert catalog.champion("screw") is None
    with pytest.raises(BundleError, match="'bottle' has a champion already"):
        catalog.add_bundle(champion.changed(parent=champion.id), "champion")
    catalog.add_bundle(PromptBundle(product="screw"), "champion")


def test_an_unknown_bundle(catalog: Catalog) -> None:
    with pytest.raises(BundleError, match=f"no such bundle, did you mean {BUNDLE.id}"):
        catalog.bundle("zzz")


def test_a_bundle_whose_content_was_changed(catalog: Catalog, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "catalog.sqlite") as raw:
        raw.execute("UPDATE bundles SET content = replace(content, '\"top_k\": 5', '\"top_k\": 6')")
    raw.close()
    with pytest.raises(BundleError, match="its stored content has another id"):
        catalog.bundle(BUNDLE.id)


# ------------------------------------------------------------------------------------------------------------- opening


def test_opening_again_finds_everything(catalog: Catalog, tmp_path: Path) -> None:
    catalog.begin_run(RUN)
    catalog.close()
    with Catalog(url(tmp_path)) as again:
        assert again.run("abc1") == RUN


def test_opening_what_is_up_to_date_does_not_load_alembic(catalog: Catalog, tmp_path: Path) -> None:
    code = "import sys; from integrations.catalog import Catalog; Catalog(sys.argv[1]); print('alembic' in sys.modules)"
    with python(code, url(tmp_path)) as process:
        assert process.communicate()[0] == b"False\n"


def test_folders_are_made(tmp_path: Path) -> None:
    with Catalog(url(tmp_path / "a" / "b")) as catalog:
        assert catalog.bundles() == ()
    assert repr(catalog).startswith("Catalog('sqlite:///")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("nonsense", "not a database URL"),
        ("mysql://u:hunter2@h/db", "only sqlite:/// and postgresql:// are known"),
        ("postgresql+nonsense://h/db", "not a database URL"),
    ],
)
def test_urls_that_cannot_be_used(address: str, reason: str) -> None:
    with pytest.raises(StoreError, match=reason) as caught:
        Catalog(address)
    assert "hunter2" not in str(caught.value)


def test_a_driver_that_is_not_installed() -> None:
    with pytest.raises(StoreError, match="pip install"):
        Catalog("postgresql+pg8000://h/db")


def test_a_file_that_is_no_catalog(tmp_path: Path) -> None:
    (tmp_path / "catalog.sqlite").write_bytes(b"something else" * 1000)
    with pytest.raises(StoreError, match="file is not a database"):
        Catalog(url(tmp_path))


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(StoreError, match="the catalog cannot be used"):
        Catalog(url(tmp_path / "x"))


def test_a_catalog_of_a_newer_version(tmp_path: Path) -> None:
    Catalog(url(tmp_path)).close()
    with sqlite3.connect(tmp_path / "catalog.sqlite") as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.close()
    with pytest.raises(StoreError, match="made by a newer version of this program"):
        Catalog(url(tmp_path))


def test_a_catalog_that_loses_its_tables(catalog: Catalog, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "catalog.sqlite") as raw:
        raw.execute("DROP TABLE run_images")
    raw.close()
    with pytest.raises(StoreError, match="the catalog cannot be used: no such table: run_images"):
        catalog.images_of("abc1")


# ----------------------------------------------------------------------------------------------------------- processes

WRITER = """
import sys
from integrations.catalog import Catalog, RunImage, RunRecord
from saa_core.prompts import PromptBundle

url, writer = sys.argv[1:]
bundle = PromptBundle(product="bottle")
with Catalog(url) as catalog:
    catalog.add_bundle(bundle)
    catalog.begin_run(RunRecord("shared", "bottle", bundle.id, "batch", {}, "1"))
    for batch in range(20):
        rows = [RunImage(f"{writer}-{batch}-{n}.png", "labelled", key=f"{n:064}") for n in range(10)]
        catalog.record_images("shared", rows)
"""

KILLED = """
import sys, time
from sqlalchemy import text
from sqlalchemy.orm import Session
from integrations.catalog.engine import open_engine, writing

with Session(writing(open_engine(sys.argv[1]))) as session, session.begin():
    session.execute(text("DELETE FROM bundles"))
    session.execute(text("INSERT INTO images (key) VALUES ('half')"))
    print("in the middle", flush=True)
    time.sleep(60)
"""


def python(code: str, *arguments: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE)


def test_opening_waits_for_another_that_is_making_the_file(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "catalog.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    other.execute("CREATE TABLE first_page (x)")
    timer = threading.Timer(0.3, other.rollback)
    timer.start()
    with Catalog(url(tmp_path)) as catalog:
        assert catalog.bundles() == ()
    timer.join()
    other.close()


def test_two_processes_open_and_write_at_once(catalog_url: str) -> None:
    writers = [python(WRITER, catalog_url, name) for name in ("a", "b")]
    for writer in writers:
        writer.communicate(timeout=120)
    assert [writer.returncode for writer in writers] == [0, 0]
    with Catalog(catalog_url) as catalog:
        assert len(catalog.images_of("shared")) == 400


def test_a_process_killed_in_a_transaction_leaves_no_trace(catalog: Catalog, tmp_path: Path) -> None:
    with python(KILLED, url(tmp_path)) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"in the middle\n"
        victim.kill()
    with Catalog(url(tmp_path)) as after:
        assert after.bundle(BUNDLE.id) == BUNDLE
        after.begin_run(RUN)
        after.record_images("abc1", [RunImage("a.png", "labelled", key="half")])
