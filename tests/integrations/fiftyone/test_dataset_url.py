"""Where a product is curated, as far as a lock and a note can tell."""

from __future__ import annotations

import json
from pathlib import Path

from integrations.environments import held
from integrations.fiftyone.lifecycle import dataset_url, folder_in
from integrations.settings import Settings


def test_the_page_is_told_while_the_app_runs(tmp_path: Path) -> None:
    settings = Settings.load(workspace=tmp_path)
    app = folder_in(tmp_path) / "app"
    assert dataset_url(settings, "cap / blue") is None
    with held(app / "server.lock"):
        (app / "server.json").write_text(json.dumps({"port": 5161, "pid": 1, "version": "0"}))
        assert dataset_url(settings, "cap / blue") == "http://127.0.0.1:5161/datasets/cap%20%2F%20blue"
    assert dataset_url(settings, "cap / blue") is None
