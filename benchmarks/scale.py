"""What many workers gain, and what a long run holds in memory. Weight-free models, photographs made on the spot.

    python benchmarks/scale.py workers            200 images by one Dask worker and by two
    python benchmarks/scale.py memory [IMAGES]    peak memory of every process while a run goes on, 5,000 by default

Wall times need a machine that does nothing else; CPU times and the load are printed beside them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

SIDE = 256
_STEPS = ("looking at images", "proposing regions", "writing masks")


def main() -> None:
    """Run what was asked for."""
    with tempfile.TemporaryDirectory() as name:
        match sys.argv[1:]:
            case ["workers"]:
                workers(Path(name))
            case ["memory", *count]:
                memory(Path(name), int(count[0]) if count else 5000)
            case _:
                sys.exit(__doc__)


def workers(folder: Path) -> None:
    """The same 200 images by one worker and by two, each in a workspace of its own, with the cluster's start."""
    photographs(folder / "photos", 200)
    walls = {}
    for count in (1, 2):
        os.environ["SAA_WORKERS"] = str(count)
        started = time.monotonic()
        process = label(folder, f"dask-{count}", "dask")
        cpu = defaultdict(float)
        for _, each in family(process):
            times = each.info["cpu_times"]
            cpu[each.pid] = max(cpu[each.pid], times.user + times.system)
        walls[count] = time.monotonic() - started
        load = os.getloadavg()[0]
        each = " ".join(f"{seconds:.0f}" for seconds in sorted(cpu.values(), reverse=True) if seconds >= 1)
        print(f"{count} workers: {walls[count]:.1f} s, load {load:.1f}, CPU s of each process: {each}", flush=True)
    print(f"one worker / two: {walls[1] / walls[2]:.2f} x")


def memory(folder: Path, count: int) -> None:
    """Peak of each process before the 500th image of each step, and after it, in MB."""
    photographs(folder / "photos", count)
    os.environ["SAA_WORKERS"] = "2"
    process = label(folder, "memory", "process")
    early, late, names = defaultdict(int), defaultdict(int), {}
    for done, each in family(process, folder / "memory.log"):
        names.setdefault(each.pid, each.info["cmdline"][1:])
        peaks = early if done < 500 else late
        peaks[each.pid] = max(peaks[each.pid], each.info["memory_info"].rss >> 20)
    for pid in early.keys() & late.keys():
        ratio, name = late[pid] / early[pid], " ".join(names[pid])[:60]
        print(f"{ratio:.3f} x: {early[pid]} MB before image 500, {late[pid]} MB after: {name}")


def family(process: subprocess.Popen[bytes], log: Path | None = None):
    """Every process of a run, ten times a second while it lasts, and how many images its last step has done."""
    root = psutil.Process(process.pid)
    while process.poll() is None:
        done = images_done(log) if log else 0
        for each in (root, *root.children(recursive=True)):
            with suppress(psutil.Error):  # it has ended
                each.info = each.as_dict(["cmdline", "cpu_times", "memory_info"])
                if each.info["memory_info"] and each.info["cmdline"]:
                    yield done, each
        time.sleep(0.1)
    assert process.returncode == 0, process.returncode


def images_done(log: Path) -> int:
    """By the last line of progress of the steps that workers do."""
    lines = [line for line in log.read_text().splitlines() if line.startswith(_STEPS)]
    return int(lines[-1].rpartition(": ")[2].partition("/")[0]) if lines else 0


def photographs(folder: Path, count: int) -> None:
    """Grey plates with noise, every fourth with a dark scratch."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.normal(150, 4, (SIDE, SIDE))
        if number % 4 == 0:
            row = int(rng.integers(20, SIDE - 20))
            pixels[row : row + 4, 30:200] -= 90
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGB").save(folder / f"{number:05}.png")


def label(folder: Path, workspace: str, runner: str) -> subprocess.Popen[bytes]:
    """Start `saa label`; its progress goes into a file beside the workspace."""
    options = ["--product", "plate", "--workspace", str(folder / workspace), "--runner", runner]
    command = [sys.executable, "-c", "from flows.cli import main; main()", "label", str(folder / "photos"), *options]
    with (folder / f"{workspace}.log").open("wb") as log:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)


if __name__ == "__main__":
    main()
