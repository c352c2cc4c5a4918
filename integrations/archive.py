"""Arrays as bytes: what the blob store keeps of an image.

The container is NumPy's .npz (a ZIP file of .npy members, checksums included, no compression: evidence is noise to a
compressor and time matters more). The member "header" is JSON text with the kind and version of the content. Nothing is
pickled, neither written nor read.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saa_core.errors import MaskError, StoreError
from saa_core.generators.base import Proposals
from saa_core.masks import Rle
from saa_core.refinement.evidence import Atoms, Dense, ImageEvidence, Rows
from saa_core.types import Candidates
from saa_core.untrusted import load_arrays

VERSION = 1
"""Of the layout. Content of another version is refused; whoever keeps it computes it again under a new key."""

_ROWS = ("scores", "areas", "inside", "saliency")
_ATOMS = ("members", "sizes", "truth")
_DENSE = ("excess", "saliency", "defective", "truth", "levels", "quiet")

_Arrays = Mapping[str, NDArray[Any]]


def pack_candidates(candidates: Candidates) -> bytes:
    """All of `candidates`, masks as run-lengths, every array with its dtype."""
    header = {
        "image": candidates.image,
        "size": [candidates.height, candidates.width],
        "phrases": candidates.phrases,
        "unknown_words": candidates.unknown_words,
    }
    arrays = {
        "boxes": candidates.boxes,
        "scores": candidates.scores,
        "quality": candidates.quality,
        "object_boxes": candidates.object_boxes,
        **_runs("masks", candidates.masks),
        **_runs("objects", candidates.objects),
    }
    arrays |= _known(evidence=candidates.evidence, peaks=candidates.peaks, pending=candidates.pending)
    return _pack("candidates", header, arrays)


def unpack_candidates(data: bytes, name: str) -> Candidates:
    """The inverse of `pack_candidates`.

    Args:
        data: Its result.
        name: What to call the bytes in an error.

    Raises:
        StoreError: Damaged, something else, or of another version.
    """
    header, arrays = _unpack("candidates", data, name)
    try:
        height, width = header["size"]
        return Candidates(
            image=header["image"],
            height=height,
            width=width,
            phrases=tuple(header["phrases"]),
            boxes=arrays["boxes"],
            scores=arrays["scores"],
            masks=_masks("masks", arrays, height, width),
            quality=arrays["quality"],
            objects=_masks("objects", arrays, height, width),
            object_boxes=arrays["object_boxes"],
            evidence=arrays.get("evidence"),
            unknown_words=tuple(header["unknown_words"]),
            peaks=arrays.get("peaks"),
            pending=arrays.get("pending"),
        )
    except (KeyError, ValueError, TypeError, MaskError) as error:
        raise StoreError(name, f"damaged candidates: {error}") from error


def pack_proposals(found: Proposals) -> bytes:
    """All of `found`, every array with its dtype."""
    arrays = {"boxes": found.boxes, "scores": found.scores, "object_boxes": found.object_boxes}
    arrays |= _known(evidence=found.evidence, peaks=found.peaks)
    return _pack("proposals", {"unknown_words": found.unknown_words}, arrays)


def unpack_proposals(data: bytes, name: str) -> Proposals:
    """The inverse of `pack_proposals`; arguments and errors as for `unpack_candidates`."""
    header, arrays = _unpack("proposals", data, name)
    try:
        return Proposals(
            boxes=arrays["boxes"],
            scores=arrays["scores"],
            evidence=arrays.get("evidence"),
            unknown_words=tuple(header["unknown_words"]),
            peaks=arrays.get("peaks"),
            object_boxes=arrays["object_boxes"],
        )
    except (KeyError, TypeError) as error:
        raise StoreError(name, f"damaged proposals: {error}") from error


def _known(**arrays: NDArray[Any] | None) -> dict[str, NDArray[Any]]:
    return {name: array for name, array in arrays.items() if array is not None}


def pack_evidence(evidence: ImageEvidence) -> bytes:
    """All of `evidence`, every array with its dtype."""
    named = {"image": evidence.image, "name": evidence.name, "lot": evidence.lot, "aided": evidence.aided}
    header = {
        **named,
        "labels": evidence.labels,
        "truth": evidence.truth,
        "object_pixels": evidence.rows.object_pixels,
        "pixels": [dense.pixel for dense in evidence.dense],
    }
    arrays = {f"rows_{name}": getattr(evidence.rows, name) for name in _ROWS}
    arrays |= {f"atoms_{name}": getattr(evidence.atoms, name) for name in _ATOMS}
    arrays |= {name: getattr(evidence, name) for name in ("overlap", "iou", "says")}
    for number, dense in enumerate(evidence.dense):
        arrays |= {f"dense{number}_{name}": getattr(dense, name) for name in _DENSE}
    return _pack("evidence", header, arrays)


def unpack_evidence(data: bytes, name: str) -> ImageEvidence:
    """The inverse of `pack_evidence`; arguments and errors as for `unpack_candidates`."""
    header, arrays = _unpack("evidence", data, name)
    try:
        dense = [_dense(arrays, number, pixel) for number, pixel in enumerate(header["pixels"])]
        return ImageEvidence(
            image=header["image"],
            name=header["name"],
            lot=header["lot"],
            rows=Rows(object_pixels=header["object_pixels"], **{field: arrays[f"rows_{field}"] for field in _ROWS}),
            overlap=arrays["overlap"],
            iou=arrays["iou"],
            atoms=Atoms(**{field: arrays[f"atoms_{field}"] for field in _ATOMS}),
            dense=tuple(dense),
            says=arrays["says"],
            truth=header["truth"],
            labels=tuple(header["labels"]),
            aided=header["aided"],
        )
    except (KeyError, ValueError, TypeError) as error:
        raise StoreError(name, f"damaged evidence: {error}") from error


def _dense(arrays: _Arrays, number: int, pixel: float) -> Dense:
    parts: dict[str, Any] = {field: arrays[f"dense{number}_{field}"] for field in _DENSE}
    return Dense(pixel=pixel, **parts)


def pack_rows(rows: Rows) -> bytes:
    """All of `rows`, every array with its dtype."""
    return _pack("rows", {"object_pixels": rows.object_pixels}, {name: getattr(rows, name) for name in _ROWS})


def unpack_rows(data: bytes, name: str) -> Rows:
    """The inverse of `pack_rows`; arguments and errors as for `unpack_candidates`."""
    header, arrays = _unpack("rows", data, name)
    try:
        return Rows(object_pixels=header["object_pixels"], **{field: arrays[field] for field in _ROWS})
    except KeyError as error:
        raise StoreError(name, f"damaged rows: {error}") from error


def pack_array(array: NDArray[Any]) -> bytes:
    """One array of numbers, any shape and dtype."""
    return _pack("array", {}, {"array": array})


def unpack_array(data: bytes, name: str) -> NDArray[Any]:
    """The inverse of `pack_array`; arguments and errors as for `unpack_candidates`."""
    _, arrays = _unpack("array", data, name)
    if "array" not in arrays:
        raise StoreError(name, "damaged: it holds no array")
    return arrays["array"]


def _pack(kind: str, header: Mapping[str, object], arrays: _Arrays) -> bytes:
    text = json.dumps({"kind": kind, "version": VERSION, **header}, ensure_ascii=False)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, header=np.frombuffer(text.encode(), np.uint8), **arrays)
    return buffer.getvalue()


def _unpack(kind: str, data: bytes, name: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    try:
        arrays = load_arrays(data)
        header = json.loads(arrays.pop("header").tobytes())
        found = header["kind"], header["version"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(name, f"damaged or not written by this program: {error}") from error
    if found != (kind, VERSION):
        raise StoreError(name, f"holds {found[0]} of version {found[1]}, expected {kind} of version {VERSION}")
    return header, arrays


def _runs(name: str, masks: Sequence[Rle]) -> dict[str, NDArray[Any]]:
    runs = [mask.counts for mask in masks]
    return {
        f"{name}_runs": np.concatenate(runs) if runs else np.zeros(0, np.uint32),
        f"{name}_lengths": np.array([len(run) for run in runs], np.int64),
    }


def _masks(name: str, arrays: _Arrays, height: int, width: int) -> tuple[Rle, ...]:
    runs, ends = arrays[f"{name}_runs"], np.cumsum(arrays[f"{name}_lengths"])
    if (ends[-1] if ends.size else 0) != runs.size:
        raise ValueError(f"the lengths of the {name} do not fit their runs")
    return tuple(Rle(height, width, part) for part in np.split(runs, ends[:-1]) if ends.size)
