"""Which failures of a service are tried again, and when."""

from __future__ import annotations

import pytest

from saa_core.errors import AnswerLostError, ServiceError, SettingsError
from tasks.collect import pull_label_studio
from tasks.patience import is_transient


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (ServiceError("http://x", "does not answer"), True),
        (AnswerLostError("http://x", "the answer was lost"), True),
        (ServiceError("http://x", "is busy", 429), True),
        (ServiceError("http://x", "is broken", 502), True),
        (ServiceError("http://x", "refuses the token", 401), False),
        (ServiceError("http://x", "no such project", 404), False),
        (SettingsError("label_studio_url", "is not set"), False),
        (None, False),
    ],
)
def test_what_may_pass_is_tried_again(error: object, again: bool) -> None:
    assert is_transient(error) is again


def test_services_are_asked_again_with_growing_pauses_of_chance() -> None:
    assert pull_label_studio.retries == 3
    assert pull_label_studio.retry_delay_seconds == [10, 20, 40]
    assert pull_label_studio.retry_jitter_factor == 0.5
