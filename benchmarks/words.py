"""What a product's words are worth: `saa evaluate` without words, with its own, and with those of another product.

    python benchmarks/words.py DATASET WORDS.json

WORDS.json maps a class to {"object": word, "defects": {name: words}}. Prints max-F1-pixel per class and the ratios.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from flows.evaluate import BundleFor, evaluate
from integrations.blobs import BlobStore
from integrations.candidate_store import CandidateStore
from saa_core import library
from saa_core.models import build
from saa_core.prompts import LanguagePrompt, Phrase, PromptBundle


def main() -> None:
    """Three evaluations over one candidate store."""
    root, words = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    own = {name: worded(name, entry) for name, entry in words.items()}
    names = sorted(own)
    # Each class borrows the words of the next one in the alphabet: fixed, and never its own.
    other = {name: own[names[(number + 1) % len(names)]] for number, name in enumerate(names)}
    with tempfile.TemporaryDirectory() as folder:
        store = CandidateStore(BlobStore(folder), build(), 10**8)
        none = figures(root, lambda _: library.load("generic"), store)
        with_own, with_other = figures(root, own.__getitem__, store), figures(root, other.__getitem__, store)
    print(f"{'class':32} {'none':>6} {'own':>6} {'other':>6} {'own/none':>9}")
    for name in none:
        row = none[name], with_own[name], with_other[name]
        print(f"{name:32} {row[0]:6.3f} {row[1]:6.3f} {row[2]:6.3f} {row[1] / row[0]:9.2f}")


def worded(name: str, entry: dict[str, Any]) -> PromptBundle:
    """The bundle of a class with its defects' words as phrases."""
    texts = dict.fromkeys(text.rstrip(". ") for text in entry["defects"].values())
    phrases = tuple(Phrase(text=text) for text in texts)
    return PromptBundle(product=name, language=LanguagePrompt(object=entry["object"], specific=phrases))


def figures(root: Path, bundle_for: BundleFor, store: CandidateStore) -> dict[str, float]:
    """Max-F1-pixel by class, and the mean."""
    found = evaluate(root, [], bundle_for, store, workers=2)
    rows = {name: row["max_f1_pixel"] for name, row in found["classes"].items()}
    return {**rows, "mean": found["mean"]["max_f1_pixel"]}


if __name__ == "__main__":
    main()
