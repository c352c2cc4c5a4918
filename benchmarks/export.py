"""What `saa export` costs: seconds and peak memory of every format, 1,000 images of 512 x 512 and a quarter of them.

    python benchmarks/export.py

The peaks are those of the process that exports, measured after its imports; memory is flat where a quarter of the
images has the same.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from integrations.catalog import Catalog, RunImage, RunRecord
from integrations.export import FORMATS, ExportRequest, export
from integrations.outputs import RunFolder
from integrations.settings import Settings
from saa_core.masks import encode_crop
from saa_core.prompts import PromptBundle
from saa_core.types import AnomalyResult, ImageRef, Region

COUNTS = 250, 1000
SIDE = 512
REGIONS = 3
PRODUCT = "surface"


def main() -> None:
    """Print a row for each format and number of images."""
    with tempfile.TemporaryDirectory() as name:
        for count in COUNTS:
            workspace(Path(name) / str(count), count)
        for format in FORMATS:
            for count in COUNTS:
                command = [sys.executable, __file__, format, str(Path(name) / str(count))]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                cost = json.loads(done.stdout)
                print(
                    f"{format:6} {count:5} images: {cost['seconds']:5.2f} s, peak {cost['peak']:6.1f} MB, "
                    f"of which {cost['grown']:5.1f} MB by the export"
                )


def workspace(folder: Path, count: int) -> None:
    """Photographs and a finished run with three regions on each, of three labels."""
    settings, rng = Settings.load(workspace=folder / "w"), np.random.default_rng(0)
    refs = [photograph(folder / f"{number:04}.png", rng, f"lot {number // 20}") for number in range(count)]
    run, bundle = settings.runs / "run", PromptBundle(product=PRODUCT)
    written = RunFolder(run, [ref.names[0] for ref in refs])
    for ref in refs:
        regions = tuple(ragged(rng, number) for number in range(REGIONS))
        heat = np.zeros((8, 8), np.float32)
        written.write(ref, AnomalyResult(ref.key, bundle.id, heat, True, 0.5, regions, {}), (SIDE, SIDE))
    written.close(refs, {})
    with Catalog(settings.catalog_url) as catalog:
        catalog.add_bundle(bundle)
        catalog.begin_run(RunRecord("run", PRODUCT, bundle.id, "batch", {}, "0"))
        catalog.record_images("run", [RunImage.of(ref, "labelled", height=SIDE, width=SIDE) for ref in refs])
        counts = {"labelled": count, "reused": 0, "quarantined": 0, "regions": REGIONS * count, "model_calls": 0}
        catalog.finish_run("run", **counts, seconds=0.0)


def photograph(path: Path, rng: np.random.Generator, lot: str) -> ImageRef:
    """A grey picture with noise of its own."""
    buffer = io.BytesIO()
    Image.fromarray(rng.normal(140, 4, (SIDE, SIDE)).astype(np.uint8)).save(buffer, "PNG", compress_level=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
    return ImageRef(hashlib.sha256(buffer.getvalue()).hexdigest(), str(path), (path.name,), lot)


def ragged(rng: np.random.Generator, number: int) -> Region:
    """A ring of 80 pixels with a ragged border."""
    rows, columns = np.mgrid[-48:48, -48:48]
    crop = abs(np.hypot(rows, columns) + rng.normal(0, 1, rows.shape) - 24) < 16
    mask = encode_crop(crop, int(rng.integers(0, SIDE - 96)), int(rng.integers(0, SIDE - 96)), SIDE, SIDE)
    x0, y0, x1, y1 = map(float, mask.box)
    return Region(mask, (x0, y0, x1, y1), f"label {number}", 0.5, 0.5, {}, 0.5, mask.area, number)


def measure(format: str, folder: Path) -> None:
    """Export in this process and print what it cost."""
    settings, before = Settings.load(workspace=folder / "w"), peak()
    with Catalog(settings.catalog_url) as catalog:
        started = time.monotonic()
        request = ExportRequest(format, folder / format, PRODUCT, "predictions")
        export(catalog, settings, request, lambda step, done, total: None)
    print(json.dumps({"seconds": time.monotonic() - started, "peak": peak(), "grown": peak() - before}))


def peak() -> float:
    """Peak resident memory of this process so far, MB; that of `resource` would be its parent's at least."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


if __name__ == "__main__":
    measure(sys.argv[1], Path(sys.argv[2])) if len(sys.argv) > 1 else main()
