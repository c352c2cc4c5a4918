"""Networks by the command line: a run keeps how its models are made, and whatever follows it uses these."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from integrations.catalog import Catalog
from integrations.settings import Settings
from saa_core.models import ModelSetup, build, checkpoints_of
from tasks.workbench import setup_of, store_for
from tests.flows.test_cli import as_json, fail, run

Photographs = Callable[..., Path]


@pytest.fixture
def resnet(shared: Path) -> str:
    """A real ImageNet network, up to its third stage."""
    return f"resnet18:{shared / 'weights' / 'resnet18_l1-3_dequant.pt'}"


@pytest.mark.usefixtures("prefect_api")
def test_a_backbone_of_ones_own_follows_its_run(photographs: Photographs, tmp_path: Path, resnet: str) -> None:
    workspace = tmp_path / "w"
    words = "label", photographs(6), "--product", "plate", "--features", resnet, "--workspace", workspace
    summary = as_json(*words)
    assert summary["models"] == {"generator": "lexical", "refiner": "contour", "features": "resnet18"}
    assert summary["images"]["labelled"] == 6
    assert as_json(*words)["model_calls"] == 0
    settings = Settings.load(workspace=workspace)
    with Catalog(settings.catalog_url) as catalog:
        record = catalog.run(summary["run"])
        assert setup_of(record, settings) == ModelSetup(features=resnet)
        assert "device" not in record.setup
        bundle = catalog.bundle(record.bundle)
        assert store_for("plate", catalog, settings, bundle).method.ids == record.models
    explained = as_json("explain", "000.png", "--product", "plate", "--workspace", workspace)
    assert explained["candidates"]
    told = run(
        "label", tmp_path / "photos", "--product", "plate", "--features", resnet, "--workspace", workspace
    ).stdout
    assert "resnet18 - not GroundingDINO or SAM" in told


@pytest.mark.usefixtures("prefect_api")
def test_a_bundle_says_what_a_cnn_sees(photographs: Photographs, tmp_path: Path, resnet: str) -> None:
    bundle = tmp_path / "bundle.yaml"
    bundle.write_text("product: plate\nsaliency: {input: 64, stages: [1, 2]}\n")
    words = ["label", photographs(4), "--product", "plate", "--features", resnet, "--workspace", tmp_path / "w"]
    plain, changed = as_json(*words), as_json(*words, "--bundle", bundle)
    with Catalog(Settings.load(workspace=tmp_path / "w").catalog_url) as catalog:
        ids = [catalog.run(each["run"]).models["features"] for each in (plain, changed)]
    assert ids[0] != ids[1]


@pytest.mark.usefixtures("prefect_api")
def test_tiles_and_their_run(photographs: Photographs, tmp_path: Path) -> None:
    summary = as_json(
        "label",
        photographs(4),
        "--product",
        "plate",
        "--tile",
        "128",
        "--overlap",
        "0.25",
        "--workspace",
        tmp_path / "w",
    )
    settings = Settings.load(workspace=tmp_path / "w")
    with Catalog(settings.catalog_url) as catalog:
        record = catalog.run(summary["run"])
    assert setup_of(record, settings) == ModelSetup(tile=128, overlap=0.25)
    assert all("tile128" in each for each in record.models.values())


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--sam", "vit_x", "none of vit_b, vit_l and vit_h"),
        ("--detector", "yolo", "none of swint and swinb"),
        ("--features", "resnet18:nowhere.pt", "nowhere.pt"),
        ("--features", "resnet81", "did you mean"),
        ("--weights-dir", "nowhere", "groundingdino_swint_ogc.pth, bert-base-uncased/vocab.txt, sam_vit_h_4b8939.pth"),
    ],
)
def test_what_is_not_there_is_one_line(
    photographs: Photographs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: str,
    value: str,
    said: str,
) -> None:
    for variable in ("TORCH_HOME", "HF_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "caches"))
    words = ["label", photographs(4), "--product", "plate", "--models", "foundation", option, value]
    if option == "--features":
        words[words.index("foundation")] = "weight-free"
    assert said in fail([*words, "--workspace", tmp_path / "w"], monkeypatch, capsys)


def test_doctor_names_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("TORCH_HOME", "HF_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "caches"))
    found = as_json("doctor", "--sam", "vit_b", "--weights-dir", tmp_path, "--workspace", tmp_path / "w")["checks"]
    absent = {check["name"]: check for check in found if check["name"].startswith("weights: ")}
    assert set(absent) == {
        f"weights: {each.label}" for each in checkpoints_of(ModelSetup(models="foundation", sam="vit_b"))
    }
    assert {check["state"] for check in absent.values()} == {"absent"}
    assert all("saa doctor --download" in check["advice"] for check in absent.values())
    (tmp_path / "sam_vit_b_01ec64.pth").write_bytes(b"half of it")
    found = as_json("doctor", "--sam", "vit_b", "--weights-dir", tmp_path, "--workspace", tmp_path / "w")["checks"]
    (broken,) = (check for check in found if "sam_vit_b" in check["name"])
    assert broken["state"] == "broken"
    assert "cut short" in broken["detail"]


def test_offline_forbids_downloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAA_OFFLINE", "1")
    said = fail(["doctor", "--download", "--weights-dir", tmp_path, "--workspace", tmp_path / "w"], monkeypatch, capsys)
    assert "SAA_OFFLINE" in said
    assert not list(tmp_path.glob("*.pth*"))


OFFLINE = """
import socket, sys
def refuse(*args, **kwargs):
    raise AssertionError(f"a connection was tried: {args}")
socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
import numpy as np
from saa_core.checkpoints import ensure_offline
from saa_core.models import ModelSetup, build
ensure_offline()
method = build(ModelSetup(features=sys.argv[1], device="cpu"))
print(method.features(np.zeros((40, 50, 3), np.uint8)).shape)
from saa_core.errors import CheckpointError
try:
    build(ModelSetup(models="foundation", device="cpu"))
except CheckpointError as error:
    print("absent" if "groundingdino" in str(error) else error)
"""


def test_loading_opens_no_connection(tmp_path: Path, resnet: str) -> None:
    environment = {**os.environ, "TORCH_HOME": str(tmp_path), "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, resnet], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["(64, 64, 448)", "absent"], done.stderr


def test_networks_are_shared_between_tasks(resnet: str) -> None:
    setup = ModelSetup(features=resnet)
    first, second = build(setup), build(setup)
    assert first.extractor is second.extractor
    assert first.images_at_once == 1
