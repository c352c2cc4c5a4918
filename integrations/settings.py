"""Settings, lowest first: built-in defaults, saa.yaml, SAA_* variables, arguments of the command line.

saa.yaml is looked for in the current directory; SAA_CONFIG names another file. Relative paths are relative to the
current directory wherever they are written.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, PrivateAttr, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from integrations.logs import LogKind, write_logs
from integrations.urls import masked_url
from saa_core.errors import SettingsError
from saa_core.runtime import DeviceName
from saa_core.untrusted import load_yaml

CATALOG_FILE = "catalog.sqlite"
"""The default catalog inside a workspace; a folder that holds it is known as one."""

ImagesMode = Literal["local-files", "upload", "url"]
"""How a Label Studio server comes to a product's images."""

RunnerName = Literal["threads", "process", "dask", "ray"]
"""Where the batches of a run are worked on."""

_PREFIX = "SAA_"
_PRIVATE = r"https://[^/]|http://(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?(/|$)"


@dataclass(frozen=True, slots=True)
class SettingValue:
    """One setting as `saa config show` lists it; secrets in `value` are masked."""

    name: str
    value: str
    source: str


def _default_workers() -> int:
    return min(4, os.cpu_count() or 1)


def _default_services() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "saa"


class Settings(BaseSettings):
    """Everything that can be set, see `Settings.load`.

    Attributes:
        workspace: Folder of the catalog, the blobs and the runs.
        catalog: SQLAlchemy URL of the catalog; None is a SQLite file in the workspace.
        blobs: fsspec URL of the blob store; None is a folder in the workspace.
        batch_size: Images of one task; None measures how many are worth one.
        workers: Tasks at once; the number of processors, at most 4.
        runner: Where tasks run: in threads, in processes of this machine, on a Dask or a Ray cluster.
        address: HOST:PORT of a Dask scheduler or a Ray client server; None starts a cluster here for each run.
        max_megapixels: Larger images are refused.
        label_studio_url: Of the experts' Label Studio; None is the workspace's own, see `saa services`.
        label_studio_token: For that server, a legacy token or a personal access token; never shown.
        label_studio_images: How it comes to the images; None is local-files where that can be, else upload.
        label_studio_files: That server's LOCAL_FILES_DOCUMENT_ROOT, as a folder of this machine.
        unaided_share: Share of the images, in [0, 1], that experts get without our masks: what they find there tells
            what the masks make them overlook.
        promotion: What becomes of a bundle that passed the guard of `saa refine`: guarded promotes it, manual leaves it
            as proposed until somebody does.
        weights_dir: Folder of the foundation models' checkpoints; the usual caches are looked into as well.
        offline: Never open a connection for weights, whatever is missing.
        device: Where networks run: auto takes an accelerator where there is one.
        keep_embeddings: Whether SAM's embedding of each image stays, 2 MB of float16: new phrases then ask for masks
            alone.
        fiftyone_uri: mongodb:// address of a mongod of yours for FiftyOne; None is the workspace's own, see
            `saa services`.
        fiftyone_database: Name of FiftyOne's database there.
        mongod: Program of the workspace's own mongod; None looks in FiftyOne's package, among the installed services
            and on PATH.
        services: Folder of the programs that `saa services` installs; about 1 GB for Label Studio.
        watch: Where new images of each product arrive, as `saa label` takes it: product to folder, glob or fsspec URL.
        watch_minutes: How often `saa serve` looks there.
        nightly_hour: Hour of the day, UTC, of the nightly run.
        refine_after: So many new reviews of a product start a refinement.
        doorbell: Address at which Label Studio reaches the doorbell of `saa serve`; None lets serve tell it to the
            workspace's own Label Studio, and no other.
        log: json writes every event as a line of JSON; text is for people.
        log_file: Where these lines are appended; None is stderr.
        alarm_webhook: Gets a JSON message by POST for each drift alarm: https, or http on the loopback interface; never
            shown, as such addresses hold secrets.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

    workspace: Path = Path("saa-workspace")
    catalog: str | None = None
    blobs: str | None = None
    batch_size: int | None = Field(default=None, ge=1)
    workers: int = Field(default_factory=_default_workers, ge=1)
    runner: RunnerName = "threads"
    address: str | None = None
    max_megapixels: float = Field(default=178, gt=0)
    label_studio_url: str | None = None
    label_studio_token: SecretStr | None = Field(default=None, min_length=1)
    label_studio_images: ImagesMode | None = None
    label_studio_files: Path | None = None
    unaided_share: float = Field(default=0.1, ge=0, le=1)
    promotion: Literal["guarded", "manual"] = "guarded"
    weights_dir: Path | None = None
    offline: bool = False
    device: DeviceName = "auto"
    keep_embeddings: bool = False
    fiftyone_uri: str | None = None
    fiftyone_database: str = Field(default="saa", pattern="^[A-Za-z0-9_-]{1,38}$")
    mongod: Path | None = None
    services: Path = Field(default_factory=_default_services)
    watch: dict[str, str] = {}
    watch_minutes: float = Field(default=5, gt=0)
    nightly_hour: int = Field(default=2, ge=0, le=23)
    refine_after: int = Field(default=10, ge=1)
    doorbell: str | None = None
    alarm_webhook: SecretStr | None = None
    log: LogKind = "text"
    log_file: Path | None = None

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def load(cls, **arguments: Any) -> Self:
        """Put the layers together, and have this process log as they say: every process that works loads them.

        Args:
            arguments: Settings by name; one that is None was not given.

        Raises:
            SettingsError: saa.yaml cannot be read or holds an unknown key, or a value is not valid.
        """
        given = {name: value for name, value in arguments.items() if value is not None}
        sources = _sources_of(given)
        try:
            settings = cls(**given)
        except ValidationError as error:
            problem = error.errors()[0]
            name = str(problem["loc"][0])
            # The value itself may hold a password.
            raise SettingsError(
                f"{name} ({sources.get(name, 'default')})", problem["msg"].removeprefix("Value error, ")
            ) from None
        settings._sources.update(sources)
        try:
            write_logs(settings.log, settings.log_file)
        except OSError as error:
            raise SettingsError(f"log_file {settings.log_file}", f"cannot be written: {error.strerror}") from error
        return settings

    @field_validator("fiftyone_uri")
    @classmethod
    def _is_mongodb(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"mongodb(\+srv)?://[^/]", value):
            raise ValueError("must start with mongodb://, as mongodb://127.0.0.1:27017 does")
        return value

    @field_validator("alarm_webhook")
    @classmethod
    def _is_private(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.match(_PRIVATE, value.get_secret_value()):
            raise ValueError("must start with https://, or with http:// and a loopback address")
        return value

    @field_validator("label_studio_url", "doorbell")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value is not None and not re.match("https?://[^/]", value):
            raise ValueError("must start with http:// or https://, as http://127.0.0.1:8080 does")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Highest first."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, _read_yaml(_config_file()))

    @property
    def catalog_url(self) -> str:
        """SQLAlchemy URL of the catalog."""
        return self.catalog or f"sqlite:///{self.workspace / CATALOG_FILE}"

    @property
    def has_catalog(self) -> bool:
        """Whether there is a catalog to look into: a file in the workspace, or whatever `catalog` names."""
        return self.catalog is not None or (self.workspace / CATALOG_FILE).exists()

    @property
    def blobs_url(self) -> str:
        """Folder or fsspec URL of the blob store."""
        return self.blobs or str(self.workspace / "blobs")

    @property
    def runs(self) -> Path:
        """Folder that holds one folder per run."""
        return self.workspace / "runs"

    @property
    def max_pixels(self) -> int:
        """`max_megapixels` in pixels."""
        return int(self.max_megapixels * 1e6)

    def describe(self) -> tuple[SettingValue, ...]:
        """Every setting with its effective value and where it came from."""
        effective = self.model_dump() | {"catalog": self.catalog_url, "blobs": self.blobs_url}
        return tuple(
            SettingValue(name, masked_url(str(value)), self._sources.get(name, "default"))
            for name, value in effective.items()
        )


def _config_file() -> Path:
    return Path(os.environ.get("SAA_CONFIG") or "saa.yaml")


def _sources_of(arguments: Mapping[str, object]) -> dict[str, str]:
    """Where each setting that is no default comes from."""
    # As in the settings themselves, names of variables are not case-sensitive and an empty one is none.
    variables = {name.upper() for name, value in os.environ.items() if value}
    config = _config_file()
    return (
        dict.fromkeys(_read_yaml(config), str(config))
        | {name: _PREFIX + name.upper() for name in Settings.model_fields if _PREFIX + name.upper() in variables}
        | dict.fromkeys(arguments, "argument")
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = load_yaml(path.read_text("utf-8")) or {}
    except FileNotFoundError:
        if "SAA_CONFIG" in os.environ:
            raise SettingsError(str(path), "named by SAA_CONFIG, but there is no such file") from None
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(str(path), f"cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise SettingsError(_place(path, error), f"not YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(content, dict):
        raise SettingsError(str(path), "expected lines of the form 'name: value'")
    for key in content:
        _check_known(str(key), path)
    return {str(key): value for key, value in content.items()}


def _place(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"{path}, line {mark.line + 1}" if mark else str(path)


def _check_known(key: str, path: Path) -> None:
    if key not in Settings.model_fields:
        near = difflib.get_close_matches(key, Settings.model_fields, n=1, cutoff=0.0)[0]
        raise SettingsError(str(path), f"unknown setting {key!r}, did you mean {near!r}?")
