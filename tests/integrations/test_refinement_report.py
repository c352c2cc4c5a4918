import html
import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrations.report import plots, verdict
from integrations.report.changes import bundle_changes, title_of
from integrations.report.figures import facts
from integrations.report.refinement import CARDS, lines, write_refinement
from saa_core import masks
from saa_core.errors import ImageError
from saa_core.prompts import PromptBundle
from saa_core.refinement.outcome import (
    Acceptance,
    Calibration,
    Curve,
    Effort,
    EvidenceSummary,
    Figures,
    ImageChange,
    Interval,
    PhraseRow,
    Refinement,
    Trial,
)
from tests.pages import Elements

EVIL = "\"'><script>document.title='owned'</script><img src=https://example.org/x.png>.png"
MODELS = {"generator": "lexical-1", "refiner": "contour-1"}

CHAMPION = PromptBundle.from_content({"product": "brick", "language": {"specific": ["crack", "dirt"]}})
NEW = CHAMPION.changed(
    parent=CHAMPION.id,
    language={"specific": ["crack", {"text": "dirt", "weight": 0.0}, {"text": "dark hole", "threshold": 0.22}]},
    property={"area_max": 0.21},
)


def figures(objective, false_alarms=0.05, seconds=40.0, **recall):
    names = ("pixel_f1", "pixel_precision", "pixel_recall", "region_f1", "region_precision", "region_recall")
    fixed = dict.fromkeys(names, 0.5)
    return Figures(objective=objective, **fixed, false_alarms=false_alarms, recall=recall, seconds=seconds)


def change(number, before=0.4, after=0.6, held_out=False, name=None):
    return ImageChange(f"{number:064x}", name or f"lot/{number:03}.png", before, after, held_out)


def curve(name="decision.threshold", before=0.4, after=0.5, values=(0.0, 0.5, 1.0)):
    return Curve(name, values, (0.2, 0.6, 0.4), (0.5, 0.1, 0.0), before, after)


EVIDENCE = EvidenceSummary("9f3a1c55d2e07b64", 24, 41, 0, 9, 14, 57)
PROMOTED = Refinement(
    product="brick",
    outcome="promoted",
    reasons=("The lower end of the gain is above zero.", "No label loses more than 0.05."),
    champion=CHAMPION,
    proposed=NEW,
    seed=7,
    configurations=1986,
    resamples=200,
    risk=False,
    evidence=EVIDENCE,
    gain=Interval(0.061, 0.031, 0.092),
    before=figures(0.556, 0.073, 41.2, hole=0.71),
    after=figures(0.641, 0.049, 31.5, hole=0.76),
    held_before=figures(0.551, 0.071, 42.0, hole=0.71),
    held_after=figures(0.608, 0.071, 33.4, hole=0.75),
    looks=1,
    control=figures(0.602, 0.09, 35.0),
    phrases=(
        PhraseRow("dark hole", "specific", "an expert wrote it 6 times", 1.0, 0.31, 0.88, 0.33, 0.058, 0.22),
        PhraseRow("dirt", "specific", "champion", 0.0, 0.0, None, 0.02, -0.008, None),
    ),
    curves=(curve(), curve("property.area_max", None, 0.21, (0.001, 0.2, 1.0))),
    changes=(change(1, held_out=True), change(2, 0.8, 0.3)),
    tried=(Trial("+ 'dark hole'", 0.629, True, "gains"), Trial("+ 'gash'", None, False, "unknown word")),
    acceptance=Acceptance(0.95, None, 31, 31, None, 28, Calibration((0.0, 0.5), (0.25, 0.875), 31)),
    effort=Effort(6.0, 2.0, 14.0, 3.0, 22.0, 0),
)
KEPT = replace(
    PROMOTED, outcome="kept", gain=Interval(0.004, -0.012, 0.02), proposed=None, after=None, held_before=None,
    held_after=None, looks=0, control=None, changes=(),
)  # fmt: skip
COLLECT = Refinement(
    "brick", "collect-more", ("8 and 20 are the least.",), CHAMPION, None, 0, 0, 0, False,
    EvidenceSummary("00aa11bb22cc33dd", 5, 9, 0, 2, 0, 7), missing={"defective": 3, "good": 11},
)  # fmt: skip
OUTCOMES = {
    "promoted": PROMOTED,
    "proposed": replace(PROMOTED, outcome="proposed", risk=True),
    "kept": KEPT,
    "collect-more": COLLECT,
}


def box(x0, y0, x1, y1, size=(96, 128)):
    return masks.encode_crop(np.ones((y1 - y0, x1 - x0), np.bool_), y0, x0, *size)


def photograph(_):
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    return pixels, [box(1, 2, 11, 12)], [box(5, 5, 30, 20), box(40, 40, 50, 50)], [box(5, 5, 30, 21)]


def page(path, refinement=PROMOTED, pictures=photograph, models=MODELS):
    return write_refinement(refinement, pictures, models, path).read_text("utf-8")


def read(path, *given, **named):
    return Elements(page(path, *given, **named)).text.replace("/ ", "/")


def section(text, first, last):
    return text[text.index(first) : text.index(last)]


# ---------------------------------------------------------------------------------------------- the verdict comes first


@pytest.mark.parametrize(
    ("outcome", "sentence", "step"),
    [
        ("promoted", "did better and decides from now on", "saa rollback --product brick"),
        ("proposed", "waits for a person", f"saa promote {NEW.id}"),
        ("kept", "stays as it is", "Nothing has changed"),
        ("collect-more", "3 more defective and 11 more good images are needed", "Review more images"),
    ],
)
def test_verdict_reasons_and_next_step_stand_before_any_figure(tmp_path, outcome, sentence, step):
    refinement = OUTCOMES[outcome]
    text = read(tmp_path, refinement)
    top = text[: text.index("Before and after")]
    assert sentence in top
    assert step in top
    positions = [top.index(said) for said in (sentence, *refinement.reasons, step)]
    assert positions == sorted(positions)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_lines_are_about_a_dozen_and_start_with_the_verdict(outcome):
    said = lines(OUTCOMES[outcome])
    assert said[0] == verdict.verdict(OUTCOMES[outcome])
    assert 4 <= len(said) <= 16
    assert all(line and "\n" not in line for line in said)
    assert set(OUTCOMES[outcome].reasons) <= set(said)


def test_gain_is_given_with_its_interval_and_its_doubt():
    assert "+0.061: +0.031 to +0.092 in the middle 60\u00a0% of 200 resamples." in verdict.gain(PROMOTED)
    assert "may as well be a loss" in verdict.gain(KEPT)
    assert verdict.gain(COLLECT) == ""


def test_rollback_command_survives_a_shell():
    assert "--product 'two words'" in verdict.next_step(replace(PROMOTED, product="two words"))


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ({"defective": 1, "good": 0}, "1 more defective image is needed"),
        ({"good": 2}, "2 more good images are needed"),
        ({}, "more reviews are needed"),
    ],
)
def test_what_is_missing_is_counted(missing, words):
    assert verdict.wanted(replace(COLLECT, missing=missing)) == words


# ---------------------------------------------------------------------------------------------- losses are never hidden


def test_every_loss_in_the_figures_is_said_at_the_top(tmp_path):
    lost = replace(
        PROMOTED,
        held_after=figures(0.5, 0.2, 50.0, hole=0.6),
        after=figures(0.5, 0.1, 50.0, hole=0.70),
        looks=3,
        risk=True,
        evidence=replace(EVIDENCE, undrawn=1, unusable=(("a.png", "another size"),)),
        phrases=(replace(PROMOTED.phrases[0], unknown_words=("gash",)),),
    )
    text = read(tmp_path, lost)
    top = section(text, "What speaks against it", "Before and after")
    for words in (
        "1 image gets worse and 1 better; the worst is lot/002.png, from 0.80 to 0.30.",
        "On the images that the search never saw agreement falls from 0.551 to 0.500.",
        "False alarms on the good images that the search never saw rise from 7.1% to 20.0%.",
        "On the images that the search never saw less of “hole” is found: 71.0% of its pixels before, 60.0% now.",
        "On the images that the search saw agreement falls from 0.556 to 0.500.",
        "less of “hole” is found: 71.0% of its pixels before, 70.0% now.",
        "This is look 3 at the held-out images",
        "(--risk)",
        "General words alone reach an agreement of 0.602",
        "cannot use these words: gash.",
        "1 reviewed image could not be used",
        "1 image was called defective with nothing drawn, and counts nowhere.",
    ):
        assert words in top
        assert any(words in line for line in lines(lost))
    assert "8 min 20 s" not in text
    assert "13 min 20 s MORE" in verdict.effort(lost)


def test_nothing_speaks_against_a_bundle_without_losses(tmp_path):
    clean = replace(PROMOTED, changes=(change(1),))
    assert verdict.cautions(clean) == []
    assert "What speaks against it Nothing in the figures." in read(tmp_path, clean)


def test_bundle_that_nobody_tried_on_held_out_images_is_marked(tmp_path):
    unseen = replace(PROMOTED, held_before=None, held_after=None, looks=0)
    text = read(tmp_path, unseen)
    assert "Nobody looked at held-out images" in text
    assert "not looked at 14 images held out" in text
    assert "False alarms on good images 7.3% → 4.9% on the searched images" in text


def test_worst_losses_come_first_and_all_changes_are_listed(tmp_path):
    changes = tuple(change(n, 0.9, 0.9 - n / 100) for n in range(1, 31)) + tuple(
        change(100 + n, 0.1, 0.1 + n / 100) for n in range(1, 31)
    )
    content = page(tmp_path, replace(PROMOTED, changes=changes))
    cards = re.findall(r'<article class="card">.*?</span>(.*?)</bdi>', content, re.DOTALL)
    assert len(cards) == CARDS
    assert cards == [f"{n:03}.png" for n in range(30, 14, -1)] + [f"{n:03}.png" for n in range(130, 122, -1)]
    assert "14 more images that lost less" in content
    table = content[content.index('id="changed"') :]
    assert all(f"{n % 100 + 100 * (n > 30):03}.png" in table for n in (*range(1, 31), *range(101, 131)))
    assert table.index(">030.png<") < table.index(">001.png<") < table.index(">130.png<")


@pytest.mark.parametrize(("worse", "better"), [(0, 40), (40, 0), (3, 40), (40, 3), (2, 2)])
def test_cards_are_shared_between_losses_and_gains(tmp_path, worse, better):
    changes = [change(n, 1.0, 0.5) for n in range(worse)] + [change(100 + n) for n in range(better)]
    content = page(tmp_path, replace(PROMOTED, changes=tuple(changes)))
    shown = content.count('<article class="card">')
    lost = section(content, 'id="worse"', 'id="better"').count("<article")
    assert shown == min(CARDS, worse + better)
    assert lost == min(worse, CARDS - min(better, 8))
    assert ("No reviewed image gets worse." in content) == (worse == 0)


# -------------------------------------------------------------------------------------------------------------- figures


def test_table_has_searched_held_out_and_control_side_by_side(tmp_path):
    text = read(tmp_path)
    assert "mean of pixel F1 and region F1 0.556 0.641 +0.085 0.551 0.608 +0.057 0.602" in text
    assert "less is better 7.3% 4.9% −2.4 pt 7.1% 7.1% same 9.0%" in text
    assert "less is better 41.2 s 31.5 s −9.7 s 42.0 s 33.4 s −8.6 s 35.0 s" in text
    assert "Recall of “hole” share of its pixels that are marked 0.710 0.760 +0.050 0.710 0.750 +0.040 –" in text
    assert "Held-out images (14)" in text


def test_changes_for_the_worse_say_so_in_words_and_colour(tmp_path):
    content = page(tmp_path, replace(PROMOTED, held_after=figures(0.5, 0.2, 50.0)))
    worse = re.findall(r'<td class="number worse[^"]*">([^<]*) worse</td>', content)
    assert worse == ["−0.051", "+12.9 pt", "+8.0 s"]


def test_columns_without_any_figure_are_left_out(tmp_path):
    text = read(tmp_path, KEPT)
    assert "Images searched" in text
    assert "Held-out images" not in text
    assert "general words" not in text


def test_facts_are_those_of_the_held_out_images():
    found = {fact.name: fact for fact in facts(PROMOTED)}
    assert found["Expected gain in agreement"].value == "+0.061"
    assert found["Agreement on held-out images"].value == "0.551 → 0.608"
    assert "look 1" in found["Agreement on held-out images"].note
    assert found["Expert's time an image"].note.startswith("14 min 20 s less for 100 images, on the held-out")
    assert found["Images that change"].value == "1 better, 1 worse"
    assert not any(fact.bad for fact in found.values())


def test_facts_count_what_is_missing():
    found = [(fact.name, fact.value, fact.note, fact.bad) for fact in facts(COLLECT)]
    assert found[:2] == [
        ("Reviewed, defective", "5", "3 more needed", True),
        ("Reviewed, good", "9", "11 more needed", True),
    ]
    assert next(facts(KEPT)).bad


def test_figures_that_are_not_defined_are_a_dash(tmp_path):
    nothing = Figures(None, None, None, None, None, None, None, None)
    text = read(tmp_path, replace(PROMOTED, before=nothing, held_before=nothing, held_after=nothing))
    assert "mean of pixel F1 and region F1 – 0.641 – 0.602" in text
    assert "Expert's time an image – not defined" in text
    assert "None" not in text


# --------------------------------------------------------------------------------------------------- the other sections


def test_diff_is_in_words_and_has_the_paths(tmp_path):
    found = {row.path: (row.title, row.before, row.after) for row in bundle_changes(CHAMPION, NEW)}
    assert found == {
        "language.specific[dark hole]": ("Phrase “dark hole”", "not there", "weight 1.0, threshold 0.22"),
        "language.specific[dirt]": ("Phrase “dirt”", "weight 1.0", "silenced"),
        "property.area_max": ("Largest region, as share of the object", "no limit", "0.21"),
    }
    text = read(tmp_path)
    assert f"Before {CHAMPION.id} After {NEW.id}" in text
    assert "Largest region, as share of the object property.area_max no limit 0.21" in text


def test_every_number_that_a_diff_can_hold_has_words():
    content = CHAMPION.model_dump(mode="json")
    sections = ("property", "saliency", "confidence", "decision")
    paths = {f"{name}.{key}" for name in sections for key in content[name]} - {"property.measure", "saliency.measure"}
    assert all(title_of(path) != path for path in paths)
    assert title_of("language.specific[a.b].threshold") == "Threshold of “a.b”"
    assert title_of("saliency.measure") == "saliency.measure"


def test_phrases_are_sorted_by_what_they_add_and_stand_beside_the_control(tmp_path):
    text = section(read(tmp_path), "Phrases Coverage", "How sensitive")
    assert "General words alone reach an agreement of 0.602, this bundle 0.641." in text
    assert "dark hole specific 1 31.0% 88.0% 33.0% +0.058 0.220 an expert wrote it 6 times" in text
    assert "dirt specific silenced 0.0% – 2.0% −0.008 – champion" in text
    assert text.index("dark hole specific") < text.index("dirt specific")


def test_acceptance_effort_and_trials_are_told(tmp_path):
    text = read(tmp_path)
    for words in (
        "28 more regions have to be judged right on images that experts got without masks",
        "without masks (31 of 31 were right so far)",
        "0.500 87.5%",
        "42.0 s an image before, 33.4 s after (14 min 20 s less for 100 images; held-out images, costs assumed",
        "one to redraw 14.0 s",
        "1 step taken of 2",
        "+ 'gash' – no unknown word",
        "1986 bundles tried, 200 resamples, seed 7",
        "lexical-1",
    ):
        assert words in text


def test_acceptance_with_a_threshold_gives_the_bound():
    accepted = Acceptance(0.95, 0.83, 231, 229, 0.9532, 0)
    said = verdict.acceptance(accepted)
    assert "confidence 0.830 or more" in said
    assert "at least 95.3%" in said
    assert "231 regions" in said
    assert "fitted to 42 reviews" in verdict.costs_from(replace(PROMOTED.effort, events=42))


def test_unusable_reviews_are_listed(tmp_path):
    evidence = replace(EVIDENCE, unusable=(("x/y.png", "masks of another size"),))
    assert "x/y.png masks of another size" in read(tmp_path, replace(PROMOTED, evidence=evidence))


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_sections_are_there_only_with_content(tmp_path, outcome):
    bare = replace(OUTCOMES[outcome], phrases=(), curves=(), changes=(), tried=(), acceptance=None, effort=None)
    text = read(tmp_path, bare)
    for heading in ("Phrases", "How sensitive", "What was tried", "What needs no review", "Images that get"):
        assert heading not in text
    assert "What it had to go by" in text


# ------------------------------------------------------------------------------------------------------------- pictures


def test_both_bundles_are_drawn_over_the_photograph(tmp_path):
    content = page(tmp_path, replace(PROMOTED, changes=(change(1),)))
    found = Elements(content)
    assert [tag["alt"] for tag in found.all("img")] == [
        "lot/001.png with 1 outlined region before",
        "lot/001.png with 2 outlined regions after",
    ]
    paths = [tag["d"] for tag in found.all("path")]
    assert len(paths) == 8  # two sides, the expert's mask and the regions, each a dark line under a coloured one
    assert paths[2].startswith("M")
    assert paths[2].count("M") == 1
    assert paths[6].count("M") == 2
    assert paths[0] == paths[4]


def test_good_image_is_said_to_be_good(tmp_path):
    def good(_):
        return np.zeros((40, 40, 3), np.uint8), [], [box(1, 1, 9, 9, (40, 40))], []

    text = read(tmp_path, replace(PROMOTED, changes=(change(1, 1.0, 0.0),)), pictures=good)
    assert "1.00 → 0.00 Before : nothing shown After : 1 region Reviewed as good: no region should be shown" in text


def test_photograph_that_is_gone_leaves_its_figures(tmp_path):
    def gone(which):
        if which.before > which.after:
            raise ImageError(which.name, "deleted")

    content = page(tmp_path, pictures=gone)
    text = Elements(content).text
    assert "No picture: the photograph is no longer where it was" in text
    assert "deleted" in text
    assert "0.80 → 0.30" in text
    assert "<img" not in content


def test_pictures_are_asked_for_only_where_they_are_shown(tmp_path):
    asked = []

    def counting(which):
        asked.append(which.name)
        return photograph(which)

    changes = tuple(change(n, 0.5, 0.4) for n in range(200))
    written = write_refinement(replace(PROMOTED, changes=changes), counting, MODELS, tmp_path)
    assert len(asked) == CARDS
    assert written.stat().st_size < 3_000_000


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (700, 1), (1000, 33)])
def test_photographs_of_any_shape(tmp_path, size):
    whole = box(0, 0, size[1], size[0], size)
    content = page(tmp_path, pictures=lambda _: (np.zeros((*size, 3), np.uint8), [whole], [], [whole]))
    assert content.count("data:image/jpeg") == 4


# ------------------------------------------------------------------------------------------ self-contained and harmless


def hostile():
    bundle = CHAMPION.changed(product=EVIL.replace(".", ","), origin=EVIL)
    words = EVIL.replace(".", ",")
    return replace(
        PROMOTED,
        product=EVIL,
        reasons=(EVIL,),
        champion=bundle,
        proposed=bundle.changed(parent=bundle.id, origin=EVIL + "2", language={"specific": [words]}),
        evidence=replace(EVIDENCE, hash=EVIL, unusable=((EVIL, EVIL),)),
        before=figures(0.5, **{EVIL: 0.5}),
        phrases=(PhraseRow(EVIL, EVIL, EVIL, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, (EVIL,)),),
        curves=(curve(EVIL),),
        changes=(change(1, name=EVIL), change(2, 0.9, 0.1, name=EVIL)),
        tried=(Trial(EVIL, 0.5, True, EVIL),),
    )


def test_names_and_words_cannot_become_markup(tmp_path):
    found = Elements(page(tmp_path, hostile(), models={EVIL: EVIL}))
    assert not found.all("script")
    assert {tag["src"][:15] for tag in found.all("img")} == {"data:image/jpeg"}
    assert found.text.count("document.title='owned'") >= 15


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_nothing_is_loaded_or_run(tmp_path, outcome):
    content = page(tmp_path, OUTCOMES[outcome])
    assert not re.search(r"https?://|//cdn|@import|url\(|<script|<link|<iframe", content)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', content)[1]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline';")
    assert "script-src" not in policy
    found = Elements(content)
    assert {tag["href"] for tag in found.all("a")} <= {f"#{tag.get('id')}" for _, tag in found.tags}
    named = [tag["aria-labelledby"] for _, tag in found.tags if "aria-labelledby" in tag]
    assert set(named) <= {tag.get("id") for _, tag in found.tags}


@pytest.mark.parametrize("name", ["ünï/中文.png", "\udcff broken.png", "a\t\n.png", "", "/", "x" * 300])
def test_any_name_can_be_written(tmp_path, name):
    content = page(tmp_path, replace(PROMOTED, changes=(replace(change(2, 0.9, 0.1), name=name),)))
    assert html.escape(name.encode("utf-8", "replace").decode().split("/")[-1]) in content


def test_write_is_atomic_and_repeatable(tmp_path):
    before = page(tmp_path)
    assert page(tmp_path / "again") == before

    def broken(_):
        raise RuntimeError("a bug, not a missing file")

    with pytest.raises(RuntimeError):
        page(tmp_path, pictures=broken)
    assert (tmp_path / "report.html").read_text("utf-8") == before
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["report.html"]


# ---------------------------------------------------------------------------------------------------------------- plots


def test_marks_stand_where_the_line_is():
    drawn = plots.plot(curve(), 1.0)
    assert drawn.objective == "0.0,88.0 150.0,44.0 300.0,66.0"
    assert drawn.alarms == "0.0,55.0 150.0,99.0 300.0,110.0"
    assert drawn.marks == (plots.Mark(120.0, "0.4", "before"), plots.Mark(150.0, "0.5", "after"))
    assert drawn.ends == ("0", "1")
    assert not drawn.log


def test_no_limit_is_right_of_every_value_and_wide_spreads_are_logarithmic():
    drawn = plots.plot(curve("property.area_max", None, 0.1, (0.01, 0.1, 1.0)), 1.0)
    before, after = drawn.marks
    assert drawn.log
    assert before.x == plots.WIDTH > float(drawn.objective.split()[-1].split(",")[0])
    assert after.x == pytest.approx(plots.WIDTH * 0.93 / 2)
    assert (before.text, drawn.ends[1]) == ("no limit", "1, then no limit")


def test_number_that_stays_has_one_mark_and_one_value_is_enough():
    single = Curve("saliency.gain", (3.0,), (0.5,), None, 3.0, 3.0)
    drawn = plots.plot(single, plots.top_of([single]))
    assert [mark.kind for mark in drawn.marks] == ["same"]
    assert drawn.alarms == ""
    assert drawn.objective == "150.0,0.0"


@given(
    values=st.lists(st.floats(0, 1e4) | st.just(math.inf), min_size=1, max_size=9, unique=True).map(sorted),
    ends=st.tuples(*[st.none() | st.floats(0, 1e4)] * 2),
)
def test_everything_stays_inside_the_plot_and_rises_with_the_value(values, ends):
    shares = tuple(np.linspace(0, 1, len(values)).tolist())
    drawn = plots.plot(Curve("x", tuple(values), shares, shares, *ends), plots.top_of([]) * 10)
    xs, ys = zip(*(map(float, pair.split(",")) for pair in drawn.objective.split()), strict=True)
    assert list(xs) == sorted(xs)
    assert 0 <= min(xs) <= max(xs) <= plots.WIDTH
    assert 0 <= min(ys) <= max(ys) <= plots.HEIGHT
    assert all(0 <= mark.x <= plots.WIDTH for mark in drawn.marks)


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3).map(sorted))
def test_interval_and_zero_are_on_the_line_in_order(ends):
    lower, mean, upper = ends
    drawn = plots.span(Interval(mean, lower, upper))
    assert 0 <= drawn.lower <= drawn.mean <= drawn.upper <= 100
    assert 0 < drawn.zero < 100
    assert (drawn.zero < drawn.lower) <= (lower > 0)


# ------------------------------------------------------------------------------------------------------- a real browser


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1360])
def test_page_fits_the_window_and_runs_nothing(tmp_path, width):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("needs a browser: no Chromium or Chrome is installed")
    from playwright.sync_api import sync_playwright

    written = write_refinement(hostile(), photograph, {EVIL: EVIL}, tmp_path)
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = opened.new_page(viewport={"width": width, "height": 900})
        said, asked = [], []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("request", lambda request: asked.append(request.url.partition(":")[0]))
        tab.goto(written.as_uri())
        assert tab.title().startswith("Refinement of ")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.locator("h1").bounding_box()["y"] < 200
        visible = tab.locator(".outline").first
        assert visible.is_visible()
        tab.locator("#show-outlines").uncheck()
        assert not visible.is_visible()
        opened.close()
    assert said == []
    assert set(asked) <= {"file", "data"}
