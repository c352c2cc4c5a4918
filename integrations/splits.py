"""Which part of a split an image belongs to: all images of a production lot are in one part, and stay in it.

Images of one lot resemble each other, so a model that trained on some of them would be judged on what it has seen. The
part follows from the lot's name alone; the shares are therefore those of many lots, and of few only about so.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from integrations.formats.exported import Part
from saa_core.errors import SettingsError

_SHARES = re.compile(r"(\d{1,3})/(\d{1,3})/(\d{1,3})")


@dataclass(frozen=True, slots=True)
class Split:
    """Shares of the parts in percent of the lots; together 100."""

    train: int = 80
    val: int = 10
    test: int = 10

    @classmethod
    def parse(cls, text: str) -> Split:
        """A split from `80/10/10`.

        Raises:
            SettingsError: Not three whole numbers that sum to 100.
        """
        found = _SHARES.fullmatch(text)
        shares = [int(share) for share in found.groups()] if found else []
        if sum(shares) != 100:
            raise SettingsError(f"--split {text}", "needs train/val/test in whole percent, 100 together: 80/10/10")
        return cls(*shares)

    def part_of(self, lot: str) -> Part:
        """The part of a lot; it changes with the shares only."""
        place = int.from_bytes(hashlib.sha256(lot.encode()).digest()[:8]) % 100
        if place < self.train:
            return "train"
        return "val" if place < self.train + self.val else "test"

    def rule(self) -> str:
        """How it is decided, for whoever wants to repeat it."""
        return (
            f"by lot: the first 8 bytes of SHA-256(lot), big-endian, modulo 100; below {self.train} train, "
            f"below {self.train + self.val} val, else test; an image without a lot is one of its own"
        )

    def __str__(self) -> str:
        return f"{self.train}/{self.val}/{self.test}"
