"""Tiles: where they lie, that nothing moves or doubles on the way back, and that what is small is found."""

from __future__ import annotations

import doctest
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from saa_core import masks, tiling
from saa_core.batch import BatchContext
from saa_core.features import FeatureExtractor, FeatureLayout, FilterBank
from saa_core.generators import Lexical, Proposals, RegionGenerator, Request
from saa_core.pipeline import SegmentAnyAnomaly, decide, prior_map
from saa_core.prompts import PromptBundle, SaliencyPrompt
from saa_core.refiners import Contour, Refined, RegionRefiner
from saa_core.tiling import TiledExtractor, TiledGenerator, TiledRefiner, Tiling
from saa_core.types import RGB, AnomalyResult, Boxes, FloatMap, Query, Region
from saa_core.views import View, sample_cells
from tests.contracts.extractor import FeatureExtractorContract
from tests.contracts.generator import RegionGeneratorContract
from tests.contracts.images import noise, peak
from tests.contracts.refiner import RegionRefinerContract

TILES = Tiling(64, 0.25)
FLAT = np.full((20, 20), 0.5, np.float32)
QUERY = Query(("dark", "grey"))
Box = tuple[int, int, int, int]
Answer = tuple[Box, tuple[float, float]]
Seen = tuple[int, int, int]
"""A view by its left, its top and its width."""


@pytest.mark.slow
class TestTiledLexicalIsAGenerator(RegionGeneratorContract):
    @pytest.fixture
    def generator(self) -> RegionGenerator:
        return TiledGenerator(Lexical(), Tiling(80))


class TestTiledContourIsARefiner(RegionRefinerContract):
    @pytest.fixture
    def refiner(self) -> RegionRefiner:
        return TiledRefiner(Contour(), Tiling(40))


@pytest.mark.slow
class TestTiledFilterBankIsAnExtractor(FeatureExtractorContract):
    @pytest.fixture
    def extractor(self) -> FeatureExtractor:
        return TiledExtractor(FilterBank(), Tiling(80))


# ------------------------------------------------------------------------------ models that see what was drawn, exactly


def drawing(size: tuple[int, int], *boxes: Box) -> RGB:
    """White, with a black rectangle for each box XYXY."""
    image = np.full((*size, 3), 255, np.uint8)
    for x0, y0, x1, y1 in boxes:
        image[y0:y1, x0:x1] = 0
    image.setflags(write=False)
    return image


def dark(image: RGB) -> NDArray[np.bool_]:
    return np.asarray(image[..., 0] < 128)


@dataclass
class Boxer:
    """Boxes of what is black, in images of at most `sight` pixels a side: a larger one is a blur to it.

    Attributes:
        sight: Side.
        asked: The requests of each call.
    """

    sight: int = 10_000
    asked: list[Sequence[Request]] = field(default_factory=list)
    name: str = "boxer"
    id: str = "boxer-1"
    reads_set: bool = True

    def parts(self, query: Query) -> tuple[Query, ...]:
        return (query,)

    def __call__(self, requests: Sequence[Request]) -> list[Proposals]:
        self.asked.append(requests)
        return [self._see(request) for request in requests]

    def _see(self, request: Request) -> Proposals:
        image, phrases = request.image, request.query.phrases
        seen = dark(image) if max(image.shape) <= self.sight else np.zeros(image.shape[:2], np.bool_)
        _, _, stats, _ = cv2.connectedComponentsWithStats(seen.astype(np.uint8), connectivity=4)
        boxes = np.array([(x, y, x + w, y + h) for x, y, w, h, _ in stats[1:]], np.float32).reshape(-1, 4)
        grid = cv2.resize(seen.astype(np.float32), (32, 32), interpolation=cv2.INTER_AREA)
        return Proposals(
            boxes=boxes,
            scores=np.full((len(boxes), len(phrases)), 0.5, np.float32),
            evidence=np.repeat(grid[None], len(phrases), axis=0).astype(np.float16),
            unknown_words=("blur",),
            peaks=np.full(len(boxes), 0.75, np.float32),
            object_boxes=boxes if request.query.object else boxes[:0],
        )


@dataclass
class Inker:
    """Masks of what is black in a box. Its embedding is the image's mean, and it insists on the right one.

    Attributes:
        seen: Size of the image of each call.
        embedded: Size of each image that was embedded.
    """

    seen: list[tuple[int, ...]] = field(default_factory=list)
    embedded: list[tuple[int, ...]] = field(default_factory=list)
    name: str = "inker"
    id: str = "inker-1"
    reads_set: bool = True

    def embed(self, image: RGB) -> FloatMap:
        self.embedded.append(image.shape[:2])
        return image.mean(axis=(0, 1)).astype(np.float32)

    def __call__(self, image: RGB, boxes: Boxes, saliency: FloatMap, embedding: FloatMap | None = None) -> Refined:
        self.seen.append(image.shape[:2])
        mean = image.mean(axis=(0, 1)).astype(np.float32)
        np.testing.assert_array_equal(self.embed(image) if embedding is None else embedding, mean)
        found = []
        for x0, y0, x1, y1 in np.maximum(np.rint(boxes), 0).astype(int):
            mask = np.zeros(image.shape[:2], np.bool_)
            mask[y0:y1, x0:x1] = dark(image)[y0:y1, x0:x1]
            found.append(masks.encode(mask))
        return Refined(tuple(found), np.linspace(0, 1, len(boxes), dtype=np.float32))


@dataclass(frozen=True)
class Averager:
    """Mean colour of each of 8 x 8 cells, and the image's height."""

    whiten: bool = True
    name: str = "averager"
    id: str = "averager-1"

    @property
    def layout(self) -> FeatureLayout:
        return FeatureLayout(whiten=self.whiten)

    def at(self, prompt: SaliencyPrompt, objects: int) -> Averager:
        return Averager(whiten=prompt.stages is None)

    def __call__(self, image: RGB) -> FloatMap:
        colours = cv2.resize(image.astype(np.float32), (8, 8), interpolation=cv2.INTER_AREA)
        return np.dstack([colours, np.full((8, 8), image.shape[0], np.float32)])


def boxes_of(found: Proposals) -> set[Box]:
    return {tuple(box) for box in found.boxes.astype(int).tolist()}


def tiled(sight: int, image: RGB, query: Query = QUERY) -> Proposals:
    (found,) = TiledGenerator(Boxer(sight), TILES)([Request(image, query, FLAT)])
    return found


# -------------------------------------------------------------------------------------------------------------- windows

TILINGS = st.builds(Tiling, st.integers(16, 200), st.floats(0, 0.5))
SIDES = st.integers(1, 700)


class TestWindows:
    @given(TILINGS, SIDES, SIDES)
    def test_they_cover_the_image_from_inside(self, tiles: Tiling, height: int, width: int) -> None:
        cover = np.zeros((height, width), np.bool_)
        windows = tiles.windows(height, width)
        for y0, x0, y1, x1 in windows:
            assert 0 <= y0 < y1 <= height
            assert 0 <= x0 < x1 <= width
            cover[y0:y1, x0:x1] = True
        assert cover.all() == bool(windows)
        assert bool(windows) == (max(height, width) > tiles.side)
        assert len(set(windows)) == len(windows)

    @given(TILINGS, SIDES, SIDES)
    def test_all_have_the_full_side_where_the_image_has(self, tiles: Tiling, height: int, width: int) -> None:
        sizes = {(y1 - y0, x1 - x0) for y0, x0, y1, x1 in tiles.windows(height, width)}
        assert sizes <= {(min(height, tiles.side), min(width, tiles.side))}

    @given(TILINGS, st.integers(201, 3000))
    def test_neighbours_overlap_as_asked_and_lie_evenly(self, tiles: Tiling, length: int) -> None:
        starts = [x0 for _, x0, _, _ in tiles.windows(1, length)]
        steps = [after - before for before, after in pairwise(starts)]
        assert all(tiles.side - step >= tiles.overlap * tiles.side for step in steps)
        assert max(steps) - min(steps) <= 1
        fewer = len(starts) - 2
        assert not fewer or tiles.side - -(-starts[-1] // fewer) < tiles.overlap * tiles.side

    def test_a_photograph_of_twelve_megapixels(self) -> None:
        assert len(Tiling(1024).windows(3000, 4000)) == 20

    @pytest.mark.parametrize(("side", "overlap"), [(15, 0.2), (64, -0.1), (64, 0.51), (64, float("nan"))])
    def test_numbers_out_of_range_are_refused(self, side: int, overlap: float) -> None:
        with pytest.raises(ValueError, match="tiles"):
            Tiling(side, overlap)

    def test_the_examples(self) -> None:
        assert doctest.testmod(tiling) == doctest.TestResults(0, 2)


class TestOneTile:
    """An image that is not larger than a tile: the models themselves, to the bit."""

    IMAGE = noise((50, 64))

    def test_generator(self) -> None:
        request = Request(self.IMAGE, Query(("dark scratch",)), peak())
        ((found,), (alone,)) = TiledGenerator(Lexical(), TILES)([request]), Lexical()([request])
        assert found.unknown_words == alone.unknown_words
        for name in ("boxes", "scores", "evidence", "object_boxes"):
            np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))

    def test_refiner(self) -> None:
        boxes = np.array([[5, 5, 30, 40], [0, 0, 64, 50]], np.float32)
        found, alone = TiledRefiner(Contour(), TILES)(self.IMAGE, boxes, peak()), Contour()(self.IMAGE, boxes, peak())
        assert found.masks == alone.masks
        np.testing.assert_array_equal(found.quality, alone.quality)

    def test_embedding(self) -> None:
        np.testing.assert_array_equal(TiledRefiner(Inker(), TILES).embed(self.IMAGE), Inker().embed(self.IMAGE))

    def test_extractor(self) -> None:
        found = TiledExtractor(FilterBank(), TILES)(self.IMAGE)
        np.testing.assert_array_equal(found, FilterBank()(self.IMAGE))

    def test_the_set_as_context(self) -> None:
        bank = FilterBank()
        grids = {str(number): bank(noise((64, 40 + 9 * number), number)) for number in range(3)}
        assert max(grid.shape[0] * grid.shape[1] for grid in grids.values()) > 96 * 96  # a square tile's
        contexts = [
            BatchContext.fit(list(grids), grids.__getitem__, model.layout)
            for model in (bank, TiledExtractor(bank, TILES))
        ]
        for key, grid in grids.items():
            np.testing.assert_array_equal(*(context.saliency(key, grid) for context in contexts))


class TestNames:
    @pytest.mark.parametrize(
        "model",
        [TiledGenerator(Lexical(), TILES), TiledRefiner(Contour(), TILES), TiledExtractor(FilterBank(), TILES)],
    )
    def test_the_id_tells_the_tiles(self, model: TiledGenerator | TiledRefiner | TiledExtractor) -> None:
        assert model.name == model.inner.name
        assert model.id == f"{model.inner.id}-tile64-0.25"

    def test_the_rest_is_the_inner_ones(self) -> None:
        for reads in (False, True):
            assert TiledGenerator(Boxer(reads_set=reads), TILES).reads_set == reads
            assert TiledRefiner(Inker(reads_set=reads), TILES).reads_set == reads
        assert TiledGenerator(Boxer(), TILES).parts(QUERY) == (QUERY,)


# ------------------------------------------------------------------------------------------------------------ generator


@st.composite
def rectangles(draw: st.DrawFn) -> tuple[tuple[int, int], list[Box]]:
    """Size of an image, and boxes in it, a pixel or more apart."""
    height, width = draw(st.integers(1, 200)), draw(st.integers(65, 200))
    taken, boxes = np.zeros((height + 2, width + 2), np.bool_), []
    for _ in range(draw(st.integers(1, 6))):
        x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
        if not taken[y0 : y1 + 2, x0 : x1 + 2].any():
            taken[y0 + 1 : y1 + 1, x0 + 1 : x1 + 1] = True
            boxes.append((x0, y0, x1, y1))
    return (height, width), boxes


class TestTiledGenerator:
    @given(rectangles())
    @settings(deadline=None, max_examples=50)
    def test_what_only_tiles_show_comes_out_whole_and_once(self, drawn: tuple[tuple[int, int], list[Box]]) -> None:
        size, boxes = drawn
        found = tiled(64, drawing(size, *boxes))
        assert sorted(found.boxes.astype(int).tolist()) == sorted(map(list, boxes))

    @given(rectangles())
    @settings(deadline=None, max_examples=50)
    def test_what_all_views_show_comes_out_once(self, drawn: tuple[tuple[int, int], list[Box]]) -> None:
        size, boxes = drawn
        found = tiled(10_000, drawing(size, *boxes))
        assert sorted(found.boxes.astype(int).tolist()) == sorted(map(list, boxes))

    def test_scores_and_peaks_go_with_their_boxes(self) -> None:
        found = tiled(64, drawing((64, 200), (5, 5, 20, 20), (30, 30, 150, 36)))
        assert found.scores.dtype == found.boxes.dtype == np.float32
        np.testing.assert_array_equal(found.scores, np.full((2, 2), 0.5))
        assert found.peaks is not None
        np.testing.assert_array_equal(found.peaks, [0.75, 0.75])
        assert found.unknown_words == ("blur",)

    def test_one_call_with_views_of_the_images_memory(self) -> None:
        boxer, image, other = Boxer(), drawing((100, 150)), drawing((10, 10))
        requests = [Request(image, QUERY, FLAT), Request(other, QUERY, FLAT), Request(image, Query(("dark",)), FLAT)]
        found = TiledGenerator(boxer, TILES)(requests)
        assert len(found) == 3
        (asked,) = boxer.asked
        assert [view.image.shape[:2] for view in asked] == [
            (100, 150),
            *[(64, 64)] * 6,
            (10, 10),
            (100, 150),
            *[(64, 64)] * 6,
        ]
        assert all(np.shares_memory(view.image, image) for view in asked if view.image is not other)
        # A detector knows by the very same array that two captions are asked of one image.
        assert all(first.image is second.image for first, second in zip(asked[:7], asked[8:], strict=True))

    def test_an_object_is_looked_for_in_the_whole_image_alone(self) -> None:
        boxer = Boxer()
        image = drawing((100, 150), (10, 10, 140, 90))
        requests = [
            Request(image, Query(("dark",), object="plate"), FLAT),
            Request(image, Query((), object="plate"), FLAT),
        ]
        found = TiledGenerator(boxer, TILES)(requests)
        assert [each.object_boxes.tolist() for each in found] == [[[10, 10, 140, 90]]] * 2
        (asked,) = boxer.asked
        assert [view.query.object for view in asked] == ["plate", *[None] * 6, "plate"]

    def test_a_tiles_saliency_is_the_same_place(self) -> None:
        boxer, size = Boxer(), (120, 160)
        rows, columns = np.mgrid[:30, :40].astype(np.float32) + 0.5
        TiledGenerator(boxer, TILES)([Request(drawing(size), QUERY, rows / 100 + columns / 1000)])
        (views,) = boxer.asked
        np.testing.assert_array_equal(views[0].saliency, rows / 100 + columns / 1000)
        for (y0, x0, y1, x1), view in zip(TILES.windows(*size), views[1:], strict=True):
            height, width = view.saliency.shape
            down = y0 + (np.arange(height)[:, None] + 0.5) * (y1 - y0) / height
            across = x0 + (np.arange(width) + 0.5) * (x1 - x0) / width
            # Bilinear between the centres of cells of 4 pixels; beyond the outermost centres the edge is repeated.
            expected = down.clip(2, 118) / 400 + across.clip(2, 158) / 4000
            np.testing.assert_allclose(view.saliency, expected, atol=1e-6)

    def test_a_map_that_is_not_read_is_not_cropped(self) -> None:
        boxer, nothing = Boxer(reads_set=False), np.zeros((1, 1), np.float32)
        TiledGenerator(boxer, TILES)([Request(drawing((100, 150)), QUERY, nothing)])
        assert all(view.saliency is nothing for view in boxer.asked[0])


@dataclass
class Oracle:
    """Says what it was told for each view; the pixels of `chart` tell it which one it sees."""

    answers: dict[Seen, list[Answer]]
    name: str = "oracle"
    id: str = "oracle-1"
    reads_set: bool = False

    def parts(self, query: Query) -> tuple[Query, ...]:
        return (query,)

    def __call__(self, requests: Sequence[Request]) -> list[Proposals]:
        return [self._answer(request.image) for request in requests]

    def _answer(self, image: RGB) -> Proposals:
        x, y = image[0, 0, :2].tolist()
        known = self.answers.get((x, y, image.shape[1]), [])
        boxes = np.array([box for box, _ in known], np.float32).reshape(-1, 4) - np.array([x, y, x, y], np.float32)
        return Proposals(boxes, np.array([scores for _, scores in known], np.float32).reshape(-1, 2))


def chart(height: int, width: int) -> RGB:
    """Each pixel holds its column and row."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.dstack([columns, rows, rows])


WHOLE, LEFT, RIGHT = (0, 0, 112), (0, 0, 64), (48, 0, 64)
"""Views of an image of 64 x 112: they share the columns 48 to 64."""


def told(
    answers: dict[Seen, list[Answer]],
) -> list[tuple[list[int], list[float]]]:
    (found,) = TiledGenerator(Oracle(answers), TILES)([Request(chart(64, 112), QUERY, FLAT)])
    assert found.peaks is None
    assert found.evidence is None
    scores = np.round(found.scores.astype(float), 3)
    return list(zip(found.boxes.astype(int).tolist(), scores.tolist(), strict=True))


class TestOneRegion:
    def test_pieces_take_the_best_of_each_score(self) -> None:
        pieces = {LEFT: [((20, 10, 64, 20), (0.6, 0.1))], RIGHT: [((48, 11, 90, 20), (0.5, 0.3))]}
        assert told(pieces) == [([20, 10, 90, 20], [0.6, 0.3])]

    def test_pieces_that_say_something_else_stay_apart(self) -> None:
        pieces = {LEFT: [((20, 10, 64, 20), (0.6, 0.1))], RIGHT: [((48, 11, 90, 20), (0.2, 0.3))]}
        assert len(told(pieces)) == 2

    def test_pieces_that_do_not_meet_stay_apart(self) -> None:
        pieces = {LEFT: [((20, 10, 64, 20), (0.6, 0.1))], RIGHT: [((48, 18, 90, 30), (0.5, 0.3))]}
        assert len(told(pieces)) == 2

    def test_boxes_that_end_before_the_seam_are_no_pieces(self) -> None:
        views = {LEFT: [((20, 10, 62, 20), (0.6, 0.1))], RIGHT: [((50, 11, 90, 20), (0.5, 0.3))]}
        assert len(told(views)) == 2

    def test_nested_boxes_find_their_own_pieces(self) -> None:
        views = {
            LEFT: [((10, 5, 64, 45), (0.4, 0.1)), ((20, 10, 64, 30), (0.6, 0.1))],
            RIGHT: [((48, 10, 80, 30), (0.6, 0.1)), ((48, 5, 90, 45), (0.4, 0.1))],
        }
        assert [box for box, _ in told(views)] == [[20, 10, 80, 30], [10, 5, 90, 45]]

    def test_of_duplicates_the_better_stays(self) -> None:
        for better in (LEFT, RIGHT, WHOLE):
            views = {view: [((49, 10, 63, 20), (0.9 if view == better else 0.4, 0.1))] for view in (LEFT, RIGHT, WHOLE)}
            views[better] = [((50, 10, 63, 20), (0.9, 0.1))]
            assert told(views) == [([50, 10, 63, 20], [0.9, 0.1])]

    def test_near_copies_of_one_view_are_its_own_business(self) -> None:
        views = {WHOLE: [((5, 10, 40, 20), (0.9, 0.1)), ((5, 10, 39, 20), (0.8, 0.1))]}
        assert len(told(views)) == 2

    def test_a_small_box_in_a_better_large_one_stays(self) -> None:
        views = {WHOLE: [((5, 5, 60, 60), (0.9, 0.1))], LEFT: [((20, 20, 30, 30), (0.5, 0.1))]}
        assert len(told(views)) == 2

    @pytest.mark.parametrize(
        ("better", "goes"),
        [
            ([(RIGHT, (49, 5, 100, 60), (0.9, 0.1))], True),
            ([(RIGHT, (49, 5, 100, 60), (0.1, 0.9))], False),  # says something else
            ([(RIGHT, (49, 5, 100, 60), (0.4, 0.1))], False),  # not better
            ([(RIGHT, (60, 5, 100, 60), (0.9, 0.1))], False),  # holds less than half of it
            ([(WHOLE, (49, 5, 100, 60), (0.9, 0.1))], False),  # saw less of it
            ([(LEFT, (5, 2, 64, 60), (0.9, 0.1))], False),  # its own tile tells them apart
            ([(LEFT, (5, 2, 64, 60), (0.9, 0.1)), (RIGHT, (48, 2, 100, 60), (0.9, 0.1))], True),  # one united region
        ],
    )
    def test_a_cut_piece_in_a_better_box_is_no_region(
        self, better: list[tuple[Seen, Box, tuple[float, float]]], goes: bool
    ) -> None:
        views: dict[Seen, list[Answer]] = {LEFT: [((50, 20, 64, 30), (0.5, 0.1))]}
        for view, box, scores in better:
            views.setdefault(view, []).append((box, scores))
        assert ([50, 20, 64, 30] not in [box for box, _ in told(views)]) == goes

    def test_a_tile_knows_nothing_beyond_its_seam(self) -> None:
        assert told({LEFT: [((20, 10, 75, 20), (0.6, 0.1))]}) == [([20, 10, 64, 20], [0.6, 0.1])]


class TestEvidence:
    def test_it_is_where_the_defect_is_and_as_fine_as_a_tiles(self) -> None:
        evidence = tiled(64, drawing((128, 192), (99, 61, 103, 65))).evidence
        assert evidence is not None
        assert evidence.dtype == np.float16
        assert evidence.shape == (2, 64, 96)  # a tile of 64 pixels has 32 cells
        for row in evidence.astype(np.float32):
            assert np.unravel_index(row.argmax(), row.shape) in [(y, x) for y in (30, 31, 32) for x in (49, 50, 51)]
            assert row.max() > 0.9
            assert row[:25].max() == row[40:].max() == row[:, :44].max() == row[:, 56:].max() == 0

    def test_what_the_whole_image_shows_is_in_it(self) -> None:
        # Nothing but the whole image sees this generator's `large` evidence.
        class Large(Boxer):
            def _see(self, request: Request) -> Proposals:
                found = super()._see(request)
                large = np.float16(request.image.shape[1] > 64)
                return Proposals(found.boxes, found.scores, np.full((2, 4, 4), large / np.float16(4)))

        (found,) = TiledGenerator(Large(), TILES)([Request(drawing((100, 150)), QUERY, FLAT)])
        assert found.evidence is not None
        np.testing.assert_array_equal(found.evidence, 0.25)

    def test_its_size_is_bounded(self) -> None:
        evidence = TiledGenerator(Boxer(), Tiling(32))([Request(drawing((448, 896)), QUERY, FLAT)])[0].evidence
        assert evidence is not None
        assert evidence[0].size == pytest.approx(2**18, rel=0.01)
        assert evidence.shape[2] == pytest.approx(2 * evidence.shape[1], rel=0.01)


# -------------------------------------------------------------------------------------------------------------- refiner


class TestTiledRefiner:
    SIZE = (150, 200)
    SMALL, LARGE = (50, 50, 60, 58), (10, 20, 190, 60)

    @given(st.lists(st.tuples(*[st.floats(-20, 220)] * 4), max_size=8))
    @settings(deadline=None, max_examples=50)
    def test_masks_lie_where_the_ink_is(self, corners: list[tuple[float, float, float, float]]) -> None:
        image = drawing(self.SIZE, self.LARGE, (30, 100, 90, 140), (120, 70, 121, 150))
        boxes = np.array([(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners], np.float32)
        boxes = np.rint(boxes.reshape(-1, 4))
        found, alone = TiledRefiner(Inker(), TILES)(image, boxes, FLAT), Inker()(image, boxes, FLAT)
        assert found.masks == alone.masks

    def test_a_box_is_seen_in_the_smallest_view_that_shows_it_with_its_surroundings(self) -> None:
        inker = Inker()
        boxes = np.array([self.LARGE, self.SMALL, (0, 0, 30, 30), (0, 0, 50, 50)], np.float32)
        TiledRefiner(inker, TILES)(drawing(self.SIZE), boxes, FLAT)
        assert inker.seen == [self.SIZE, (64, 64), (64, 64)]
        # Without an embedding, only what is looked at is embedded.
        assert inker.embedded == inker.seen

    def test_quality_and_order_are_kept(self) -> None:
        image = drawing(self.SIZE, self.SMALL, (150, 10, 160, 20))
        boxes = np.array([(150, 10, 160, 20), self.SMALL, self.LARGE, (49, 49, 61, 59)], np.float32)
        found = TiledRefiner(Inker(), TILES)(image, boxes, FLAT)
        assert [mask.area for mask in found.masks] == [100, 80, 10 * 8 + 0, 80]
        assert found.quality.shape == (4,)
        # The second and the fourth box are in one tile, first and last there.
        assert (found.quality[1], found.quality[3]) == (0, 1)

    def test_each_view_gets_its_own_embedding(self) -> None:
        image, inker = drawing(self.SIZE, self.SMALL, self.LARGE, (120, 100, 150, 140)), Inker()
        refiner = TiledRefiner(inker, TILES)
        embedding = refiner.embed(image)
        assert embedding is not None
        assert embedding.shape == (1 + len(TILES.windows(*self.SIZE)), 3)
        assert embedding.dtype == np.float32
        done = len(inker.embedded)
        boxes = np.array([self.LARGE, self.SMALL, (125, 105, 130, 110)], np.float32)
        # The double itself checks that the embedding is that of the image it sees.
        assert refiner(image, boxes, FLAT, embedding).masks == Inker()(image, boxes, FLAT).masks
        assert len(inker.embedded) == done

    def test_a_refiner_without_embeddings_has_none_with_tiles(self) -> None:
        assert TiledRefiner(Contour(), TILES).embed(drawing(self.SIZE)) is None

    def test_a_mask_without_pixels_stays_one(self) -> None:
        found = TiledRefiner(Inker(), TILES)(drawing(self.SIZE), np.array([self.SMALL], np.float32), FLAT)
        assert found.masks == (masks.empty(*self.SIZE),)


# ------------------------------------------------------------------------------------------------------------ extractor


class TestTiledExtractor:
    def test_features_are_those_of_their_place(self) -> None:
        rows, columns = np.mgrid[:160, :224].astype(np.uint8)
        image = np.dstack([rows, columns, np.full_like(rows, 7)])
        found = TiledExtractor(Averager(), TILES)(image)
        assert found.shape == (20, 28, 4)  # 8 pixels a cell, as in a tile
        down, across = 8 * np.arange(20) + 3.5, 8 * np.arange(28) + 3.5
        # Where the grid of a tile or of the whole image ends, half a cell of it is repeated.
        np.testing.assert_allclose(found[..., 0], np.broadcast_to(down[:, None], (20, 28)), atol=5)
        np.testing.assert_allclose(found[..., 1], np.broadcast_to(across, (20, 28)), atol=5)
        np.testing.assert_allclose(found[..., 2], 7, rtol=1e-6)

    def test_a_tile_counts_twice_as_much_as_the_whole_image(self) -> None:
        found = TiledExtractor(Averager(), TILES)(drawing((150, 100)))
        np.testing.assert_allclose(found[..., 3], (64 + 0.5 * 150) / 1.5, rtol=1e-6)

    def test_directions_are_averaged_where_directions_are_compared(self) -> None:
        found = TiledExtractor(Averager(whiten=False), TILES)(drawing((150, 100)))
        views = [np.array([255, 255, 255, height]) for height in (64, 150)]
        tile, whole = (view / np.linalg.norm(view) for view in views)
        np.testing.assert_allclose(found, np.broadcast_to((tile + 0.5 * whole) / 1.5, found.shape), rtol=1e-5)

    def test_what_is_small_is_less_diluted(self) -> None:
        image = drawing((256, 256), (40, 40, 48, 48))
        assert TiledExtractor(Averager(), TILES)(image)[..., 0].min() < 120
        assert Averager()(image)[..., 0].min() > 230

    def test_the_layout_tells_the_cells_of_a_tile(self) -> None:
        assert TiledExtractor(Averager(whiten=False), TILES).layout == FeatureLayout(tile=64)
        assert TiledExtractor(FilterBank(), TILES).layout == FeatureLayout(True, 58, 4, 9216)

    def test_a_bundles_wish_reaches_the_inner_one(self) -> None:
        chosen = TiledExtractor(Averager(), TILES).at(SaliencyPrompt(stages=(1,)), 1)
        assert (chosen.inner, chosen.tiling) == (Averager(whiten=False), TILES)

    def test_the_grid_is_bounded(self) -> None:
        class Wide(Averager):
            def __call__(self, image: RGB) -> FloatMap:
                return np.repeat(super().__call__(image)[..., :1], 2**14, axis=2)

        found = TiledExtractor(Wide(), Tiling(16, 0.0))(drawing((128, 96)))
        assert found.size == pytest.approx(2**25, rel=0.02)
        np.testing.assert_allclose(found[..., 0], 255, rtol=1e-6)


class TestViews:
    def test_a_grid_of_many_tiles_keeps_its_cells(self) -> None:
        view = View(100, 10_000, True, 0.0, 1.0, tile=400)
        for side, kept in ((10, 100), (20, 100), (22, 100), (40, 400), (60, 900)):
            features = np.random.default_rng(0).random((side, side, 3), np.float32)
            assert len(sample_cells(features, view, "a")) == kept

    def test_without_tiles_a_grid_is_reduced_as_ever(self) -> None:
        features = np.random.default_rng(0).random((60, 60, 3), np.float32)
        assert len(sample_cells(features, View(100, 10_000, True, 0.0, 1.0), "a")) == 100


# ----------------------------------------------------------------------------------------------------- the whole method


BUNDLE = PromptBundle.from_content({"product": "p", "profile": "batch", "language": {"specific": ["dark scratch"]}})


def surface(seed: int, size: tuple[int, int]) -> NDArray[np.float32]:
    """Grey with soft clouds and fine grain."""
    rng = np.random.default_rng(seed)
    clouds = cv2.resize(
        rng.normal(128, 8, (size[0] // 16, size[1] // 16)), (size[1], size[0]), interpolation=cv2.INTER_CUBIC
    )
    return (clouds + rng.normal(0, 5, size)).astype(np.float32)


def photograph(values: NDArray[np.float32]) -> RGB:
    return np.repeat(values.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def scratched(
    values: NDArray[np.float32], start: tuple[int, int], end: tuple[int, int], width: int
) -> tuple[RGB, NDArray[np.bool_]]:
    mask = np.zeros(values.shape, np.uint8)
    cv2.line(mask, start, end, 1, width)
    return photograph(values - 45 * cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.7)), mask > 0


def models(tiles: Tiling | None) -> SegmentAnyAnomaly:
    if tiles is None:
        return SegmentAnyAnomaly(Lexical(), Contour(), FilterBank())
    return SegmentAnyAnomaly(
        TiledGenerator(Lexical(), tiles), TiledRefiner(Contour(), tiles), TiledExtractor(FilterBank(), tiles)
    )


def label(images: Sequence[RGB], method: SegmentAnyAnomaly) -> AnomalyResult:
    """The first image in the context of all."""
    features = [method.features(image) for image in images]
    context = BatchContext.fit(
        [str(n) for n in range(len(images))], lambda key: features[int(key)], method.extractor.layout
    )
    prior = prior_map("0", images[0], features[0], context)
    return decide(method.propose("0", images[0], BUNDLE.query, prior), prior, BUNDLE)


@pytest.mark.slow
def test_a_small_defect_of_a_large_image_is_found_with_tiles_and_not_without() -> None:
    size = (1000, 1000)
    image, defect = scratched(surface(0, size), (620, 410), (627, 413), 2)
    images = [image, *(photograph(surface(seed, size)) for seed in (1, 2))]
    found, missed = label(images, models(Tiling(340, 0.03))), label(images, models(None))
    assert not any(covers(region, defect) for region in missed.regions)
    assert covers(found.regions[0], defect)
    assert found.regions[0].confidence > 1.4 * found.regions[1].confidence
    assert found.regions[0].area < 5000
    assert stands_out(found, defect) > 0.1 > stands_out(missed, defect)


def covers(region: Region, defect: NDArray[np.bool_]) -> bool:
    return bool(masks.containment([masks.encode(defect)], [region.mask])[0, 0] > 0.5)


def stands_out(result: AnomalyResult, defect: NDArray[np.bool_]) -> float:
    """How much higher the map is about the defect than anywhere else."""
    near = cv2.dilate(defect.astype(np.uint8), np.ones((41, 41))) > 0
    full = cv2.resize(result.map, (defect.shape[1], defect.shape[0]))
    return float(full[near].max() - full[~near].max())


def test_a_defect_on_the_seams_of_four_tiles_is_one_region_with_the_mask_that_it_has_without_tiles() -> None:
    image, defect = scratched(surface(3, (300, 300)), (110, 140), (200, 156), 8)
    blunt = cv2.resize(cv2.GaussianBlur(defect.astype(np.float32), (0, 0), 8), (100, 100), interpolation=cv2.INTER_AREA)
    prior = 0.1 + 0.8 * blunt / blunt.max()
    cut, whole = (
        decide(models(tiles).propose("a", image, BUNDLE.query, prior), prior, BUNDLE) for tiles in (Tiling(160), None)
    )
    on_defect = [masks.containment([region.mask], [masks.encode(defect)])[0, 0] > 0 for region in cut.regions]
    assert on_defect[0]
    assert sum(on_defect) == 1
    assert masks.iou([cut.regions[0].mask], [whole.regions[0].mask])[0, 0] > 0.8


LABEL_TWELVE_MEGAPIXELS = """
import resource, sys
import numpy as np
from tests.saa_core.test_tiling import Tiling, label, models, photograph, scratched, surface

image, defect = scratched(surface(0, (3000, 4000)), (1500, 1000), (1540, 1020), 5)
result = label([image], models(Tiling(1024, 0.2)))
assert result.map.size <= 2**18 * 1.01
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss is KiB on Linux alone")
def test_memory_is_bounded_at_twelve_megapixels() -> None:
    # The shell is between, since a process starts with the peak of the one that made it.
    command = ["sh", "-c", '"$0" -c "$1"; exit $?', sys.executable, LABEL_TWELVE_MEGAPIXELS]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1000 * 1024
