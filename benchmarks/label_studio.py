"""Push and pull of 1000 images with two masks each on a real Label Studio, against what one writes with its SDK.

    OMP_NUM_THREADS=1 python benchmarks/label_studio.py [IMAGES]

A ratio over 1 means ours is faster. The server is started in a folder that is thrown away (installed first where
`make test` has not done so, about 1 GB). Both sides make a project and tasks with predictions from the same masks, and
after all of them were reviewed in bulk, both come back to one mask for every region, compared with the one that was
pushed. Only ours publishes the images, checks them, and keeps records in a catalog; the SDK's tasks use its URLs.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np
from brush import blobs, cracks
from label_studio_sdk import LabelStudio
from label_studio_sdk.converter.brush import decode_rle, mask2rle
from numpy.typing import NDArray
from skimage import data

from integrations.catalog import Catalog, RunImage, RunRecord
from integrations.label_studio import labeling_config, lifecycle
from integrations.label_studio.client import Client
from integrations.label_studio.images import LocalFiles
from integrations.label_studio.payload import task_json
from integrations.label_studio.planning import PushRequest
from integrations.label_studio.pull import pull
from integrations.label_studio.push import push
from integrations.push_items import PushItem, region_id
from saa_core import library, masks
from saa_core.reviews import PredictedRegion
from saa_core.types import ImageRef

Bools = NDArray[np.bool_]
Pair = tuple[Bools, Bools]

SERVICES = Path(__file__).resolve().parents[1] / ".venv" / "services"
SIDE, RUN, BATCH = 400, "0" * 16, 250
BUNDLE = library.load("generic")


def main(count: int) -> None:
    """Print every figure."""
    with tempfile.TemporaryDirectory() as name, running_server(Path(name)) as server:
        pairs = [(cracks(SIDE, 1, seed), blobs(SIDE, seed)) for seed in range(count)]
        refs = photographs(Path(name) / "images", count)
        print(f"label-studio {server.version}, {count} images of {SIDE} x {SIDE} with 2 masks, {os.cpu_count()} cores")
        with Client(server.url, server.token.get_secret_value()) as client:
            urls, encoding, pushed, pulled = ours(client, server.home.files, Path(name), refs, pairs)
            sdk = LabelStudio(base_url=server.url, api_key=server.token.get_secret_value())
            their_encoding, their_push, their_pull = theirs(client, sdk, urls, pairs)
        row("push, images linked and checked", pushed, their_push)
        row("  of which encoding the masks", encoding, their_encoding)
        print(f"{'  beyond the encoding':44} {pushed - encoding:7.2f} s")
        row("pull, all reviewed", pulled, their_pull)


@contextmanager
def running_server(folder: Path) -> Iterator[lifecycle.Running]:
    """A server with an empty database."""
    home = lifecycle.home_in(folder / "workspace")
    try:
        yield lifecycle.up(home, SERVICES)[0]
    finally:
        lifecycle.down(home)


def photographs(folder: Path, count: int) -> list[ImageRef]:
    """JPEGs that all differ."""
    folder.mkdir()
    refs = []
    for number in range(count):
        pixels = np.roll(data.brick(), divmod(number, 512), (0, 1))[:SIDE, :SIDE]
        content = cv2.imencode(".jpg", pixels)[1].tobytes()
        path = folder / f"{number:04}.jpg"
        path.write_bytes(content)
        refs.append(ImageRef(hashlib.sha256(content).hexdigest(), str(path), (path.name,)))
    return refs


# ---------------------------------------------------------------------------------------------------------------- ours


def ours(
    client: Client, files: Path, folder: Path, refs: Sequence[ImageRef], pairs: Sequence[Pair]
) -> tuple[list[str], float, float, float]:
    """URLs of the images, and seconds of encoding, of the push with it, and of the pull."""
    request = push_request(refs, pairs)
    encoding, sent = timed(lambda: [task_json(item, "", request.version) for item in request.items])
    print(f"a crack and some blobs on each, {sum(map(len, sent)) / 1e6:.1f} MB of JSON")
    with Catalog(f"sqlite:///{folder / 'catalog.sqlite'}") as catalog:
        remember(catalog, refs)

        def send() -> Any:
            return push(client, catalog, request, lambda project: LocalFiles(client, project, files))

        pushed, report = timed(send)
        again, second = timed(send)
        print(f"{'second push':44} {again:7.2f} s   {second.writes} writes")
        listed = client.get("/api/tasks/", {"project": report.project, "page_size": len(refs)})["tasks"]
        review_all(client, report.project)
        pulled, found = timed(lambda: pull(client, catalog, "surface", report.project))
        nothing, none = timed(lambda: pull(client, catalog, "surface", report.project))
        print(f"{'pull':44} {pulled:7.2f} s   reviews: {dict(found.states)}, regions: {dict(found.outcomes)}")
        print(f"{'second pull':44} {nothing:7.2f} s   {sum(none.states.values())} new reviews")
    if (second.writes, dict(found.outcomes)) != (0, {"accepted": 2 * len(refs)}):
        raise SystemExit("not everything was pushed once and came back as it was")
    return [task["data"]["image"] for task in listed], encoding, pushed, pulled


def push_request(refs: Sequence[ImageRef], pairs: Sequence[Pair]) -> PushRequest:
    """The masks as a run holds them, all shown."""
    items = []
    for ref, pair in zip(refs, pairs, strict=True):
        regions = tuple(
            PredictedRegion(region_id(RUN, ref.key, rank), labeling_config.GENERIC, phrase, 0.5, masks.encode(mask))
            for rank, (phrase, mask) in enumerate(zip(("crack", "stain"), pair, strict=True))
        )
        items.append(PushItem(ref, SIDE, SIDE, 0.5, regions, ({"crack": 0.5}, {"stain": 0.5})))
    return PushRequest("surface", RUN, "benchmark", BUNDLE, items, unaided_share=0.0)


def remember(catalog: Catalog, refs: Sequence[ImageRef]) -> None:
    """What a run leaves in the catalog."""
    catalog.add_bundle(BUNDLE)
    catalog.begin_run(RunRecord(RUN, "surface", BUNDLE.id, "batch", {}, "benchmark"))
    catalog.record_images(RUN, [RunImage.of(ref, "labelled", height=SIDE, width=SIDE) for ref in refs])


def review_all(client: Client, project: int) -> None:
    """Every prediction becomes an annotation as it is; the server's own bulk action."""
    everything = {"selectedItems": {"all": True, "excluded": []}, "project": project}
    action = {"id": "predictions_to_annotations", "project": project}
    client.post("/api/dm/actions", everything, action)


# ------------------------------------------------------------------------------------------------------------- the SDK


def theirs(client: Client, sdk: LabelStudio, urls: Sequence[str], pairs: Sequence[Pair]) -> tuple[float, float, float]:
    """Seconds of encoding, of the push with it, and of the pull, by the SDK's documented calls and converter."""
    encoding, tasks = timed(lambda: [sdk_task(url, pair) for url, pair in zip(urls, pairs, strict=True)])
    config = labeling_config.build(labeling_config.labels_of(BUNDLE))

    def send() -> int:
        project: int = sdk.projects.create(title="sdk", label_config=config).id
        for begin in range(0, len(tasks), BATCH):
            sdk.projects.import_tasks(project, request=tasks[begin : begin + BATCH], return_task_ids=True)
        return project

    sending, project = timed(send)
    review_all(client, project)
    exported, same = timed(lambda: sum(map(sdk_same, pairs, sdk.projects.exports.as_json(project))))
    listed, same_listed = timed(lambda: sum(map(sdk_same, pairs, sdk_tasks(sdk, project))))
    print(f"{'SDK: pull by export':44} {exported:7.2f} s   {same} tasks as they were")
    print(f"{'SDK: pull by tasks.list':44} {listed:7.2f} s   {same_listed} tasks as they were")
    if not same == same_listed == len(pairs):
        raise SystemExit("the SDK did not bring everything back as it was")
    return encoding, encoding + sending, min(exported, listed)


def sdk_task(url: str, pair: Pair) -> dict[str, Any]:
    """A task with its prediction, as the SDK's manual has it."""
    result = [
        {
            "from_name": "mask",
            "to_name": "image",
            "type": "brushlabels",
            "original_width": SIDE,
            "original_height": SIDE,
            "score": 0.5,
            "value": {
                "format": "rle",
                "rle": mask2rle(mask.astype(np.uint8) * 255),
                "brushlabels": [labeling_config.GENERIC],
            },
        }
        for mask in pair
    ]
    prediction = {"model_version": "sdk", "score": 0.5, "result": result}
    return {"data": {"image": url, "title": url}, "predictions": [prediction]}


def sdk_tasks(sdk: LabelStudio, project: int) -> Iterator[dict[str, Any]]:
    """The tasks with their annotations; their pager asks for 100 at once."""
    for task in sdk.tasks.list(project=project, fields="all", page_size=100):
        yield {"annotations": task.annotations}


def sdk_same(pair: Pair, task: dict[str, Any]) -> bool:
    """Decode what came back and compare it with what was pushed."""
    (annotation,) = task["annotations"]
    back = [decode_rle(region["value"]["rle"]).reshape(SIDE, SIDE, 4)[..., 3] > 0 for region in annotation["result"]]
    return all(map(np.array_equal, pair, back))


# ---------------------------------------------------------------------------------------------------------------- both


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, and what it gave."""
    begin = perf_counter()
    found = call()
    return perf_counter() - begin, found


def row(name: str, our: float, their: float) -> None:
    """Print one comparison."""
    print(f"{name:44} {our:7.2f} s   SDK {their:7.2f} s   ratio {their / our:5.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
