"""GroundingDINO's text side before it meets an image: BERT's features of a caption, remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

from saa_core.generators.captions import Caption
from saa_core.runtime import in_batches

if TYPE_CHECKING:
    from torch import Tensor

_REMEMBERED = 1024
_WIDTH = 256
"""Of a token's position embedding, as groundingdino-py writes it."""


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """Tokens of B captions, padded to the longest one's L.

    Attributes:
        features: float32 (B, L, C).
        positions: float32 (B, L, C), embeddings of each token's place in its sentence.
        keep: bool (B, L): what is no padding.
        together: bool (B, L, L): which tokens may look at which, those of their sentence; padding at itself.
    """

    features: Tensor
    positions: Tensor
    keep: Tensor
    together: Tensor


class TextEncoder:
    """Text features of captions; the last ones are remembered. Threads may share it.

    Args:
        network: With `bert` and `feat_map`.
        ends: Ids of the tokens that end a sentence: [CLS], [SEP], '.' and '?'.
        at_once: Captions in one pass.
    """

    def __init__(self, network: Any, ends: Sequence[int], at_once: int) -> None:
        self._network, self._ends, self._at_once = network, tuple(ends), at_once
        self._known: OrderedDict[str, Text] = OrderedDict()
        self._lock = Lock()

    def __call__(self, captions: Sequence[Caption]) -> list[Text]:
        """Each caption's tokens, B = 1 and without padding."""
        distinct = {caption.text: caption for caption in captions}
        with self._lock:
            texts = {text: self._known[text] for text in distinct if text in self._known}
        fresh = [caption for text, caption in distinct.items() if text not in texts]
        made = in_batches(fresh, self._at_once, self._encode)
        texts.update(zip((caption.text for caption in fresh), made, strict=True))
        self._remember(texts)
        return [texts[caption.text] for caption in captions]

    def _remember(self, texts: dict[str, Text]) -> None:
        with self._lock:
            for text, made in texts.items():
                self._known[text] = made
                self._known.move_to_end(text)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)

    def _encode(self, captions: Sequence[Caption]) -> list[Text]:
        import torch
        from groundingdino.models.GroundingDINO.utils import get_sine_pos_embed

        device = self._network.feat_map.weight.device
        tokens, keep = _padded([torch.tensor(caption.tokens) for caption in captions], device)
        together, places = self._sentences(tokens, keep)
        states = self._network.bert(
            input_ids=tokens, attention_mask=together, token_type_ids=torch.zeros_like(tokens), position_ids=places
        ).last_hidden_state
        features = self._network.feat_map(states).float()
        positions = get_sine_pos_embed(places[..., None], num_pos_feats=_WIDTH, exchange_xy=False)
        whole = Text(features, positions, keep, together)
        return [_cut(whole, row, len(caption.tokens)) for row, caption in enumerate(captions)]

    def _sentences(self, tokens: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Which tokens may look at which, and each token's place in its sentence, which starts anew after an end."""
        import torch

        ends = torch.isin(tokens, torch.tensor(self._ends, device=tokens.device))
        sentence = ends.cumsum(1) - ends.long()
        itself = torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)
        together = (sentence[:, :, None] == sentence[:, None, :]) & keep[:, None, :] & keep[:, :, None] | itself
        place = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        starts = torch.where(together, place[:, None, :], tokens.shape[1]).amin(-1)
        return together, place - starts


def joined(texts: Sequence[Text]) -> Text:
    """Captions of B = 1 as one batch, padded to the longest."""
    import torch

    if len(texts) == 1:
        return texts[0]
    length = max(text.keep.shape[1] for text in texts)
    itself = torch.eye(length, dtype=torch.bool, device=texts[0].keep.device)
    wide = [length - text.keep.shape[1] for text in texts]
    pad = torch.nn.functional.pad
    return Text(
        torch.cat([pad(text.features, (0, 0, 0, more)) for text, more in zip(texts, wide, strict=True)]),
        torch.cat([pad(text.positions, (0, 0, 0, more)) for text, more in zip(texts, wide, strict=True)]),
        torch.cat([pad(text.keep, (0, more)) for text, more in zip(texts, wide, strict=True)]),
        torch.cat([pad(text.together, (0, more, 0, more)) | itself for text, more in zip(texts, wide, strict=True)]),
    )


def _padded(rows: Sequence[Tensor], device: Any) -> tuple[Tensor, Tensor]:
    """Rows of one length, and which of their entries are no padding."""
    import torch

    tokens = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    return tokens.to(device), (torch.arange(tokens.shape[1]) < lengths[:, None]).to(device)


def _cut(text: Text, row: int, length: int) -> Text:
    """One caption without its padding. A copy, or it would keep its whole batch in memory."""
    one, until = slice(row, row + 1), slice(length)
    return Text(
        text.features[one, until].clone(),
        text.positions[one, until].clone(),
        text.keep[one, until].clone(),
        text.together[one, until, until].clone(),
    )
