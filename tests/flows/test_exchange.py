"""`saa push` and `saa pull` through their entry point, at a real Label Studio and beside a real Prefect API."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flows.cli import main
from flows.runs import LabelRequest
from flows.start import start
from integrations.catalog import Catalog, RunRecord
from integrations.label_studio.client import Client
from integrations.label_studio.webhook import webhook_secret
from integrations.outputs import read_records
from integrations.push_items import push_item
from integrations.settings import Settings
from saa_core.masks import encode
from saa_core.prompts import PromptBundle
from saa_core.types import BoolMask, ImageRef
from tests.desk import Desk, row
from tests.label_studio_server import Server

COUNT = 12
SIZE = (96, 96)
BUNDLE = PromptBundle(product="plate")
SERVE = "import sys; from flows.cli import main; sys.argv[0:1] = ['saa', 'serve']; main()"
PUSH = ("push", "label-studio", "--product", "plate")
PULL = ("pull", "label-studio", "--product", "plate")

pytestmark = pytest.mark.usefixtures("prefect_api")


@dataclass(frozen=True)
class Said:
    """What a command left: its exit code and its two streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out)  # type: ignore[no-any-return]


Saa = Callable[..., Said]


def photograph(folder: Path, count: int, seed: int = 0) -> Path:
    """Grey plates with noise; the first half have a dark scratch."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        pixels = rng.normal(150, 4, SIZE)
        if number < count // 2:
            pixels[20 + 5 * number : 23 + 5 * number, 10:80] -= 90
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:03}.png")
    return folder


def label(photographs: Path, workspace: Path) -> str:
    """Id of the finished run."""
    request = LabelRequest(source=str(photographs), product="plate", bundle=BUNDLE, workspace=str(workspace))
    return start(request, Settings.load(workspace=workspace)).run


@pytest.fixture(scope="module")
def labelled(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with twelve photographs and, in `workspace`, their finished run."""
    folder = tmp_path_factory.mktemp("labelled")
    label(photograph(folder / "photographs", COUNT), folder / "workspace")
    return folder


@pytest.fixture
def workspace(labelled: Path, tmp_path: Path) -> Path:
    """A workspace of this test's own, in which nothing was sent yet."""
    return Path(shutil.copytree(labelled / "workspace", tmp_path / "workspace"))


@pytest.fixture
def saa(workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Saa:
    """Runs the real entry point on the workspace."""

    def run(*words: str | Path) -> Said:
        monkeypatch.setattr("sys.argv", ["saa", *map(str, words), "--workspace", str(workspace)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Said(ended.value.code, said.out, said.err)

    return run


@pytest.fixture
def server(label_studio: Server, monkeypatch: pytest.MonkeyPatch, project_cleanup: None) -> Server:
    """The server that the settings name; every image is shown with its masks."""
    monkeypatch.setenv("SAA_LABEL_STUDIO_URL", label_studio.url)
    monkeypatch.setenv("SAA_LABEL_STUDIO_TOKEN", label_studio.token)
    monkeypatch.setenv("SAA_UNAIDED_SHARE", "0")
    return label_studio


@pytest.fixture
def desk(server: Server, workspace: Path) -> Iterator[Desk]:
    """Where the expert answers, and the workspace's catalog."""
    with Catalog(f"sqlite:///{workspace / 'catalog.sqlite'}") as catalog, Client(server.url, server.token) as client:
        run = catalog.latest_run("plate")
        assert run is not None
        records = read_records(workspace / "runs" / run.id)
        refs = [(record, ImageRef(record["key"], "", tuple(record["names"]))) for record in records]
        items = [push_item(record, ref, 0.0, run.id, BUNDLE) for record, ref in refs]
        yield Desk(server, catalog, workspace, client, items, run.id, BUNDLE)


def block(top: int, left: int, height: int = 12, width: int = 12) -> BoolMask:
    mask = np.zeros(SIZE, np.bool_)
    mask[top : top + height, left : left + width] = True
    return mask


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def projects(server: Server) -> list[dict[str, Any]]:
    with server.http() as http:
        found: list[dict[str, Any]] = http.get("/api/projects/").raise_for_status().json()["results"]
    return found


# ------------------------------------------------------------------------------------------------------- out and back


def test_chosen_images_go_out_alone(server: Server, saa: Saa) -> None:
    first = saa(*PUSH, "--only", "000.png", "--only", "003.png", "--json").json
    assert (first["tasks"], first["predictions"]) == (2, 2)
    assert saa(*PUSH, "--only", "004.png", "--dry-run", "--json").json["tasks"] == 1
    unknown = saa(*PUSH, "--only", "x.png")
    assert (unknown.code, "x.png: run" in unknown.err) == (1, True)
    assert saa(*PUSH, "--json").json["tasks"] == COUNT - 2


@pytest.mark.parametrize("mode", ["upload", "local-files"])
def test_a_run_goes_out_and_comes_back(
    mode: str, server: Server, desk: Desk, saa: Saa, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mode == "local-files":
        monkeypatch.setenv("SAA_LABEL_STUDIO_FILES", str(server.files))
    first = saa(*PUSH, "--json")
    assert first.code == 0
    project = first.json["project"]
    fields = {"product": "plate", "dry_run": False, "tasks": COUNT, "predictions": COUNT, "present": 0, "unaided": 0}
    assert first.json == first.json | fields
    assert first.json["version"] == f"lexical+contour+filter-bank {BUNDLE.id}@{desk.run}"
    assert first.json["url"] == f"{server.url}/projects/{project}/data"
    assert first.json["refused"] == []
    assert first.json["writes"] > 0
    picture = desk.task("003.png")["data"]["image"]
    assert picture.startswith({"upload": "/data/upload/", "local-files": "/data/local-files/"}[mode])
    assert desk.client.fetch(picture).content == (labelled / "photographs" / "003.png").read_bytes()

    again = saa(*PUSH, "--json").json
    assert again == again | {"writes": 0, "tasks": 0, "predictions": 0, "present": COUNT}
    assert saa(*PULL).out == "nothing new\n"

    desk.answer("000.png")
    desk.answer("001.png", [])
    desk.answer("002.png", [*desk.shown("002.png")[1], row(encode(block(80, 80)))])
    desk.answer("003.png", skip=True)
    regions = {item.name: len(item.regions) for item in desk.items}
    pulled = saa(*PULL, "--json")
    assert pulled.code == 0
    assert pulled.json["states"] == {"submitted": 3, "skipped": 1}
    assert pulled.json["findings"] == {"defective": 2, "good": 1}
    accepted = regions["000.png"] + regions["002.png"]
    assert pulled.json["outcomes"] == {"accepted": accepted, "rejected": regions["001.png"], "added": 1}
    assert (pulled.json["product"], pulled.json["project"], pulled.json["refused"]) == ("plate", project, [])
    assert {name: reviews[0].state for name, reviews in desk.reviews().items()} == {
        "000.png": "submitted",
        "001.png": "submitted",
        "002.png": "submitted",
        "003.png": "skipped",
    }
    assert saa(*PULL).out == "nothing new\n"


def test_a_person_reads_whose_masks_they_are_and_where(server: Server, desk: Desk, saa: Saa) -> None:
    said = saa(*PUSH)
    assert said.code == 0
    assert "12 new tasks, 12 new predictions\n" in said.out
    assert "lexical+contour+filter-bank" in said.out
    assert "weight-free, not GroundingDINO or SAM" in said.out
    assert f"project: {server.url}/projects/{desk.project}/data" in said.out
    assert "pushing tasks: 12/12" in said.err
    desk.answer("001.png", [])
    rejected = len(desk.items[1].regions)
    assert saa(*PULL).out == (
        f"1 new reviews: 1 submitted; images: 1 good, 0 defective, 0 undecided; regions: {rejected} rejected\n"
    )


def test_a_dry_run_says_what_would_be_done_and_does_nothing(server: Server, workspace: Path, saa: Saa) -> None:
    before = contents(workspace)
    said = saa(*PUSH, "--dry-run", "--json")
    assert said.code == 0
    would = {"dry_run": True, "tasks": COUNT, "predictions": COUNT, "project": None, "url": server.url, "writes": 0}
    assert said.json == said.json | would
    told = saa(*PUSH, "--dry-run")
    assert told.out.startswith("would be: 12 new tasks")
    assert "note: a project is made for 'plate'" in told.out
    assert "starting Prefect" not in told.err
    assert projects(server) == []
    assert contents(workspace) == before


def test_images_that_were_shown_without_masks_are_told_apart(
    desk: Desk, saa: Saa, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAA_UNAIDED_SHARE", "1")
    pushed = saa(*PUSH, "--json").json
    assert (pushed["tasks"], pushed["predictions"], pushed["unaided"]) == (COUNT, 0, COUNT)
    desk.answer("000.png", [row(encode(block(20, 10)))])
    pulled = saa(*PULL)
    assert "note: 1 images were reviewed without having been shown masks, on purpose" in pulled.out
    assert not desk.review("000.png").aided


def test_disagreement_is_reported(desk: Desk, saa: Saa) -> None:
    saa(*PUSH)
    desk.answer("000.png")
    saa(*PULL)
    # Another annotation of the same user is no second opinion; masks from elsewhere are.
    drawn = desk.folder / "drawn"
    drawn.mkdir()
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(drawn / "000.png")
    pulled = saa("pull", "masks", drawn, "--product", "plate", "--json")
    (found,) = pulled.json["disagreements"]
    assert (found["image"], found["annotators"]) == ("000.png", [desk.server.email, "masks"])
    assert "masks says good" in found["reason"]


# ------------------------------------------------------------------------------------------------------------ secrets


def test_secrets_are_nowhere(
    server: Server,
    desk: Desk,
    workspace: Path,
    saa: Saa,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL

    caplog.set_level(logging.DEBUG)
    said = [
        saa(*PUSH, "--webhook", "http://127.0.0.1:9"),
        saa(*PUSH, "--json", "--webhook", "http://127.0.0.1:9"),
        saa(*PULL, "--json"),
        saa("doctor"),
        saa("config", "show", "--json"),
    ]
    assert [each.code for each in said] == [0] * len(said)
    monkeypatch.setenv("SAA_LABEL_STUDIO_TOKEN", "f00d" * 10)
    said += [saa(*PUSH, "--json"), saa(*PULL)]
    assert [each.code for each in said[-2:]] == [1, 1]
    assert caplog.text

    database = Path(str(PREFECT_SERVER_DATABASE_CONNECTION_URL.value()).partition("///")[2])
    assert database.is_file()
    places = {
        "streams": "".join(each.out + each.err for each in said).encode(),
        "logs": caplog.text.encode(),
        **contents(database.parent),
        **contents(Path(os.environ["PREFECT_LOCAL_STORAGE_PATH"])),
        **{f"workspace/{name}": data for name, data in contents(workspace).items()},
    }
    webhook = places.pop("workspace/secrets/webhook").decode().strip()
    assert webhook == webhook_secret(workspace)
    found = [
        name
        for name, data in places.items()
        for secret in (server.token, "f00d" * 10, webhook)
        if any(spelling in data for spelling in spellings(secret))
    ]
    assert found == []
    # The same search does find what is there.
    assert any(b"publish" in data for data in contents(database.parent).values())


def spellings(secret: str) -> list[bytes]:
    """A secret as it is, and what is the same of it in base64 wherever it stands; stored results are base64."""
    shifted = [base64.b64encode(b" " * shift + secret.encode())[4:-4] for shift in range(3)]
    return [secret.encode(), *shifted]


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("command", [PUSH, (*PUSH, "--dry-run"), PULL])
def test_without_a_server_it_says_how_to_get_one(
    command: tuple[str, ...], saa: Saa, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL")  # otherwise none is started in any case
    said = saa(*command)
    assert said.code == 1
    assert "`saa services up label-studio`" in said.err
    assert "SAA_LABEL_STUDIO_URL" in said.err
    assert "starting Prefect" not in said.err
    assert "PREFECT_API_URL" not in os.environ


@pytest.mark.parametrize("command", [PUSH, (*PUSH, "--dry-run"), PULL, ("pull", "masks", "x", "--product", "plate")])
def test_where_nothing_was_labelled_no_workspace_is_made(
    command: tuple[str, ...], server: Server, workspace: Path, saa: Saa, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL")
    shutil.rmtree(workspace)
    said = saa(*command)
    assert said.code == 1
    assert f"error: {workspace}: is no workspace yet; `saa label" in said.err
    assert not workspace.exists()
    assert "PREFECT_API_URL" not in os.environ


@pytest.mark.parametrize("command", [PUSH, (*PUSH, "--dry-run"), PULL])
def test_a_server_that_is_down(
    command: tuple[str, ...], server: Server, desk: Desk, saa: Saa, monkeypatch: pytest.MonkeyPatch
) -> None:
    if command == PULL:  # which asks only a server that something was pushed to
        desk.catalog.remember_target(
            "plate", "label-studio", "http://127.0.0.1:9", "label-studio project 1 of 2026-01-01"
        )
    monkeypatch.setenv("SAA_LABEL_STUDIO_URL", "http://127.0.0.1:9")
    said = saa(*command, "--json")
    assert said.code == 1
    error = said.json["error"]
    assert list(said.json) == ["error"]
    assert error.startswith("http://127.0.0.1:9: ")
    assert "no connection" in error
    assert "check that Label Studio runs" in error
    assert f"error: {error}" in said.err
    assert "Traceback" not in said.err


def test_a_wrong_token(server: Server, saa: Saa, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = hashlib.sha1(b"wrong").hexdigest()
    monkeypatch.setenv("SAA_LABEL_STUDIO_TOKEN", wrong)
    said = saa(*PUSH, "--json")
    assert said.code == 1
    assert "check SAA_LABEL_STUDIO_TOKEN" in said.json["error"]
    assert wrong not in said.out + said.err


def test_what_cannot_be_pushed_or_pulled(server: Server, desk: Desk, saa: Saa) -> None:
    desk.catalog.begin_run(RunRecord("unfinished", "plate", BUNDLE.id, "batch", {}, "0"))
    desk.catalog.begin_run(RunRecord("begun", "cup", BUNDLE.id, "batch", {}, "0"))
    reasons = {
        ("--product", "cap"): "cap: has no finished run; `saa label IMAGES --product cap`",
        ("--product", "cup"): "cup: has no finished run",
        ("--product", "cap", "--run", desk.run): f"{desk.run}: is a run of 'plate', not of 'cap'",
        ("--product", "plate", "--run", "unfin"): "unfinished: is not finished; run its `saa label` again",
        ("--product", "plate", "--run", "0000nowhere"): "0000nowhere: no such run",
    }
    for words, reason in reasons.items():
        said = saa("push", "label-studio", *words)
        assert said.code == 1
        assert f"error: {reason}" in said.err
        assert said.out == ""
    said = saa(*PULL)
    assert said.code == 1
    assert f"{server.url}: nothing of 'plate' was pushed there from this workspace" in said.err
    assert "`saa push label-studio --product plate`" in said.err
    assert projects(server) == []


@pytest.mark.parametrize(
    "url", ["http://saa:hunter2@127.0.0.1:8765", "http://127.0.0.1:8765/?key=hunter2", "ftp://hunter2", "hunter2"]
)
def test_a_webhook_that_is_none_is_refused_before_anything_is_done(
    url: str, server: Server, saa: Saa, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL")
    said = saa(*PUSH, "--webhook", url, "--json")
    assert said.code == 1
    assert said.json["error"].startswith("webhook URL: ")
    assert "hunter2" not in said.out + said.err
    assert "PREFECT_API_URL" not in os.environ
    assert projects(server) == []


def test_a_photograph_that_is_gone_is_refused_and_the_others_go_on(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs = photograph(tmp_path / "photographs", 3, seed=1)
    label(photographs, tmp_path / "w")
    (photographs / "001.png").unlink()
    words = [*PUSH, "--workspace", str(tmp_path / "w")]
    for expected in ("2 new tasks", "0 new tasks, 0 new predictions, nothing to do for 2 images"):
        monkeypatch.setattr("sys.argv", ["saa", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert ended.value.code == 2
        assert expected in said.out
        assert "1 refused" in said.out
        assert "refused: 001.png: " in said.err

    from flows.publish import publish_flow

    state = publish_flow("plate", str(tmp_path / "w"), return_state=True)
    assert state.name == in_prefect(state) == "PublishedInPart"


def test_a_review_that_cannot_be_read_is_refused_and_the_others_go_on(desk: Desk, saa: Saa) -> None:
    saa(*PUSH)
    desk.answer("000.png", [row(encode(np.ones((5, 5), np.bool_)))])
    desk.answer("001.png")
    said = saa(*PULL, "--json")
    assert said.code == 2
    assert said.json["states"] == {"submitted": 1, "unreadable": 1}
    ((name, reason),) = said.json["refused"]
    assert f"refused: {name}: {reason}" in said.err
    assert "a mask of 5 x 5 pixels on an image of 96 x 96" in reason


# -------------------------------------------------------------------------------------------------------------- masks


def test_masks_drawn_elsewhere_come_in_once(workspace: Path, saa: Saa, tmp_path: Path) -> None:
    run = next((workspace / "runs").iterdir())
    records = {record["names"][0]: record for record in read_records(run)}
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(drawn / "000.png")
    shown = np.asarray(Image.open(run / records["001.png"]["masks"][0])) > 0
    changed = shown.copy()
    changed[np.argwhere(shown)[0][0]] = False
    Image.fromarray(changed.astype(np.uint8)).save(drawn / "001.png")
    Image.fromarray(block(5, 5)).save(drawn / "011.png")
    command = ("pull", "masks", drawn, "--product", "plate")
    said = saa(*command, "--json")
    assert said.code == 0
    assert said.json["states"] == {"submitted": 3}
    assert said.json["findings"] == {"good": 1, "defective": 2}
    assert said.json["outcomes"]["rejected"] >= len(records["000.png"]["regions"]) > 0
    assert said.json["outcomes"]["adjusted"] == 1
    assert said.json["outcomes"]["added"] >= 1
    again = saa(*command)
    assert (again.code, again.out) == (0, "nothing new\n")

    Image.fromarray(np.zeros((5, 5), np.uint8)).save(drawn / "002.png")
    said = saa(*command)
    assert (said.code, said.out) == (2, "nothing new, 1 refused\n")
    assert "refused: 002.png: the mask has 5 x 5 pixels, its image 96 x 96" in said.err


def test_masks_of_nothing(saa: Saa, tmp_path: Path) -> None:
    said = saa("pull", "masks", tmp_path / "nowhere", "--product", "plate", "--json")
    assert said.code == 1
    assert "nowhere: no such folder" in said.json["error"]
    said = saa("pull", "masks", tmp_path, "--product", "cap")
    assert said.code == 1


# ----------------------------------------------------------------------------------------------------------- doorbell


def test_an_experts_click_rings_and_the_review_is_there(
    server: Server, desk: Desk, workspace: Path, saa: Saa, tmp_path: Path
) -> None:
    errors = tmp_path / "stderr"
    command = [sys.executable, "-c", SERVE, "--port", "0", "--json", "--workspace", str(workspace)]
    with (
        errors.open("w") as written,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=written, text=True) as service,
    ):
        try:
            assert service.stdout is not None
            url = json.loads("".join(service.stdout.readline() for _ in range(3)))["url"]
            assert saa(*PUSH, "--webhook", url, "--json").json["writes"] > 0
            assert saa(*PUSH, "--webhook", url, "--json").json["writes"] == 0
            desk.answer("001.png", [])
            assert settled(lambda: "001.png" in desk.reviews()), errors.read_text()
            assert desk.review("001.png").finding == "good"
            assert settled(lambda: "plate: 1 new reviews: 1 submitted" in errors.read_text())
            service.send_signal(signal.SIGTERM)
            assert service.wait(timeout=30) == 0
        finally:
            service.kill()
    said = errors.read_text()
    assert "error" not in said
    assert server.token not in said
    assert webhook_secret(workspace) not in said


def settled(holds: Callable[[], bool]) -> bool:
    """Whether it comes to hold within a minute, in which Prefect can be imported on a busy machine."""
    end = time.monotonic() + 60
    while not holds() and time.monotonic() < end:
        time.sleep(0.1)
    return holds()


# -------------------------------------------------------------------------------------------------------------- flows


def test_the_flows_end_by_name_and_leave_what_they_did(server: Server, desk: Desk, workspace: Path) -> None:
    from flows.collect import collect_flow
    from flows.publish import publish_flow

    folder = str(workspace)
    state: Any = publish_flow("plate", folder, return_state=True)
    report = state.result()
    assert state.name == in_prefect(state) == "Published"
    assert report.tasks == COUNT
    assert artifact(f"publish-{report.project}").startswith("# 12 new tasks, 12 new predictions")
    assert report.url in artifact(f"publish-{report.project}")

    desk.answer("000.png")
    state = collect_flow("plate", folder, return_state=True)
    assert state.name == in_prefect(state) == "Collected"
    assert artifact(f"collect-{report.project}").startswith("# 1 new reviews: 1 submitted; images: 0 good, 1 defective")
    desk.answer("001.png", [{"type": "brushlabels", "from_name": "mask"}])
    state = collect_flow("plate", folder, return_state=True)
    assert state.name == in_prefect(state) == "CollectedInPart"
    assert [name for name, _ in state.result().refused] == [f"task/annotation {annotation_of(desk, '001.png')}"]

    state = publish_flow("cap", folder, return_state=True)
    assert state.is_failed()
    assert "has no finished run" in str(state.message)


def test_the_masks_flow_ends_by_name(workspace: Path, tmp_path: Path) -> None:
    from flows.collect import collect_masks_flow

    drawn = tmp_path / "drawn"
    drawn.mkdir()
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(drawn / "011.png")
    state = collect_masks_flow(str(drawn), "plate", str(workspace), return_state=True)
    assert state.name == in_prefect(state) == "Collected"
    assert artifact("collect-masks").startswith("# 1 new reviews: 1 submitted; images: 1 good, 0 defective")
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(drawn / "nobody.png")
    state = collect_masks_flow(str(drawn), "plate", str(workspace), return_state=True)
    assert state.name == in_prefect(state) == "CollectedInPart"


def in_prefect(state: Any) -> str | None:
    """Name of the state that the flow's run has on Prefect's pages."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found = client.read_flow_run(state.state_details.flow_run_id).state
    return None if found is None else found.name


def artifact(key: str) -> str:
    """The newest one of a key."""
    from prefect.artifacts import Artifact

    found: Any = Artifact.get(key)
    return str(found.data)


def annotation_of(desk: Desk, name: str) -> str:
    task = desk.task(name)
    return f"{task['id']}/{task['annotations'][0]['id']}"
