import base64
import html
import re
import shutil
import subprocess
import tracemalloc
from dataclasses import replace
from datetime import datetime

import cv2
import numpy as np
import PIL.Image
import pytest

from integrations.report import ReportEntry, RunReport, pictures, write_contact_sheet, write_report
from saa_core import masks
from saa_core.errors import ImageError
from saa_core.images import read_image
from saa_core.types import Region
from tests.pages import Elements

EVIL = "\"'><script>document.title='owned'</script><img src=https://example.org/x.png>.png"

RUN = RunReport(
    title="Anomaly masks of brick",
    run="20250102-030405-abcdef",
    product="brick",
    bundle="0123456789abcdef",
    phrases=("anomaly", "deep scratch"),
    profile="batch",
    models={"generator": "lexical-1", "refiner": "contour-1", "features": "filter-bank-1"},
    weight_free=True,
    model_calls=3,
    seconds=75.0,
    finished=datetime(2025, 1, 2, 3, 4),
)


def region(box=(10, 20, 40, 30), size=(96, 128), label="deep scratch", confidence=0.75):
    x0, y0, x1, y1 = box
    mask = masks.encode_crop(np.ones((y1 - y0, x1 - x0), np.bool_), y0, x0, *size)
    return Region(mask, tuple(map(float, box)), label, 1.5, confidence, {label: confidence}, 0.5, mask.area, 0)


def pixels(seed=0, size=(96, 128)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def ramp(size=(24, 32)):
    return np.linspace(0, 1, size[0] * size[1], dtype=np.float32).reshape(size)


def entry(name="a/b.png", score=0.5, regions=None, **changes):
    found = (region(),) if regions is None else regions
    return ReportEntry(**({"name": name, "score": score, "image": pixels, "map": ramp, "regions": found} | changes))


def page(path, report=RUN, entries=()):
    return write_report(report, entries, path).read_text("utf-8")


def sheet_of(entries, folder, **limit):
    with PIL.Image.open(write_contact_sheet(entries, folder / "sheet.png", **limit)) as sheet:
        assert sheet.format == "PNG"
        return np.asarray(sheet)


# --------------------------------------------------------------------------------------------------- what the page says


def test_says_at_the_top_which_models_made_the_masks(tmp_path):
    text = Elements(page(tmp_path, entries=[entry()])).text
    top = text[: text.index("Images labelled")]
    for words in ("weight-free models", "not GroundingDINO and SAM", "lexical-1", "contour-1", "filter-bank-1"):
        assert words in top
    models = {"generator": "grounding-dino-swint", "refiner": "sam-vit-h"}
    text = Elements(page(tmp_path, replace(RUN, weight_free=False, models=models), [entry()])).text
    assert "weight-free" not in text
    assert "grounding-dino-swint" in text[: text.index("Images labelled")]


def test_says_once_what_needs_review(tmp_path):
    entries = [entry("1", regions=(region(), region((50, 50, 60, 60)))), entry("2")]
    text = Elements(page(tmp_path, entries=entries)).text
    assert "All of them are suggestions until a person has reviewed them." in text
    assert text.count("review") == 1
    for accepted, words in ((1, "1 of 3 regions needs"), (2, "2 of 3 regions need")):
        text = Elements(page(tmp_path, replace(RUN, accept=0.8125, accepted=accepted), entries)).text
        assert f"{words} no review, with a confidence of 0.812 or more; others are suggestions until" in text
        assert "All of them" not in text


def test_counts_are_those_of_the_run(tmp_path):
    entries = [entry("1"), entry("2", regions=(region(), region((50, 50, 60, 60)))), entry("3", regions=())]
    text = Elements(page(tmp_path, replace(RUN, reused=2, model_calls=1), entries)).text
    assert "Images labelled 3 2 reused, 1 model call " in text
    assert "With regions 2 67 % of images, 3 regions" in text
    assert "Refused 0 every file could be read" in text
    assert "Time 1 min 15 s 25 s an image" in text
    assert "2 January 2025, 03:04" in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.25, "0.25 s"), (3.21, "3.2 s"), (59.9, "1 min 00 s"), (7260.0, "2 h 01 min")]
)
def test_durations_read_well(tmp_path, seconds, text):
    assert f"Time {text} " in Elements(page(tmp_path, replace(RUN, seconds=seconds), [entry()])).text


def test_lists_what_was_refused_and_why(tmp_path):
    refused = (("x/empty.png", "empty file"), ("y.png", "truncated or damaged: 12 bytes"))
    text = Elements(page(tmp_path, replace(RUN, quarantined=refused), [entry()])).text.replace("/ ", "/")
    for name, reason in refused:
        assert f"{name} {reason}" in text


def test_shows_notes_unknown_words_and_the_bundle(tmp_path):
    report = replace(RUN, notes=("Fewer than 3 images.",), unknown_words=("wick", "prong"))
    text = Elements(page(tmp_path, report, [entry()])).text
    for words in ("Fewer than 3 images.", "wick", "prong", "0123456789abcdef", "profile batch", "anomaly deep scratch"):
        assert words in text


def test_figures_have_a_column_for_every_metric_of_any_class(tmp_path):
    figures = {"brick": {"images": 16, "max_f1_pixel": 0.5}, "mean": {"max_f1_pixel": 0.5, "image_auroc": None}}
    text = Elements(page(tmp_path, replace(RUN, figures=figures), [entry()])).text
    assert "Class images max f1 pixel image auroc brick 16 0.500 – mean – 0.500 –" in text


def test_region_has_its_phrase_confidence_share_and_outline(tmp_path):
    content = page(tmp_path, entries=[entry(regions=(region(), region((0, 0, 2, 2), label="hole", confidence=0.1)))])
    text = Elements(content).text
    assert "deep scratch 2.4% 0.75 hole <0.1% 0.10" in text
    paths = [tag["d"] for tag in Elements(content).all("path")]
    corners = {tuple(map(int, pair.split())) for pair in re.split("[MLZ]", paths[0]) if pair}
    assert corners == {(10, 20), (39, 20), (39, 29), (10, 29)}  # pixel centres of a box of 30 x 10
    assert len(paths) == 4  # a dark line under a coloured one for each


def test_known_mask_is_drawn_only_where_there_is_one(tmp_path):
    known = np.zeros((96, 128), np.bool_)
    known[5:9, 7:30] = True
    content = page(tmp_path, entries=[entry("1", truth=lambda: known), entry("2")])
    assert content.count('<g class="truth">') == 1
    assert 'id="show-truth"' in content
    assert 'id="show-truth"' not in page(tmp_path, entries=[entry("2")])


def test_order_is_by_score_then_name(tmp_path):
    scores = {"low": 0.1, "tie b": 0.5, "tie a": 0.5, "high": 0.9}
    content = page(tmp_path, entries=(entry(name, score) for name, score in scores.items()))
    cards = re.findall(r'<h3 id="title-\d+"><bdi class="name"><span class="folder"></span>(.*?)</bdi>', content)
    assert cards == ["high", "tie a", "tie b", "low"]


def test_histogram_counts_every_image_once(tmp_path):
    entries = [entry(str(n), n / 30, regions=() if n % 3 else None) for n in range(31)]
    found = re.findall(r"<title>(\d+) with regions, (\d+) without</title>", page(tmp_path, entries=entries))
    assert sum(int(a) for a, _ in found) == 11
    assert sum(int(b) for _, b in found) == 20


# ------------------------------------------------------------------------------------------ self-contained and harmless


def hostile_run():
    report = replace(
        RUN,
        title=EVIL,
        run=EVIL,
        product=EVIL,
        bundle=EVIL,
        phrases=(EVIL,),
        profile=EVIL,
        models={EVIL: EVIL},
        quarantined=((EVIL, EVIL),),
        unknown_words=(EVIL,),
        notes=(EVIL,),
        figures={EVIL: {EVIL: 0.5}},
    )
    return report, [entry(EVIL, regions=(region(label=EVIL),)), entry("gone", image=lambda: fail(EVIL))]


def fail(name):
    raise ImageError(name, "gone")


def test_names_and_words_cannot_become_markup(tmp_path):
    elements = Elements(page(tmp_path, *hostile_run()))
    assert len(elements.all("script")) == 1
    assert {tag["src"][:15] for tag in elements.all("img")} == {"data:image/jpeg"}
    assert elements.all("img")[0]["alt"].startswith(EVIL)
    assert elements.text.count("document.title='owned'") >= 12


def test_nothing_is_loaded_from_anywhere(tmp_path):
    content = page(tmp_path, replace(RUN, quarantined=(("a", "b"),), figures={"a": {"b": 1.0}}), [entry()])
    assert not re.search(r"https?://|//cdn|@import|url\(", content)
    elements = Elements(content)
    assert not elements.all("link")
    assert not [tag for name, tag in elements.tags if name in ("script", "iframe", "object") and "src" in tag]
    assert {tag["href"][0] for tag in elements.all("a")} == {"#"}
    targets = {tag.get("id") for _, tag in elements.tags}
    assert {tag["href"][1:] for tag in elements.all("a")} <= targets


@pytest.mark.parametrize("name", ["ünï/中文.png", "\udcff broken.png", "‮gnp.exe", "a b\t\n.png", "", "/", "x" * 300])
def test_any_name_can_be_written(tmp_path, name):
    content = page(tmp_path, entries=[entry(name)])
    shown = name.encode("utf-8", "replace").decode("utf-8")
    assert shown in html.unescape(content).replace("/<wbr>", "/").replace('<span class="folder">', "").replace(
        "</span>", ""
    )
    assert write_contact_sheet([entry(name)], tmp_path / "sheet.png").is_file()


# ----------------------------------------------------------------------------------------------------------- degenerate


def test_empty_run(tmp_path):
    text = Elements(page(tmp_path, replace(RUN, quarantined=(("a.png", "empty file"),)))).text
    assert "Images labelled 0" in text
    assert "no image with a result" in text
    assert "a.png empty file" in text
    assert sheet_of([], tmp_path).shape[1] > 300


def test_image_that_is_gone_says_so_and_keeps_its_result(tmp_path):
    def missing():
        raise FileNotFoundError(2, "No such file", "gone.png")

    entries = [entry("gone.png", image=missing), entry("no map.png", map=lambda: fail("map")), entry("n", map=None)]
    content = page(tmp_path, entries=entries)
    assert content.count("data:image/jpeg") == 2
    assert "No picture: [Errno 2] No such file" in Elements(content).text
    assert Elements(content).text.count("deep scratch") == 7  # 3 cards, 3 rows, the bundle
    assert write_contact_sheet(entries, tmp_path / "sheet.png").is_file()


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (700, 1), (33, 1000), (1000, 33)])
def test_images_of_any_shape(tmp_path, size):
    whole = region((0, 0, size[1], size[0]), size)
    shown = entry(
        image=lambda: pixels(size=size), regions=(whole,), truth=lambda: np.ones(size, np.bool_), map=lambda: ramp(size)
    )
    assert page(tmp_path, entries=[shown]).count("data:image/jpeg") == 2
    assert write_contact_sheet([shown], tmp_path / "sheet.png").is_file()


def test_16_bit_grey_file(tmp_path):
    path = tmp_path / "deep.png"
    cv2.imwrite(str(path), np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16))
    content = page(tmp_path, entries=[entry(image=lambda: read_image(path).pixels, regions=())])
    data = base64.b64decode(re.search(r"data:image/jpeg;base64,([^\"]+)", content)[1])
    shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert shown[0].mean() < 10
    assert shown[-1].mean() > 245


@pytest.mark.parametrize("values", [0.0, 0.3, 1.0, np.nan, np.inf])
def test_constant_or_broken_maps(tmp_path, values):
    content = page(tmp_path, entries=[entry(map=lambda: np.full((9, 9), values, np.float32))])
    assert content.count("data:image/jpeg") == 2


def test_many_regions_and_speckled_masks_stay_small(tmp_path):
    speckled = masks.encode(np.random.default_rng(0).random((512, 512)) < 0.2)
    speck = Region(speckled, (0.0, 0.0, 512.0, 512.0), "dust", 1.0, 0.5, {}, 0.5, speckled.area, 0)
    content = page(tmp_path, entries=[entry(image=lambda: pixels(size=(512, 512)), regions=(speck,) * 200)])
    assert "and 188 more regions" in content
    assert len(content) < 500_000


# ----------------------------------------------------------------------------------------------------------- the limits


def test_400_images_of_noise_stay_under_6_megabytes_and_all_are_listed(tmp_path):
    entries = [
        entry(f"lot {n % 7}/{n:04}.png", n / 400, image=lambda n=n: pixels(n, (512, 512)), map=lambda: ramp((512, 512)))
        for n in range(400)
    ]
    report = write_report(RUN, entries, tmp_path)
    assert report.stat().st_size < 6_000_000
    content = report.read_text("utf-8")
    assert content.count("<article") == 60
    assert content.count("data:image/jpeg") == 120
    rows = re.search(r'<table id="images">.*</table>', content, re.DOTALL)[0]
    assert all(f"{n:04}.png" in rows for n in range(400))
    assert [f"{n:04}.png" in content[: content.index("And the least")] for n in (399, 348, 347, 0)] == [
        True,
        True,
        False,
        False,
    ]


def test_one_image_is_in_memory_at_a_time(tmp_path):
    size = (600, 800)

    def peak(count):
        tracemalloc.start()
        write_report(RUN, (entry(str(n), image=lambda: np.zeros((*size, 3), np.uint8)) for n in range(count)), tmp_path)
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2)  # whatever is built once
    assert peak(40) < peak(10) + 600 * 800 * 3


def test_write_is_atomic(tmp_path):
    before = page(tmp_path, entries=[entry()])

    def broken():
        raise RuntimeError("a bug, not a missing file")

    with pytest.raises(RuntimeError):
        write_report(RUN, [entry(), entry("later", image=broken)], tmp_path)
    assert (tmp_path / "report.html").read_text("utf-8") == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_same_run_gives_the_same_bytes(tmp_path):
    entries = [entry("1", 0.2), entry("2", 0.3)]
    assert page(tmp_path / "a", entries=entries) == page(tmp_path / "b", entries=reversed(entries))


# ------------------------------------------------------------------------------------------------------------- pictures


def test_heat_uses_one_scale_for_all():
    low, high = np.full((8, 8), 0.1, np.float32), np.full((8, 8), 0.1, np.float32)
    high[2, 2] = 0.6
    scale = pictures.heat_scale([entry(map=lambda: low), entry(map=lambda: high)])
    assert (scale.low, scale.high) == pytest.approx((0.1, 0.6))
    grey = np.full((8, 8, 3), 100, np.uint8)
    cold, hot = pictures.heat(grey, low, scale), pictures.heat(grey, high, scale)
    assert np.ptp(cold) <= 3  # a grey picture darkened, no colour
    assert hot[2, 2, 0] > 200
    assert np.array_equal(hot[5:, 5:], cold[5:, 5:])


def test_outline_has_a_ring_for_each_border_and_holes_too():
    mask = np.zeros((40, 50), np.bool_)
    mask[10:30, 10:40] = True
    mask[15:25, 20:30] = False
    mask[2, 3] = True
    path = pictures.outline(masks.encode(mask), 0.5)
    assert path.count("M") == path.count("Z") == 3
    assert "M3 2Z" in path
    assert path == pictures.outline_of_pixels(mask, 0.5)
    assert pictures.outline(masks.encode(np.zeros((4, 4), np.bool_)), 0.5) == ""


def test_thin_masks_survive_shrinking():
    mask = np.zeros((1000, 1000), np.bool_)
    mask[501] = True
    small = pictures.shrunk(mask, 100, 100)
    assert np.array_equal(np.flatnonzero(small.any(axis=1)), [50])
    assert np.array_equal(pictures.border(small), small)


# -------------------------------------------------------------------------------------------------------- contact sheet


def test_contact_sheet_shows_image_map_and_masks_of_the_highest_scores(tmp_path):
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}

    def plain(colour):
        return lambda: np.full((96, 128, 3), colour, np.uint8)

    entries = [entry(name, n / 10, image=plain(colour)) for n, (name, colour) in enumerate(colours.items())]
    sheet = sheet_of(entries, tmp_path, limit=2)
    counts = {name: int((sheet == colour).all(axis=2).sum()) for name, colour in colours.items()}
    assert counts == {"red": 0, "green": 96 * 128, "blue": 96 * 128}
    marked = (sheet[..., 0] > 150) & (sheet[..., 1] < 120) & (sheet[..., 2] > 90) & (sheet[..., 2] < 200)
    assert marked.sum() >= 2 * 30 * 10  # both regions, tinted


def test_contact_sheet_of_a_big_run_stays_small(tmp_path):
    entries = [entry(f"folder/with a rather long name to be cut/{n:03}.png" * 3, n / 100) for n in range(100)]
    height, width, _ = sheet_of(entries, tmp_path).shape
    assert width < 1600
    assert height < 3600


# ------------------------------------------------------------------------------------------------------- a real browser


@pytest.fixture(scope="module")
def dump_dom(tmp_path_factory):
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip(f"needs a browser: none of {', '.join(names)} is installed")

    def dump(path):
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
        options += [
            "--no-first-run",
            "--disable-dev-shm-usage",
            f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
        ]
        command = [browser, *options, "--dump-dom", path.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    return dump


def shown_names(dom):
    body = re.search(r'<table id="images">.*?<tbody>(.*?)</tbody>', dom, re.DOTALL)[1]
    rows = re.findall(r'<tr( hidden="")?>.*?<span class="folder"></span>(.*?)</bdi>', body, re.DOTALL)
    return [name for hidden, name in rows if not hidden]


@pytest.mark.slow
def test_browser_runs_the_script_and_no_other(tmp_path, dump_dom):
    report, entries = hostile_run()
    dom = dump_dom(write_report(report, entries, tmp_path))
    assert re.search(r'<th [^>]*aria-sort="descending"[^>]*><button type="button">Score</button>', dom)
    assert '<div class="tools" id="search">' in dom  # hidden until the script is there
    assert "<title>owned" not in dom

    content = (tmp_path / "report.html").read_text("utf-8")
    (tmp_path / "report.html").write_text(content + "<script>document.title='owned'</script>", "utf-8")
    assert "<title>owned" not in dump_dom(tmp_path / "report.html")


@pytest.mark.slow
def test_browser_sorts_and_filters(tmp_path, dump_dom):
    entries = [
        entry("image 10", 0.9, regions=(region(confidence=0.2),)),
        entry("image 9", 0.8, regions=()),
        entry("image 100", 0.7, regions=(region(label="hole", confidence=0.6),)),
    ]
    content = page(tmp_path, entries=entries)
    unlocked = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", content)

    def after(actions):
        (tmp_path / "acted.html").write_text(f"{unlocked}<script>{actions}</script>", "utf-8")
        return dump_dom(tmp_path / "acted.html")

    click = "document.querySelectorAll('#images thead button')[{}].click();"
    assert shown_names(after("")) == ["image 10", "image 9", "image 100"]
    assert shown_names(after(click.format(1))) == ["image 9", "image 10", "image 100"]
    assert shown_names(after(click.format(5))) == ["image 100", "image 10", "image 9"]
    assert shown_names(after(click.format(5) * 2)) == ["image 10", "image 100", "image 9"]  # nothing stays last
    dom = after("const f = document.getElementById('filter'); f.value = 'HOLE'; f.dispatchEvent(new Event('input'));")
    assert shown_names(dom) == ["image 100"]
    assert re.search(r'id="matches">1 of 3<', dom)
