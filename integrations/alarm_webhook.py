"""Tell an address of the site that a product has drifted."""

from __future__ import annotations

from collections.abc import Sequence

import httpx

from integrations.settings import Settings
from saa_core.errors import ServiceError

_NAME = "alarm_webhook"
_TIMEOUT = 10.0


def post_alarm(settings: Settings, product: str, run: str, sentences: Sequence[str]) -> bool:
    """POST an alarm as JSON: `product`, `run`, `sentences`, and `text`, which chat servers show.

    Neither proxies nor redirects are followed: the message goes where the setting says, or nowhere.

    Returns:
        Whether it was sent; False where the setting names no address.

    Raises:
        ServiceError: It did not arrive. The address is not in the message, as it may hold a secret.
    """
    if settings.alarm_webhook is None:
        return False
    content = {"product": product, "run": run, "sentences": list(sentences), "text": "\n".join([product, *sentences])}
    try:
        url = settings.alarm_webhook.get_secret_value()
        answer = httpx.post(url, json=content, timeout=_TIMEOUT, trust_env=False, follow_redirects=False)
    except httpx.HTTPError as error:
        raise ServiceError(_NAME, f"the alarm did not arrive: {type(error).__name__}") from None
    if not answer.is_success:
        raise ServiceError(_NAME, f"refuses the alarm with status {answer.status_code}", answer.status_code)
    return True
