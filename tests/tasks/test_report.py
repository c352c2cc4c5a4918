"""Keys of artifacts, whatever a product is called."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from tasks.report import artifact_key


@given(st.text(max_size=30))
def test_a_key_is_lower_case_with_dashes(name: str) -> None:
    key = artifact_key(f"refine {name}")
    assert re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", key)
    assert artifact_key(key) == key
