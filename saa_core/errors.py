"""Every error that the packages raise on purpose, as one tree.

SaaError
├── MaskError     a run-length mask that is not one
├── ImageError    one image file cannot be used; the run goes on without it
├── BundleError   a prompt bundle that cannot be read or is not known
├── DatasetError  a folder, glob or list that holds no usable image set
│   └── EmptySetError  it is there, and no image is in it
├── StoreError    the workspace, its catalog or a stored file cannot be used
├── SettingsError a setting that is unknown or has a bad value
├── CheckpointError  a file of weights that is absent, damaged, or not the one it should be
├── ReviewError   an expert's review that cannot be used; the others go on
├── ServiceError  a service that does not answer, refuses, or answers something else than agreed
│   └── AnswerLostError  a write was sent and its answer never came: it may have been done or not
└── MetricError   scores or masks that a metric is not defined for
"""

from __future__ import annotations


class SaaError(Exception):
    """Base of all errors whose message is meant for the user."""


class MaskError(SaaError, ValueError):
    """A run-length mask that is not one: wrong sum of runs, bad string, sizes that differ."""


class MetricError(SaaError, ValueError):
    """Scores or masks that a metric is not defined for."""


class _NamedError(SaaError):
    """An error about one named thing.

    Args:
        name: What the user calls it: a path, a URL, an id.
        reason: What is wrong and what to do, as one line without the name.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type[_NamedError], tuple[str, str]]:
        return type(self), (self.name, self.reason)


class ImageError(_NamedError):
    """One image file cannot be used."""


class BundleError(_NamedError):
    """A prompt bundle that cannot be read or is not known."""


class DatasetError(_NamedError):
    """A folder, glob or list that holds no usable image set."""


class EmptySetError(DatasetError):
    """A folder, glob or list without an image; where images are yet to come that is no fault."""


class StoreError(_NamedError):
    """The workspace, its catalog or a stored file cannot be used."""


class SettingsError(_NamedError):
    """A setting that is unknown or has a bad value."""


class CheckpointError(_NamedError):
    """A file of weights that is absent, damaged, or not the one it should be."""


class ReviewError(_NamedError):
    """An expert's review that cannot be used."""


class ServiceError(_NamedError):
    """A service that does not answer, refuses, or answers something else than agreed.

    Args:
        name: The service as the user knows it: its URL, without secrets.
        reason: What is wrong and what to do, as one line.
        status: Status code of its answer; None when there was none.
    """

    def __init__(self, name: str, reason: str, status: int | None = None) -> None:
        super().__init__(name, reason)
        self.status = status

    def __reduce__(self) -> tuple[type[ServiceError], tuple[str, str, int | None]]:  # type: ignore[override]
        return type(self), (self.name, self.reason, self.status)


class AnswerLostError(ServiceError):
    """A write was sent and no whole answer came: it may have been done or not."""
