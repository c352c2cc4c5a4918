from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from integrations.environments import held
from integrations.label_studio.connection import Connection, connection
from integrations.label_studio.lifecycle import home_in
from integrations.settings import Settings
from saa_core.errors import SettingsError

TOKEN = "hunter2"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


def connected(workspace: Path, **settings: Any) -> Connection:
    return connection(Settings.load(workspace=workspace, **settings))


def refusal(workspace: Path, **settings: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        connected(workspace, **settings)
    assert TOKEN not in str(caught.value)
    return str(caught.value)


def test_the_server_of_the_settings(workspace: Path) -> None:
    found = connected(workspace, label_studio_url="http://ls:8080/", label_studio_token=TOKEN)
    assert (found.url, found.images, found.files) == ("http://ls:8080", "upload", None)
    assert found.token.get_secret_value() == TOKEN
    assert TOKEN not in repr(found)


@pytest.mark.parametrize(
    ("settings", "images", "files"),
    [
        ({"label_studio_files": Path("/srv/files")}, "local-files", Path("/srv/files")),
        ({"label_studio_files": Path("/srv/files"), "label_studio_images": "url"}, "url", None),
        ({"label_studio_images": "url"}, "url", None),
    ],
)
def test_how_it_comes_to_the_images(workspace: Path, settings: dict[str, Any], images: str, files: Path | None) -> None:
    found = connected(workspace, label_studio_url="http://ls", label_studio_token=TOKEN, **settings)
    assert (found.images, found.files) == (images, files)


def test_settings_that_do_not_go_together(workspace: Path) -> None:
    assert "set SAA_LABEL_STUDIO_TOKEN" in refusal(workspace, label_studio_url="http://user:hunter2@ls")
    assert "set SAA_LABEL_STUDIO_URL" in refusal(workspace, label_studio_token=TOKEN)
    local = {"label_studio_images": "local-files"}
    said = refusal(workspace, label_studio_url="http://ls", label_studio_token=TOKEN, **local)
    assert "SAA_LABEL_STUDIO_FILES" in said


def test_no_server_at_all(workspace: Path) -> None:
    assert "`saa services up label-studio`" in refusal(workspace)
    assert not workspace.exists()


def test_the_workspaces_own_server(workspace: Path) -> None:
    home = home_in(workspace)
    with contextlib.ExitStack() as stack:
        stack.enter_context(held(home.folder / "server.lock"))  # as a running server does
        (home.folder / "server.json").write_text('{"port": 8123, "pid": 1, "version": "1.0"}')
        found = connected(workspace)
        assert connected(workspace, label_studio_images="upload").files is None
    assert (found.url, found.images, found.files) == ("http://127.0.0.1:8123", "local-files", home.files)
    assert found.token.get_secret_value() == home.token_file.read_text().strip()
    assert "`saa services up label-studio`" in refusal(workspace)
