"""Product sets that everybody has: photographs of surfaces, with made defects whose masks are known.

The photographs (brick, gravel, grass; 512 x 512, grey) ship inside the scikit-image package, so nothing is downloaded.
Each image is another crop of its photograph, mirrored, with another exposure, another fall-off of light and its own
sensor noise, as a camera over a line would give; no pixel is rescaled. The good images share the photograph with the
defective ones, and one day's with the other's, therefore figures on these sets say that the program works and not how
it will do on a real product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from integrations.files import write_atomic

Grey = NDArray[np.uint8]
Plane = NDArray[np.float32]
Rng = np.random.Generator

SURFACES = ("brick", "gravel", "grass")
DEFECTS = ("scratch", "hole", "stain", "chip")
SIDE = 256

_FINE = 4  # shapes are drawn this much larger and averaged down, for smooth borders
_BORDER = 0.25  # a pixel covered by less stays untouched and outside the mask
_VISIBLE = 4  # grey levels by which every pixel of a mask differs from the clean surface, at least


@dataclass(frozen=True, slots=True)
class Day:
    """What is photographed of each surface on a day; two days share no number, so no image.

    Attributes:
        name: Of its folder.
        good: Numbers of the good images.
        defective: Numbers of the images of each defect.
    """

    name: str
    good: range
    defective: range


MONDAY = Day("monday", good=range(8, 34), defective=range(2, 6))
TUESDAY = Day("tuesday", good=range(8), defective=range(2))
DAYS = (MONDAY, TUESDAY)


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One made image.

    Attributes:
        image: uint8 (256, 256) grey.
        clean: uint8 (256, 256), the same image without its defect.
        mask: bool (256, 256), exactly the pixels where the two differ.
    """

    image: Grey
    clean: Grey
    mask: NDArray[np.bool_]


def make_demo(root: Path, seed: int = 0) -> Path:
    """Write the sets in MVTec layout, for each day and each of 3 surfaces good images and some of each of 4 defects.

    The layout is ``demo/<day>/<surface>/test/<good|defect>/NNN.png`` and, 0 or 255,
    ``demo/<day>/<surface>/ground_truth/<defect>/NNN_mask.png``. The same seed gives the same bytes; a file that is
    already there with these bytes is not touched.

    Args:
        root: Where the folder ``demo`` is made.
        seed: Not negative.

    Returns:
        ``root / "demo"``.

    Raises:
        StoreError: A file cannot be written.
    """
    for day, surface in product(DAYS, SURFACES):
        folder = root / "demo" / day.name / surface
        for kind, number, sample in make_surface(surface, day, seed):
            _write_png(folder / "test" / kind / f"{number:03}.png", sample.image)
            if sample.mask.any():
                mask = np.where(sample.mask, np.uint8(255), np.uint8(0))
                _write_png(folder / "ground_truth" / kind / f"{number:03}_mask.png", mask)
    return root / "demo"


def make_surface(surface: str, day: Day, seed: int = 0) -> Iterator[tuple[str, int, Sample]]:
    """Kind (``good`` or a defect), number within its kind, and image, for every image of a surface on a day."""
    photograph = _photograph(surface)
    for column, kind in enumerate(("good", *DEFECTS)):
        for number in day.defective if column else day.good:
            # A generator per image: an image does not depend on how many were made before it.
            rng = np.random.default_rng([seed, SURFACES.index(surface), column, number])
            yield kind, number, _sample(photograph, kind, rng)


def _sample(photograph: Grey, kind: str, rng: Rng) -> Sample:
    clean = _view(photograph, rng)
    if kind == "good":
        return Sample(clean, clean, np.zeros(clean.shape, np.bool_))
    cover, paint = _PAINTERS[kind](clean, rng)
    return _blend(clean, cover, paint)


def _photograph(surface: str) -> Grey:
    data = (files("skimage") / "data" / f"{surface}.png").read_bytes()
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE), np.uint8)


def _view(photograph: Grey, rng: Rng) -> Grey:
    """A crop as a camera would take it: mirrored or not, unevenly lit, with noise."""
    top, left = (int(rng.integers(side - SIDE + 1)) for side in photograph.shape)
    crop = photograph[top : top + SIDE, left : left + SIDE].astype(np.float32)
    rows, columns = (1 if rng.random() < 0.5 else -1 for _ in range(2))
    exposure = rng.uniform(0.92, 1.08) + rng.uniform(-0.06, 0.06) * _ramp(rng)
    noise = rng.normal(0.0, 1.5, crop.shape).astype(np.float32)
    return _grey(crop[::rows, ::columns] * exposure + noise)


def _blend(clean: Grey, cover: Plane, paint: Plane) -> Sample:
    """Lay `paint` over the surface where `cover` in [0, 1] says so."""
    mask = cover >= _BORDER
    image = _grey(np.where(mask, clean + cover * (paint - clean), clean))
    # Where paint and surface happen to agree the defect would have holes that no one can see.
    change = image.astype(np.int16) - clean
    push = np.where(change != 0, np.sign(change), np.where(clean < 128, 1, -1)) * _VISIBLE
    faint = mask & (np.abs(change) < _VISIBLE)
    pushed = clean + push
    pushed = np.where((pushed < 0) | (pushed > 255), clean - push, pushed)
    return Sample(np.where(faint, pushed, image).astype(np.uint8), clean, mask)


# ----------------------------------------------------- defects: surface -> cover in [0, 1] and paint, both (SIDE, SIDE)


def _scratch(clean: Grey, rng: Rng) -> tuple[Plane, Plane]:
    """A curved line of 1.5 to 4 pixels that thins out at both ends; lighter where it lays material bare, or darker."""
    start, middle, end = _curve_points(rng)
    t = np.linspace(0.0, 1.0, 64)[:, None]
    wander = np.cumsum(rng.normal(0.0, 0.25, (64, 2)), axis=0)
    points = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end + wander
    widths = rng.uniform(1.5, 4.0) * (0.45 + 0.55 * np.sin(np.pi * t[:, 0]))
    canvas = np.zeros((SIDE * _FINE, SIDE * _FINE), np.uint8)
    for here, there, width in zip(points[:-1], points[1:], widths, strict=False):
        cv2.line(canvas, _fine(here), _fine(there), 255, max(1, round(width * _FINE)))
    strength = rng.uniform(55.0, 110.0) * rng.choice([-1.0, 1.0], p=[0.3, 0.7])
    return _averaged(canvas), _smooth(clean, 1.0) + np.float32(strength)


def _hole(clean: Grey, rng: Rng) -> tuple[Plane, Plane]:
    """A dark pit, darkest away from the light, with a lit rim on one side."""
    cover, centre, radius = _blob(rng, rng.uniform(7.0, 16.0), roughness=0.12)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    angle = rng.uniform(0.0, 2.0 * np.pi)
    across = ((x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)) / radius
    inside = np.clip(1.0 - _smooth(cover, 2.0), 0.0, 1.0)
    floor = rng.uniform(12.0, 40.0)
    grain = 0.15 * (clean - cv2.blur(clean, (15, 15)).astype(np.float32))
    shade = 14.0 * (1.0 + across) + 150.0 * inside * np.clip(across, 0.0, 1.0)
    return cover, np.asarray(floor + shade + grain, np.float32)


def _stain(clean: Grey, rng: Rng) -> tuple[Plane, Plane]:
    """Something spilt: a soft patch that darkens the surface and lets its texture through, darker where it dried."""
    cover, _, radius = _blob(rng, rng.uniform(20.0, 42.0), roughness=0.28)
    soft = _smooth(cover, 2.0)
    rim = np.clip(soft - _smooth(cover, radius / 4), 0.0, 1.0)
    patchy = 0.08 * _cloud(rng, 24.0)
    kept = rng.uniform(0.50, 0.72) + patchy - 0.25 * rim
    return soft, np.asarray(clean * kept, np.float32)


def _chip(clean: Grey, rng: Rng) -> tuple[Plane, Plane]:
    """Material broken away: an angular patch of rough fresh fracture, with a shadow along one edge."""
    centre, radius = _place(rng, 34.0), rng.uniform(12.0, 26.0)
    angles = np.sort(rng.uniform(0.0, 2.0 * np.pi, 4) * 0.25 + np.arange(4) * np.pi / 2)
    angles = np.concatenate([angles, angles + rng.uniform(0.3, 0.6)])
    corners = centre + radius * rng.uniform(0.65, 1.15, (8, 1)) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    cover = _filled(cv2.convexHull(corners.astype(np.float32))[:, 0])
    step = rng.choice([-4.0, 4.0], 2)
    shifted = cv2.warpAffine(cover, np.array([[1, 0, step[0]], [0, 1, step[1]]], np.float32), (SIDE, SIDE))
    shadow = _smooth(np.clip(cover - shifted, 0.0, 1.0), 1.2)
    level = float(clean.mean()) + rng.uniform(35.0, 70.0)
    fracture = level + 14.0 * _cloud(rng, 2.0) + 8.0 * _cloud(rng, 8.0)
    return cover, np.asarray(fracture * (1.0 - 0.65 * shadow), np.float32)


_PAINTERS: dict[str, Callable[[Grey, Rng], tuple[Plane, Plane]]] = {
    "scratch": _scratch,
    "hole": _hole,
    "stain": _stain,
    "chip": _chip,
}


# --------------------------------------------------------------------------------------------------------------- shapes


def _curve_points(rng: Rng) -> NDArray[np.float64]:
    """Start, middle and end (3, 2) of a quadratic curve of 60 to 170 pixels, x and y."""
    centre, angle = _place(rng, 70.0), rng.uniform(0.0, np.pi)
    along = np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(60.0, 170.0) / 2
    bend = np.array([-along[1], along[0]]) * rng.uniform(-0.5, 0.5)
    return np.clip(np.stack([centre - along, centre + bend, centre + along]), 4.0, SIDE - 5.0)


def _blob(rng: Rng, radius: float, roughness: float) -> tuple[Plane, NDArray[np.float64], float]:
    """A closed shape whose radius wavers: its cover, its centre (x, y) and its mean radius in pixels."""
    centre = _place(rng, radius + 6.0)
    angle = np.linspace(0.0, 2.0 * np.pi, 120, endpoint=False)
    waves = np.arange(2, 7)
    phases, sizes = rng.uniform(0.0, 2.0 * np.pi, waves.size), rng.uniform(0.3, 1.0, waves.size)
    swings = np.cos(np.outer(angle, waves) + phases) @ (sizes / np.sqrt(waves))
    radii = radius * (1.0 + roughness * swings / 1.5)
    stretch = np.array([1.0, rng.uniform(0.65, 1.0)])
    outline = centre + radii[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1) * stretch
    return _filled(outline), centre, radius


def _place(rng: Rng, margin: float) -> NDArray[np.float64]:
    return rng.uniform(margin, SIDE - margin, 2)


def _filled(outline: NDArray[np.floating]) -> Plane:
    canvas = np.zeros((SIDE * _FINE, SIDE * _FINE), np.uint8)
    cv2.fillPoly(canvas, [np.rint(outline * _FINE).astype(np.int32)], 255)
    return _averaged(canvas)


def _averaged(canvas: Grey) -> Plane:
    """The share of each pixel that a finely drawn shape covers: float32 (SIDE, SIDE) in [0, 1]."""
    small = cv2.resize(canvas, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32) / np.float32(255)


def _fine(point: NDArray[np.float64]) -> tuple[int, int]:
    return round(point[0] * _FINE), round(point[1] * _FINE)


def _cloud(rng: Rng, size: float) -> Plane:
    """Smooth noise with features of about `size` pixels: mean 0, standard deviation 1."""
    cloud = _smooth(rng.normal(size=(SIDE, SIDE)), size / 2)
    return np.asarray((cloud - cloud.mean()) / cloud.std(), np.float32)


def _smooth(values: NDArray[Any], sigma: float) -> Plane:
    return np.asarray(cv2.GaussianBlur(values.astype(np.float32), (0, 0), sigma), np.float32)


def _ramp(rng: Rng) -> Plane:
    """Light that falls off in some direction: float32 (SIDE, SIDE) in [-1, 1]."""
    angle = rng.uniform(0.0, 2.0 * np.pi)
    line = np.linspace(-1.0, 1.0, SIDE, dtype=np.float32)
    ramp = np.cos(angle) * line[None, :] + np.sin(angle) * line[:, None]
    return np.asarray(ramp / np.abs(ramp).max(), np.float32)


def _grey(values: NDArray[np.floating]) -> Grey:
    return np.asarray(np.rint(values).clip(0, 255), np.uint8)


def _write_png(path: Path, pixels: Grey) -> None:
    # Level 1 costs a tenth of the default, and noise packs no better at a higher one.
    data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
    if not path.is_file() or path.read_bytes() != data:
        write_atomic(path, data)
