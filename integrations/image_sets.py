"""From what the user points at to images by content.

A source is a folder (searched to any depth), an image file, a glob, a list file (.txt, one path a line, relative to the
list, '#' starts a comment) or an fsspec URL of a folder, a file or a glob. Taken are files with the suffix of an image,
in either case. Left out without a word are other files, hidden files and folders, the outputs of former runs (every
folder that holds a catalog), and the masks of a data set in MVTec layout: a folder `ground_truth`
beside a folder `test`.
"""

from __future__ import annotations

import glob
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from io import BufferedReader
from pathlib import Path, PurePosixPath

import fsspec

from integrations.settings import CATALOG_FILE
from integrations.urls import masked_url
from saa_core.errors import DatasetError, EmptySetError, ImageError
from saa_core.types import ImageRef

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .tif .tiff .bmp .webp .jp2 .j2k .ppm .pgm .pbm .pnm .gif".split()  # noqa: SIM905
)

_READERS = 8
_Open = Callable[[], BufferedReader]


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A file that cannot be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ImageSet:
    """What a source holds.

    Attributes:
        source: What the user gave, without secrets.
        root: The folder that names are relative to: a path or an fsspec URL.
        refs: One per content, sorted by first name.
        quarantined: Files that could not be read, sorted by name.
    """

    source: str
    root: str
    refs: tuple[ImageRef, ...]
    quarantined: tuple[Quarantined, ...]


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    uri: str
    open: _Open


def scan(source: str, *, limit: int | None = None, lot: str | None = None, exclude: Iterable[Path] = ()) -> ImageSet:
    """Find the images of a source and their content, without decoding any.

    Args:
        source: See the module's text.
        limit: Stop after this many files, by name.
        lot: The production lot that the images belong to.
        exclude: Folders to leave out, such as the workspace of this run.

    Raises:
        DatasetError: There is no such source, or it holds no image. One unreadable file is no such error: it is
            quarantined.
    """
    root, files, unreadable = _find(source, [_absolute(folder) for folder in exclude])
    if not files and not unreadable:
        raise EmptySetError(masked_url(source), f"no image found ({', '.join(sorted(SUFFIXES))})")
    # One order for one set, whatever the file system lists first: batches are cut from it.
    files = sorted(files, key=lambda file: file.name)[:limit]
    with ThreadPoolExecutor(_READERS) as readers:
        hashed = list(zip(files, readers.map(_key_or_reason, files), strict=True))
    bad = [Quarantined(_shown(file.name), found.reason) for file, found in hashed if isinstance(found, Quarantined)]
    refs = _by_content(((file, found) for file, found in hashed if isinstance(found, str)), lot)
    return ImageSet(masked_url(source), root, refs, tuple(sorted([*unreadable, *bad], key=lambda q: q.name)))


def read_bytes(ref: ImageRef) -> bytes:
    """The bytes of an image.

    Raises:
        ImageError: They cannot be read, or are not those that were scanned.
    """
    try:
        with _opener(ref.uri)() as file:
            data = file.read()
    except OSError as error:
        raise ImageError(ref.names[0], _os_reason(error)) from error
    if hashlib.sha256(data).hexdigest() != ref.key:
        raise ImageError(ref.names[0], "changed since the set was scanned; run again")
    return data


# ----------------------------------------------------------------------------------------------------- kinds of source


def _find(source: str, exclude: list[Path]) -> tuple[str, list[_File], list[Quarantined]]:
    """The root, the files by name relative to it, and the folders that could not be read."""
    source = source.removeprefix("file://")
    if "://" in source:
        return _find_remote(source)
    unreadable: list[Quarantined] = []
    root, paths = _local(_absolute(source), source, unreadable)
    chosen = _chosen((path.relative_to(root).as_posix() for path in paths), _workspaces(root, exclude))
    return str(root), [_File(name, str(root / name), _opener(str(root / name))) for name in chosen], unreadable


def _local(path: Path, source: str, unreadable: list[Quarantined]) -> tuple[Path, list[Path]]:
    if path.is_dir():
        return path, list(_walk(path, path, unreadable))
    if path.is_file():
        return _listed(path) if path.suffix.lower() == ".txt" else (path.parent, [path])
    if not glob.has_magic(source):
        raise DatasetError(source, "no such folder, file or list")
    root = Path(*_plain(path.parts))
    matches = root.glob(str(path.relative_to(root)))
    return root, [file for match in matches for file in _files(match, root, unreadable)]


def _absolute(path: str | Path) -> Path:
    """Absolute and without '..', links left as they are: their names are the user's."""
    return Path(os.path.normpath(Path.cwd() / path))


def _files(path: Path, root: Path, unreadable: list[Quarantined]) -> Iterator[Path]:
    return _walk(path, root, unreadable) if path.is_dir() else iter([path])


def _walk(folder: Path, root: Path, unreadable: list[Quarantined]) -> Iterator[Path]:
    def note(error: OSError) -> None:
        name = Path(error.filename).relative_to(root).as_posix()
        unreadable.append(Quarantined(f"{_shown(name)}/", _os_reason(error)))

    entered: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, onerror=note, followlinks=True):
        identity = Path(parent).stat()
        if (identity.st_dev, identity.st_ino) in entered:  # a link back to a folder above
            folders.clear()
            continue
        entered.add((identity.st_dev, identity.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in files)


def _listed(path: Path) -> tuple[Path, list[Path]]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(str(path), f"the list cannot be read: {error}") from error
    entries = (line.partition("#")[0].strip() for line in lines)
    paths = [_absolute(path.parent / entry) for entry in entries if entry]
    inside = all(file.is_relative_to(path.parent) for file in paths)
    # Names become file names of the outputs, so none may lead out of the root.
    return path.parent if inside else Path(os.path.commonpath([file.parent for file in paths])), paths


def _find_remote(source: str) -> tuple[str, list[_File], list[Quarantined]]:
    try:
        filesystem, path = fsspec.url_to_fs(source)
        paths, root = _remote_paths(filesystem, path)
    except (ImportError, ValueError, OSError) as error:
        raise DatasetError(masked_url(source), f"cannot be listed: {error}") from error
    names = _chosen((PurePosixPath(found).relative_to(root).as_posix() for found in paths), lambda _: False)

    def file(name: str) -> _File:
        inside = f"{root.rstrip('/')}/{name}"
        return _File(name, filesystem.unstrip_protocol(inside), lambda: filesystem.open(inside, "rb"))

    return masked_url(filesystem.unstrip_protocol(root)), [file(name) for name in names], []


def _remote_paths(filesystem: fsspec.AbstractFileSystem, path: str) -> tuple[list[str], str]:
    if glob.has_magic(path):
        return list(filesystem.glob(path)), "/".join(_plain(tuple(path.split("/"))))
    if filesystem.isfile(path):
        return [path], path.rpartition("/")[0]
    return list(filesystem.find(path)), path


def _plain(parts: tuple[str, ...]) -> tuple[str, ...]:
    """The folders of a glob ahead of the first that holds a wildcard."""
    first = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    return parts[:first]


# --------------------------------------------------------------------------------------------------- choosing by name


def _chosen(names: Iterable[str], is_workspace: Callable[[PurePosixPath], bool]) -> list[str]:
    """The names of images: suffix, not hidden, no output of a run, no mask of an MVTec layout."""
    # A glob may match a folder and, once more, a file in it; a list may repeat a line.
    paths = [path for path in map(PurePosixPath, dict.fromkeys(names)) if _is_visible(path)]
    folders = {parent for path in paths for parent in path.parents}
    return [
        str(path)
        for path in paths
        if path.suffix.lower() in SUFFIXES
        and not any(_is_ground_truth(parent, folders) or is_workspace(parent) for parent in path.parents)
    ]


def _is_visible(path: PurePosixPath) -> bool:
    return not any(part.startswith(".") for part in path.parts)


def _is_ground_truth(folder: PurePosixPath, folders: set[PurePosixPath]) -> bool:
    return folder.name == "ground_truth" and folder.with_name("test") in folders


def _workspaces(root: Path, exclude: list[Path]) -> Callable[[PurePosixPath], bool]:
    @cache
    def test(folder: PurePosixPath) -> bool:
        path = root / folder
        return path != root and (path in exclude or (path / CATALOG_FILE).exists())

    return test


# --------------------------------------------------------------------------------------------------- reading by content


def _opener(uri: str) -> _Open:
    if "://" in uri:
        filesystem, path = fsspec.url_to_fs(uri)
        return lambda: filesystem.open(path, "rb")
    return lambda: Path(uri).open("rb")


def _key_or_reason(file: _File) -> str | Quarantined:
    try:
        file.name.encode()
        if "://" not in file.uri and not stat.S_ISREG(Path(file.uri).stat().st_mode):
            return Quarantined(file.name, "not a regular file")  # reading a pipe would wait for ever
        with file.open() as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except UnicodeEncodeError:
        return Quarantined(file.name, "its name is not valid UTF-8; rename it")
    except OSError as error:
        return Quarantined(file.name, _os_reason(error))
    return Quarantined(file.name, "empty file") if digest == _EMPTY else digest


_EMPTY = hashlib.sha256().hexdigest()


def _by_content(files: Iterable[tuple[_File, str]], lot: str | None) -> tuple[ImageRef, ...]:
    same: dict[str, list[_File]] = {}
    for file, key in files:
        same.setdefault(key, []).append(file)
    return tuple(ImageRef(key, group[0].uri, tuple(file.name for file in group), lot) for key, group in same.items())


def _shown(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _os_reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "cannot be read: it vanished, or is a link to nothing"
    return f"cannot be read: {error.strerror or error}"
