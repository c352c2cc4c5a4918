"""What `saa label` costs as a whole process, all files written: CPU seconds an image, memory, and a repeated run.

    python benchmarks/label.py

The photographs are crops of the surfaces that ship inside scikit-image, 512 x 512, each mirrored and lit anew.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data


def main() -> None:
    """Runs of 50, 100 and 400 images, each in a workspace of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peaks = {}
        for count in (50, 100, 400):
            photographs(folder / str(count), count)
            cpu, wall, peaks[count] = label(folder, count)
            print(f"{count} images: {cpu / count:.3f} CPU s an image, {wall:.1f} s, peak {peaks[count]:.0f} MB")
        print(f"peak memory of 400 images / of 100: {peaks[400] / peaks[100]:.3f}")
        cpu, wall, _ = label(folder, 100)
        print(f"100 images again: {wall:.1f} s with imports, {cpu:.1f} CPU s")


def photographs(folder: Path, count: int) -> None:
    """`count` images that differ in mirroring, shift and light."""
    folder.mkdir()
    rng = np.random.default_rng(count)
    surface = data.brick()
    for number in range(count):
        pixels = np.roll(surface, tuple(rng.integers(0, 512, 2)), (0, 1)) * rng.uniform(0.8, 1.1)
        pixels = pixels[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))] + rng.normal(0, 3, surface.shape)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGB").save(folder / f"{number:04}.png")


def label(folder: Path, count: int) -> tuple[float, float, float]:
    """CPU seconds with all children, wall seconds, and the peak memory of the process itself in MB."""
    command = [sys.executable, "-c", PROGRAM, "label", str(folder / str(count)), "--product", "surface", "--json"]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [*command, "--workspace", str(folder / f"w{count}")], capture_output=True, text=True, check=True, env=os.environ
    )
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, wall, json.loads(done.stderr.splitlines()[-1])["peak_mb"]


PROGRAM = """
import json, resource, sys
from flows.cli import main
try:
    main()
finally:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_mb": peak}), file=sys.stderr)
"""


if __name__ == "__main__":
    main()
