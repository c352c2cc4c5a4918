"""The webhook of a project: how Label Studio comes to ring our doorbell, with which secret and for what."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from integrations.label_studio.client import Client
from integrations.label_studio.doorbell import HEADER, SECRET
from integrations.secrets import secret
from saa_core.errors import ServiceError, SettingsError, StoreError

ACTIONS = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_CREATED", "ANNOTATIONS_DELETED")
"""All that an expert can do to an annotation; a skip is an update or a creation."""

_REFUSALS = (
    ("reserved network", "it rings no loopback or private address; start Label Studio with "
     "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false, which it needs for every ring, not only for this"),
    ("resolve hostname", "it cannot find this host, and knows no IPv6; use a name or an IPv4 address it can reach"),
    ("valid URL", "it takes no host name without a dot in it; use the full name or an IPv4 address"),
)  # fmt: skip
"""What the server says of an address it will not ring, and what to do about it."""


def webhook_secret(workspace: Path) -> str:
    """The secret that a workspace's doorbell asks for, in `secrets/webhook`; made when it is first needed.

    Raises:
        StoreError: The file can be neither read nor written, or holds what no header can.
    """
    path = workspace / "secrets" / "webhook"
    text = secret(path, lambda: secrets.token_urlsafe(32))
    if not SECRET.fullmatch(text):
        raise StoreError(str(path), "holds a secret that no header can; delete it for a new one, then push again")
    return text


def check_url(url: str) -> None:
    """Refuse what is not the bare address of a doorbell, before it is kept or sent anywhere.

    Args:
        url: What `saa serve` prints, or the URL of one product.

    Raises:
        SettingsError: It is no http or https URL, or has a user, a query or a fragment. The URL itself is not shown, as
            it may hold a password.
    """
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        parts = httpx.URL()
    if parts.scheme not in ("http", "https") or not parts.host or parts.query or parts.fragment:
        raise SettingsError("webhook URL", "is not the address of a doorbell; use the one that `saa serve` prints")
    if parts.userinfo:
        raise SettingsError("webhook URL", "take user and password out of it; the doorbell has a secret of its own")


def answers(url: str) -> bool:
    """Whether a doorbell answers at `url`, as seen from this machine."""
    try:
        return httpx.get(f"{url.rstrip('/')}/health", timeout=3, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def register(client: Client, project_id: int, url: str, secret: str) -> bool:
    """Make the project ring `url` when a review is made, changed or deleted; writes nothing if it does already.

    A project has one doorbell: a webhook that has our header or this URL is ours, is corrected where it differs (also
    when it was turned off), and a second one goes. Webhooks of others are left alone. The server shows the secret to
    every user who may see webhooks.

    Args:
        client: Connection to the server.
        project_id: The project's id on the server.
        url: What to ring, see `doorbell.address`.
        secret: What the doorbell asks for.

    Returns:
        Whether anything was written.

    Raises:
        SettingsError: From `check_url`; nothing was sent.
        ServiceError: The server does not answer or refuses the address.
    """
    check_url(url)
    wanted = _wanted(url, secret)
    ours = sorted(_ours(client, project_id, url), key=lambda hook: int(hook["id"]))
    with _explained(client.url, url):
        if not ours:
            client.post("/api/webhooks/", {"project": project_id, **wanted})
            return True
        changed = _differs(ours[0], wanted)
        if changed:
            # All of it: the server takes a change that leaves the actions out as a wish for none.
            client.patch(f"/api/webhooks/{ours[0]['id']}/", wanted)
    for hook in ours[1:]:
        client.delete(f"/api/webhooks/{hook['id']}/")
    return changed or len(ours) > 1


def _wanted(url: str, secret: str) -> dict[str, Any]:
    return {
        "url": url,
        "send_payload": False,
        "send_for_all_actions": False,
        "is_active": True,
        "headers": {HEADER: secret},
        "actions": list(ACTIONS),
    }


def _ours(client: Client, project_id: int, url: str) -> list[dict[str, Any]]:
    hooks = client.get("/api/webhooks/", {"project": project_id})
    return [
        hook for hook in hooks if hook["project"] == project_id and (HEADER in hook["headers"] or hook["url"] == url)
    ]


def _differs(hook: dict[str, Any], wanted: dict[str, Any]) -> bool:
    # The server keeps actions in an order of its own.
    return any(
        sorted(hook[name]) != sorted(value) if name == "actions" else hook[name] != value
        for name, value in wanted.items()
    )


@contextmanager
def _explained(server: str, url: str) -> Iterator[None]:
    try:
        yield
    except ServiceError as error:
        for clue, advice in _REFUSALS:
            if clue in error.reason:
                raise ServiceError(server, f"refuses the webhook {url}: {advice}", error.status) from error
        raise
