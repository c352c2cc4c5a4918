"""Files of weights: which there are, where they are looked for, whether they are the published ones, what they hold.

Nothing here opens a connection; `integrations.weights` fetches what the user asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import re
import sys
import uuid
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saa_core.errors import CheckpointError, SettingsError

DOWNLOAD = "`saa doctor --download`"
"""The verb that fetches what is absent, as messages name it."""

_TORCH_HUB_HASH = re.compile(r"-([0-9a-f]{8,64})\.")
"""How torch hub's file names carry the first digits of the file's SHA-256."""

_NO_WEIGHTS = (
    (re.compile(rb"\A\s*<(?:!doctype|html|\?xml)", re.IGNORECASE), "is a web page, saved instead of the weights"),
    (re.compile(rb"\Aversion https://git-lfs"), "is a Git LFS pointer, not the file that it stands for"),
    (re.compile(rb"\A\Z"), "is empty"),
)
"""Beginnings of what often lies under the name of a checkpoint, and what that is."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ZIP = b"PK\x03\x04"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One published file of weights, or a small folder around one file.

    Args:
        name: Key, unique.
        file: File name as published. Of a folder: the one file that it must hold.
        url: Where the file can be fetched.
        licence: SPDX identifier that its publisher gives.
        source: Model, paper and repository, in words.
        size: Bytes; None where not known.
        sha256: All 64 hex digits, or as many of the first ones as are known; None where none are.
        folder: Whether it lies in a folder `name`, which may hold more; then that folder is what is found.
        others: File names of the same weights in another format or another publication: `size` and `sha256` do not
            speak of them.
        hubs: Repositories of the Hugging Face hub that hold the file, as ``organization/name``.
        hub_file: Its name there, where that is not `file`.
    """

    name: str
    file: str
    url: str
    licence: str
    source: str
    size: int | None = None
    sha256: str | None = None
    folder: bool = False
    others: tuple[str, ...] = ()
    hubs: tuple[str, ...] = ()
    hub_file: str | None = None

    @property
    def label(self) -> str:
        """Its file, as messages name it."""
        return f"{self.name}/{self.file}" if self.folder else self.file


# Sizes and hashes are those that independent projects pin for these files, all alike. Mind that the digits in the
# names of SAM's files begin the MD5 of the file, not its SHA-256.
_GROUNDING_DINO = "Grounding DINO {} (Liu et al., ECCV 2024), release {} of IDEA-Research/GroundingDINO"
_GROUNDING_DINO_URL = "https://github.com/IDEA-Research/GroundingDINO/releases/download/"
_SAM = "Segment Anything {} (Kirillov et al., ICCV 2023), facebookresearch/segment-anything"
_SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything/"
_HUB_URL = "https://huggingface.co/"
_BERT_REVISION = "86b5e0934494bd15c9632b12f734a8a67f723594"
_WIDE_RESNET_REVISION = "30f73aceaaa1911830a9795b83ab1908dba18719"

CHECKPOINTS: Mapping[str, Checkpoint] = {
    each.name: each
    for each in (
        Checkpoint(
            "groundingdino-swint-ogc",
            "groundingdino_swint_ogc.pth",
            f"{_GROUNDING_DINO_URL}v0.1.0-alpha/groundingdino_swint_ogc.pth",
            "Apache-2.0",
            _GROUNDING_DINO.format("Swin-T OGC", "v0.1.0-alpha"),
            693_997_677,
            "3b3ca2563c77c69f651d7bd133e97139c186df06231157a64c507099c52bc799",
            hubs=("ShilongLiu/GroundingDINO",),
        ),
        Checkpoint(
            "groundingdino-swinb-cogcoor",
            "groundingdino_swinb_cogcoor.pth",
            f"{_GROUNDING_DINO_URL}v0.1.0-alpha2/groundingdino_swinb_cogcoor.pth",
            "Apache-2.0",
            _GROUNDING_DINO.format("Swin-B COGCOOR", "v0.1.0-alpha2"),
            938_057_991,
            "46270f7a822e6906b655b729c90613e48929d0f2bb8b9b76fd10a856f3ac6ab7",
            hubs=("ShilongLiu/GroundingDINO",),
        ),
        Checkpoint(
            "sam-vit-b",
            "sam_vit_b_01ec64.pth",
            f"{_SAM_URL}sam_vit_b_01ec64.pth",
            "Apache-2.0",
            _SAM.format("ViT-B"),
            375_042_383,
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        ),
        Checkpoint(
            "sam-vit-l",
            "sam_vit_l_0b3195.pth",
            f"{_SAM_URL}sam_vit_l_0b3195.pth",
            "Apache-2.0",
            _SAM.format("ViT-L"),
            1_249_524_607,
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        ),
        Checkpoint(
            "sam-vit-h",
            "sam_vit_h_4b8939.pth",
            f"{_SAM_URL}sam_vit_h_4b8939.pth",
            "Apache-2.0",
            _SAM.format("ViT-H"),
            2_564_550_879,
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        ),
        # GroundingDINO's own files hold BERT's weights: the words of the tokenizer are all that is needed beside them.
        Checkpoint(
            "bert-base-uncased",
            "vocab.txt",
            f"{_HUB_URL}google-bert/bert-base-uncased/resolve/{_BERT_REVISION}/vocab.txt",
            "Apache-2.0",
            "tokenizer of BERT base, uncased (Devlin et al., NAACL 2019), google-bert/bert-base-uncased",
            231_508,
            "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            folder=True,
            hubs=("google-bert/bert-base-uncased", "bert-base-uncased"),
        ),
        # The name of the second file carries the first digits of its SHA-256, by timm's own script for such names.
        Checkpoint(
            "wide_resnet50_2",
            "wide_resnet50_2.safetensors",
            f"{_HUB_URL}timm/wide_resnet50_2.racm_in1k/resolve/{_WIDE_RESNET_REVISION}/model.safetensors",
            "Apache-2.0",
            "Wide ResNet-50-2 (Zagoruyko and Komodakis, BMVC 2016), timm's training racm_in1k on ImageNet-1k",
            275_835_296,
            "03b71d65fb2c73bb0de079a1781009f27a782ec481d2f64ab3bde9b1cdec3000",
            others=("wide_resnet50_2.pth", "wide_resnet50_racm-8234f177.pth"),
            hubs=("timm/wide_resnet50_2.racm_in1k",),
            hub_file="model.safetensors",
        ),
    )
}
"""Every file of weights that the project knows by itself, by its name."""


def named(spec: str, published: Callable[[str], Checkpoint], weights: Path | None) -> tuple[str, Path, str]:
    """A network and the file of its weights, from how a user names them.

    Args:
        spec: The network's name, whose published weights are looked for; or the name, ':' and a file of one's own.
        published: Gives the checkpoint of a name.
        weights: Folder to look in first.

    Returns:
        The name, the file, and its SHA-256 in hex.

    Raises:
        CheckpointError: The file is absent or damaged, or is not the published one where that is meant.
    """
    name, _, own = spec.partition(":")
    if own:
        file = Path(own).expanduser()
        return name, file, verify(Checkpoint(name, file.name, "", "", "a local file"), file)
    checkpoint = published(name)
    file = find(checkpoint, weights)
    return name, file, verify(checkpoint, file)


def timm_checkpoint(backbone: str) -> Checkpoint:
    """The weights that timm publishes for a backbone.

    Args:
        backbone: timm's name of a network; with a tag behind a dot, or else timm's default tag is taken.

    Raises:
        CheckpointError: timm is not installed, knows no such network, or has no weights for it.
    """
    if backbone in ("wide_resnet50_2", "wide_resnet50_2.racm_in1k"):
        return CHECKPOINTS["wide_resnet50_2"]
    published = _published_by_timm(backbone)
    hub, own = published.hf_hub_id, Path(published.url or "").name
    hub_file = published.hf_hub_filename or "model.safetensors"
    return Checkpoint(
        backbone,
        f"{backbone}.safetensors",
        f"{_HUB_URL}{hub}/resolve/main/{hub_file}" if hub else published.url,
        published.license or "not stated by timm",
        f"{published.architecture} of timm, tag {published.tag or 'none'}",
        others=(f"{backbone}.pth", *([own] if own else [])),
        hubs=(hub,) if hub else (),
        hub_file=hub_file,
    )


def _published_by_timm(backbone: str) -> Any:
    try:
        from timm.models import get_pretrained_cfg, is_model
    except ImportError as error:
        raise CheckpointError(backbone, "needs timm: pip install 'saa-labeling[foundation]'") from error
    published = None
    # timm answers an unknown tag with an exception, an unknown network with an empty description.
    with contextlib.suppress(RuntimeError):
        published = get_pretrained_cfg(backbone) if is_model(backbone) else None
    if published is None:
        raise CheckpointError(backbone, "timm knows no network of this name; `timm.list_models()` names those it has")
    if not (published.hf_hub_id or published.url):
        raise CheckpointError(backbone, "timm has this network, but no weights for it")
    return published


def find(checkpoint: Checkpoint, weights: Path | None) -> Path:
    """Where a checkpoint lies on this machine; nothing is read.

    Args:
        checkpoint: What is looked for.
        weights: Folder to look in before the caches of torch hub and the Hugging Face hub; None for those alone.

    Returns:
        The file; of a checkpoint that is a folder, the folder.

    Raises:
        CheckpointError: It is in none of these places; the message says where it comes from and where to put it.
    """
    return require([checkpoint], weights)[checkpoint.name]


def require(checkpoints: Iterable[Checkpoint], weights: Path | None) -> dict[str, Path]:
    """Where each of several checkpoints lies, by name.

    Raises:
        CheckpointError: Some are in no place where they were looked for; one error that names them all.
    """
    found = {each: next(_found(each, weights), None) for each in checkpoints}
    absent = [each for each, path in found.items() if path is None]
    if absent:
        raise missing(absent, weights)
    return {each.name: path for each, path in found.items() if path is not None}


def missing(checkpoints: Iterable[Checkpoint], weights: Path | None) -> CheckpointError:
    """The error for checkpoints that were not found: what, how large, from where, looked for where, to be put where."""
    absent = list(checkpoints)
    wanted = "; ".join(f"{each.label} ({_size_of(each)}, {each.source}) from {each.url}" for each in absent)
    places = dict.fromkeys(str(place) for each in absent for place in _places(each, weights))
    target = weights if weights is not None else torch_hub_cache()
    return CheckpointError(
        ", ".join(each.label for each in absent),
        f"not found in {', '.join(places)}. Wanted: {wanted}. Put it into {target}, or run {DOWNLOAD}",
    )


def _size_of(checkpoint: Checkpoint) -> str:
    return "size not known" if checkpoint.size is None else f"{max(1, round(checkpoint.size / 1e6))} MB"


def _found(checkpoint: Checkpoint, weights: Path | None) -> Iterator[Path]:
    for folder in _folders(weights):
        inner = folder / checkpoint.name if checkpoint.folder else folder
        for file in (checkpoint.file, *checkpoint.others):
            if _is_file(inner / file):
                yield inner if checkpoint.folder else inner / file
    for repository in _repositories(checkpoint):
        for snapshot in _snapshots(repository):
            file = checkpoint.hub_file or checkpoint.file
            if _is_file(snapshot / file):
                yield snapshot if checkpoint.folder else snapshot / file


def _places(checkpoint: Checkpoint, weights: Path | None) -> list[Path]:
    return [*_folders(weights), *_repositories(checkpoint)]


def _folders(weights: Path | None) -> list[Path]:
    return [*([] if weights is None else [weights]), torch_hub_cache()]


def _repositories(checkpoint: Checkpoint) -> list[Path]:
    return [hugging_face_cache() / f"models--{hub.replace('/', '--')}" for hub in checkpoint.hubs]


def _snapshots(repository: Path) -> list[Path]:
    """Revisions of a repository in the cache, the one that its branch `main` names first."""
    try:
        main = (repository / "refs" / "main").read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        main = ""
    return sorted(repository.glob("snapshots/*"), key=lambda path: (path.name != main, path.name))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # no permission to look, or a name that is too long
        return False


def torch_hub_cache() -> Path:
    """Where torch hub keeps checkpoints: $TORCH_HOME, else under $XDG_CACHE_HOME or ~/.cache."""
    home = _folder_of("TORCH_HOME") or _user_cache() / "torch"
    return home / "hub" / "checkpoints"


def hugging_face_cache() -> Path:
    """Where the Hugging Face hub keeps repositories: $HF_HUB_CACHE, else under $HF_HOME, $XDG_CACHE_HOME, ~/.cache."""
    own = _folder_of("HF_HUB_CACHE") or _folder_of("HUGGINGFACE_HUB_CACHE")
    return own or (_folder_of("HF_HOME") or _user_cache() / "huggingface") / "hub"


def _user_cache() -> Path:
    return _folder_of("XDG_CACHE_HOME") or Path.home() / ".cache"


def _folder_of(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(os.path.expandvars(value)).expanduser() if value else None


def verify(checkpoint: Checkpoint, path: Path) -> str:
    """The SHA-256 of a checkpoint's file, in hex, after a look at whether it is the published one.

    A file is read once: the digest is remembered in the user's cache folder under its path, size and time of change.

    Args:
        checkpoint: What the file should be.
        path: As `find` gives it.

    Raises:
        CheckpointError: The file cannot be read, is cut short, or is another one than was published.
    """
    file = path / checkpoint.file if checkpoint.folder else path
    try:
        _refuse_no_weights(file)
        size = file.stat().st_size
        # By its size first, which costs nothing.
        what = flaw(checkpoint, file.name, size) or flaw(checkpoint, file.name, size, digest := _digest(file))
    except OSError as error:
        raise CheckpointError(str(file), f"cannot be read: {error.strerror or error}") from error
    if what is not None:
        raise _other(file, what)
    return digest


def flaw(checkpoint: Checkpoint, file: str, size: int, digest: str | None = None) -> str | None:
    """What tells a file from the published one, as the rest of a sentence about it; None if nothing does.

    Args:
        checkpoint: What the file should be.
        file: Its name, which tells which of the checkpoint's files it is.
        size: Bytes it has.
        digest: Its SHA-256 in hex; None where it was not computed.
    """
    expected, begins = checkpoint.size, checkpoint.sha256
    if file in checkpoint.others:
        named = _TORCH_HUB_HASH.search(file)
        expected, begins = None, named[1] if named else None
    if expected is not None and size < expected:
        return f"is cut short: {size} of {expected} bytes"
    if expected is not None and size > expected:
        return f"is not the published file: it has {size} bytes instead of {expected}"
    if digest is not None and begins is not None and not digest.startswith(begins):
        return f"is not the published file: its SHA-256 is {digest} instead of {begins}"
    return None


def _other(file: Path, what: str) -> CheckpointError:
    return CheckpointError(str(file), f"{what}; delete it and run {DOWNLOAD}")


def _refuse_no_weights(file: Path) -> None:
    with file.open("rb") as opened:
        start = opened.read(64)
    for pattern, what in _NO_WEIGHTS:
        if pattern.search(start):
            raise _other(file, what)


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        status = os.fstat(opened.fileno())
        path, state = str(file.resolve()), [status.st_size, status.st_mtime_ns]
        memory = _remembered()
        match memory.get(path):
            case [size, time, str(digest)] if [size, time] == state and _SHA256.fullmatch(digest):
                return digest
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    _remember({**memory, path: [*state, digest]})
    return digest


def _memory() -> Path:
    return _user_cache() / "saa" / "digests.json"


def _remembered() -> dict[str, Any]:
    """Size, time of change and digest of every file that was hashed, by its path."""
    try:
        memory = json.loads(_memory().read_bytes())
    except (OSError, ValueError):  # none yet, or a damaged one: files are hashed again
        return {}
    return memory if isinstance(memory, dict) else {}


def _remember(digests: dict[str, Any]) -> None:
    memory = _memory()
    with contextlib.suppress(OSError):  # without a memory all works, but slower
        memory.parent.mkdir(parents=True, exist_ok=True)
        temporary = memory.with_name(f".{memory.name}.{uuid.uuid4().hex}.tmp")
        temporary.write_text(json.dumps(digests), "utf-8")
        temporary.replace(memory)


def load_state(path: Path) -> dict[str, Any]:
    """The tensors of a file of weights, by parameter name; no code that the file may hold is run.

    A dict under ``model`` or ``state_dict`` is taken out of its wrapping, and the prefix ``module.`` of
    DistributedDataParallel off every name.

    Args:
        path: A ``.safetensors`` file, or else one that `torch.save` wrote.

    Returns:
        Tensors on the CPU. They may be mapped from the file: copy them before it is changed.

    Raises:
        CheckpointError: The file cannot be read, is damaged, holds more than weights, or holds none.
    """
    try:
        _refuse_no_weights(path)
        content = _load_safetensors(path) if path.suffix == ".safetensors" else _load_torch(path)
    except OSError as error:
        raise CheckpointError(str(path), f"cannot be read: {error.strerror or error}") from error
    return _as_state(path, content)


def _load_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise _other(path, f"is damaged: {error}") from error


def _load_torch(path: Path) -> Any:
    import torch

    with path.open("rb") as opened:
        zipped = opened.read(len(_ZIP)) == _ZIP
    # The index of a zip file stands at its end; torch's own words on a file without one are "invalid argument".
    if zipped and not zipfile.is_zipfile(path):
        raise _other(path, "is cut short: the end of its zip archive is missing")
    try:
        with warnings.catch_warnings():
            # torch warns before it refuses an archive of TorchScript or a pickle of another kind; the error is enough.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from error
    except OSError:
        raise
    except Exception as error:  # what a damaged file does to an unpickler is not in any contract
        raise CheckpointError(str(path), f"cannot be read as weights: {_first_line(error)}") from error


def _refused(path: Path, error: pickle.UnpicklingError) -> CheckpointError:
    """The restricted unpickler of torch names what it met, if it met something that would be called."""
    met = re.search(r"GLOBAL (\S+)", f"{error} {error.__context__}")
    if met is None:
        return CheckpointError(str(path), "is not a file of weights that torch can read; nothing in it was executed")
    return CheckpointError(str(path), f"holds more than weights ({met[1]}); nothing in it was executed")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _as_state(path: Path, content: Any) -> dict[str, Any]:
    import torch

    for wrapping in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapping), Mapping):
            content = content[wrapping]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(str(path), f"holds no weights: a {type(content).__name__}, not names with tensors")
    for name, value in content.items():
        if not (isinstance(name, str) and isinstance(value, torch.Tensor)):
            raise CheckpointError(str(path), f"holds no weights under {name!r}, but a {type(value).__name__}")
    return {name.removeprefix("module."): value for name, value in content.items()}


def check_keys(
    name: str,
    model: Any,
    state: Mapping[str, Any],
    allowed_missing: tuple[str, ...] = (),
    allowed_unexpected: tuple[str, ...] = (),
) -> None:
    """Load a state into a model that it fits, and refuse one that it does not.

    Args:
        name: What the state was read from, for messages.
        model: A torch module; changed in place.
        state: Tensors by parameter name, as `load_state` gives them.
        allowed_missing: Beginnings of names that the model has and the state need not have.
        allowed_unexpected: Beginnings of names that the state may have and the model has not; ``("",)`` allows all.

    Raises:
        CheckpointError: The state lacks tensors, has others, or some of another shape; the model is as it was.
    """
    own = model.state_dict()
    problems = {
        "lacks": [key for key in own if key not in state and not key.startswith(allowed_missing)],
        "has besides": [key for key in state if key not in own and not key.startswith(allowed_unexpected)],
        "has in another shape": [
            f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ],
    }
    said = [f"{what} {_first_of(keys)}" for what, keys in problems.items() if keys]
    if said:
        raise CheckpointError(name, f"does not fit {type(model).__name__}: it {'; it '.join(said)}")
    model.load_state_dict(state, strict=False)


def _first_of(keys: list[str], shown: int = 3) -> str:
    rest = f" and {len(keys) - shown} more" if len(keys) > shown else ""
    return ", ".join(keys[:shown]) + rest


def ensure_offline() -> None:
    """Forbid every connection to the libraries that fetch weights by themselves: huggingface_hub, transformers, timm.

    To be called before any of them is imported, since they read these variables then. torch hub has no such switch:
    it opens a connection only for who hands it a URL, which this project does not do.

    Raises:
        SettingsError: One of them was imported before, and may connect.
    """
    os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"})
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None and not getattr(constants, "HF_HUB_OFFLINE", False):
        raise SettingsError("SAA_OFFLINE", "huggingface_hub was imported before it was read, and may connect")
