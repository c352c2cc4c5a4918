import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from integrations.settings import Settings, SettingValue
from saa_core.errors import SettingsError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty current directory and no variable of ours."""
    with contextlib.chdir(tmp_path), environment():
        yield tmp_path


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """These SAA_* variables and no other."""
    before = dict(os.environ)
    for name in [name for name in before if name.upper().startswith("SAA_")]:
        del os.environ[name]
    os.environ.update(variables)
    yield
    os.environ.clear()
    os.environ.update(before)


def sources(settings: Settings) -> dict[str, str]:
    return {value.name: value.source for value in settings.describe()}


def test_defaults() -> None:
    settings = Settings.load()
    assert settings.workspace == Path("saa-workspace")
    assert settings.catalog_url == "sqlite:///saa-workspace/catalog.sqlite"
    assert settings.blobs_url == "saa-workspace/blobs"
    assert settings.runs == Path("saa-workspace/runs")
    assert settings.batch_size is None
    assert 1 <= settings.workers <= 4
    assert settings.max_pixels == 178_000_000
    assert set(sources(settings).values()) == {"default"}


def test_each_layer_covers_the_one_below(folder: Path) -> None:
    (folder / "saa.yaml").write_text("workspace: from-yaml\nbatch_size: 1\nworkers: 1\n")
    with environment(SAA_BATCH_SIZE="2", saa_workers="2", SAA_BLOBS=""):
        settings = Settings.load(workers=3, catalog=None)
    assert (str(settings.workspace), settings.batch_size, settings.workers) == ("from-yaml", 2, 3)
    assert {name: source for name, source in sources(settings).items() if source != "default"} == {
        "workspace": "saa.yaml",
        "batch_size": "SAA_BATCH_SIZE",
        "workers": "argument",
    }


def test_another_file(folder: Path) -> None:
    (folder / "other.yaml").write_text("batch_size: 5")
    with environment(SAA_CONFIG="other.yaml"):
        settings = Settings.load()
        assert settings.batch_size == 5
        assert sources(settings)["batch_size"] == "other.yaml"


def test_another_file_that_is_not_there() -> None:
    with environment(SAA_CONFIG="other.yaml"), pytest.raises(SettingsError, match=r"other\.yaml: named by SAA_CONFIG"):
        Settings.load()


def test_an_empty_file_is_fine(folder: Path) -> None:
    (folder / "saa.yaml").write_text("# nothing yet\n")
    assert Settings.load().batch_size is None


def test_passwords_are_never_shown() -> None:
    with environment(SAA_CATALOG="postgresql://saa:hunter2@db/saa"):
        settings = Settings.load(blobs="s3://key:secret@bucket/x")
    assert settings.catalog_url == "postgresql://saa:hunter2@db/saa"
    shown = {value.name: value for value in settings.describe()}
    assert shown["catalog"] == SettingValue("catalog", "postgresql://saa:***@db/saa", "SAA_CATALOG")
    assert shown["blobs"].value == "s3://key:***@bucket/x"


def test_tokens_are_never_shown() -> None:
    with environment(SAA_LABEL_STUDIO_TOKEN="hunter2"):
        settings = Settings.load()
    assert settings.label_studio_token is not None
    assert settings.label_studio_token.get_secret_value() == "hunter2"
    shown = {value.name: value for value in settings.describe()}
    assert shown["label_studio_token"] == SettingValue("label_studio_token", "**********", "SAA_LABEL_STUDIO_TOKEN")
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()
    assert {value.name: value.value for value in Settings.load().describe()}["label_studio_token"] == "None"


@pytest.mark.parametrize(
    ("name", "value"),
    [("label_studio_url", "ftp://hunter2@x"), ("unaided_share", "1.5"), ("label_studio_images", "hunter2")],
)
def test_a_bad_value_of_the_review_server(name: str, value: str) -> None:
    with environment(**{f"SAA_{name.upper()}": value}), pytest.raises(SettingsError, match=name) as caught:
        Settings.load()
    assert "hunter2" not in str(caught.value)


def test_where_services_are_installed(folder: Path) -> None:
    with environment(XDG_DATA_HOME=str(folder)):
        assert Settings.load().services == folder / "saa"
    with environment(XDG_DATA_HOME="", HOME=str(folder)):
        assert Settings.load().services == folder / ".local" / "share" / "saa"


def test_effective_places_are_shown() -> None:
    shown = {value.name: value.value for value in Settings.load(workspace=Path("/w")).describe()}
    assert shown["catalog"] == "sqlite:////w/catalog.sqlite"
    assert shown["blobs"] == "/w/blobs"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize: 3", "saa.yaml: unknown setting 'batchsize', did you mean 'batch_size'?"),
        ("workspaces: x", "did you mean 'workspace'?"),
        ("3: x", "unknown setting '3'"),
        ("- a", "saa.yaml: expected lines of the form 'name: value'"),
        ("batch_size: 1\nworkers: [1", "saa.yaml, line 2: not YAML"),
        ("a: 1\n\tb: 2", "saa.yaml, line 2: not YAML"),
        ("a: \x01", "saa.yaml: not YAML"),
        ("batch_size: many", r"batch_size \(saa.yaml\): Input should be a valid integer"),
        ("batch_size: 0", r"batch_size \(saa.yaml\): Input should be greater than or equal to 1"),
    ],
)
def test_a_bad_file(folder: Path, text: str, message: str) -> None:
    (folder / "saa.yaml").write_text(text)
    with pytest.raises(SettingsError, match=message):
        Settings.load()


def test_a_file_that_cannot_be_read(folder: Path) -> None:
    (folder / "saa.yaml").mkdir()
    with pytest.raises(SettingsError, match=r"saa\.yaml: cannot be read"):
        Settings.load()


def test_a_bad_variable() -> None:
    with environment(SAA_MAX_MEGAPIXELS="-1"), pytest.raises(SettingsError, match=r"max_megapixels \(SAA_MAX"):
        Settings.load()


def test_a_bad_argument_is_named_but_not_repeated() -> None:
    with pytest.raises(SettingsError, match=r"catalog \(argument\)") as caught:
        Settings.load(catalog=["hunter2"])
    assert "hunter2" not in str(caught.value)
