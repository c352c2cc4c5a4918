"""The webhook of drift alarms: where it may go, what it says, and what is said when it does not arrive."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from integrations.alarm_webhook import post_alarm
from integrations.settings import Settings
from saa_core.errors import ServiceError, SettingsError
from tests.alarm_site import Site, listening
from tests.label_studio_server import free_port


@pytest.fixture
def site() -> Iterator[Site]:
    with listening() as server:
        yield server


def test_it_tells_the_site(site: Site) -> None:
    assert post_alarm(Settings(alarm_webhook=site.url), "plate", "3f2a", ["Lot 3: darker."])
    text = "plate\nLot 3: darker."
    assert site.heard == [{"product": "plate", "run": "3f2a", "sentences": ["Lot 3: darker."], "text": text}]


def test_without_an_address_nothing_is_sent() -> None:
    assert not post_alarm(Settings(), "plate", "3f2a", ["Lot 3: darker."])


@pytest.mark.parametrize("status", [301, 403, 503])
def test_a_refusal_has_its_status_and_no_address(site: Site, status: int) -> None:
    site.status = status
    with pytest.raises(ServiceError, match=str(status)) as caught:
        post_alarm(Settings(alarm_webhook=site.url), "plate", "3f2a", ["Lot 3"])
    assert caught.value.status == status
    assert "s3cret" not in str(caught.value)


def test_one_that_is_away_is_told_without_its_address() -> None:
    settings = Settings(alarm_webhook=f"http://127.0.0.1:{free_port()}/hooks/s3cret")
    with pytest.raises(ServiceError, match="did not arrive: ConnectError") as caught:
        post_alarm(settings, "plate", "3f2a", ["Lot 3"])
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "url", ["http://example.com/hook", "ftp://127.0.0.1/", "http://127.0.0.1.example.com/", "hook"]
)
def test_an_address_that_could_be_overheard_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(SettingsError, match="https://") as caught:
        Settings.load(alarm_webhook=url)
    assert "example" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["https://chat.example.com/x", "http://localhost:3000", "http://[::1]:80/x", "http://127.0.0.9/"]
)
def test_these_are_taken_and_never_shown(url: str) -> None:
    settings = Settings.load(alarm_webhook=url)
    (shown,) = (each.value for each in settings.describe() if each.name == "alarm_webhook")
    assert shown == "**********"
