"""A run whose masks are written does not fail for what cannot be told of its lots."""

from pathlib import Path

from tasks.drift import watch_drift


def test_what_goes_wrong_is_a_note(tmp_path: Path) -> None:
    (note,) = watch_drift.fn("nobody", str(tmp_path))
    assert note.startswith("Whether its lots have drifted could not be told: nobody: no such run")
