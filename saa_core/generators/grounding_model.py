"""GroundingDINO's network and tokenizer, built from groundingdino-py's parts and loaded from local files alone.

groundingdino-py's own constructor fetches BERT by name from a hub, although every published checkpoint holds BERT's
weights. So the network is put together here, under the same parameter names, around a BERT that has no weights yet.
Liu et al., "Grounding DINO", ECCV 2024; numbers of the two published networks from groundingdino-py 0.4.0.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from saa_core.checkpoints import CHECKPOINTS, Checkpoint, check_keys, find, load_state, named, verify
from saa_core.errors import CheckpointError

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import BertModel, BertTokenizerFast

_UNUSED = ("label_enc.", "bert.embeddings.position_ids")
"""What published checkpoints hold besides: an embedding for training, and numbers that newer BERTs count themselves."""


@dataclass(frozen=True, slots=True)
class Swin:
    """Sizes of the image backbone (Liu et al., ICCV 2021), one entry a stage.

    Attributes:
        width: Channels of the first stage; each stage doubles them.
        depths: Blocks.
        heads: Attention heads.
        window: Side of the attention's windows, in tokens.
    """

    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int


@dataclass(frozen=True, slots=True)
class Architecture:
    """A network that weights are published for.

    Attributes:
        size: Its short name.
        swin: Its backbone.
        checkpoint: Its weights.
        config: Module of groundingdino-py that holds the other numbers.
        changes: Numbers that replace those.
        words: The tokenizer's folder.
    """

    size: str
    swin: Swin
    checkpoint: Checkpoint
    config: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    words: Checkpoint = CHECKPOINTS["bert-base-uncased"]

    def settings(self) -> SimpleNamespace:
        """The numbers, as groundingdino-py's builders want them; without checkpointing, which only training needs."""
        numbers = vars(importlib.import_module(f"groundingdino.config.{self.config}"))
        return SimpleNamespace(**{**numbers, **self.changes, "use_checkpoint": False, "use_transformer_ckpt": False})


ARCHITECTURES: Mapping[str, Architecture] = {
    each.size: each
    for each in (
        Architecture(
            "swint",
            Swin(96, (2, 2, 6, 2), (3, 6, 12, 24), 7),
            CHECKPOINTS["groundingdino-swint-ogc"],
            "GroundingDINO_SwinT_OGC",
        ),
        Architecture(
            "swinb",
            Swin(128, (2, 2, 18, 2), (4, 8, 16, 32), 12),
            CHECKPOINTS["groundingdino-swinb-cogcoor"],
            "GroundingDINO_SwinB_cfg",
        ),
    )
}


def load(
    architecture: Architecture, weights: Path | None, own: Path | None = None
) -> tuple[Module, BertTokenizerFast, str]:
    """Network in evaluation mode, tokenizer, and SHA-256 of the network's file.

    Args:
        architecture: Which.
        weights: Folder of the checkpoints; None for the caches alone.
        own: File of the network's weights; None for the published one.

    Raises:
        CheckpointError: A file is absent, damaged, or of another network.
    """
    spec = architecture.size if own is None else f"{architecture.size}:{own}"
    _, file, digest = named(spec, lambda _: architecture.checkpoint, weights)
    words = find(architecture.words, weights)
    verify(architecture.words, words)
    network = build(architecture, bert(words))
    check_keys(str(file), network, load_state(file), allowed_unexpected=_UNUSED)
    return network, tokenizer(words, network.bert.config.vocab_size), digest


def tokenizer(folder: Path, size: int) -> BertTokenizerFast:
    """The tokenizer of a folder's `vocab.txt`, uncased.

    Args:
        folder: Where it lies.
        size: Words that the network knows.

    Raises:
        CheckpointError: The vocabulary has another number of words.
    """
    from transformers import BertTokenizerFast

    made = BertTokenizerFast(vocab_file=str(folder / "vocab.txt"), do_lower_case=True)
    if len(made) != size:
        raise CheckpointError(str(folder / "vocab.txt"), f"has {len(made)} words, but the network knows {size}")
    return made


def bert(folder: Path | None = None) -> BertModel:
    """A BERT without its weights, of the sizes in a folder's `config.json`, else of bert-base-uncased."""
    from transformers import BertConfig, BertModel

    file = None if folder is None else folder / "config.json"
    numbers = json.loads(file.read_text("utf-8")) if file is not None and file.is_file() else {}
    return BertModel(BertConfig.from_dict(numbers)).eval()


def build(architecture: Architecture, text_encoder: BertModel) -> Module:
    """The network with random weights, in evaluation mode; its parameters have groundingdino-py's names."""
    with _quiet_import():
        from groundingdino.models.GroundingDINO.transformer import build_transformer
        from groundingdino.models.GroundingDINO.utils import MLP
        from torch import nn

        settings = architecture.settings()
        width = settings.hidden_dim
        network = nn.Module()
        network.transformer = build_transformer(settings)
        network.backbone = backbone(architecture.swin, settings)
    network.bert = text_encoder
    network.feat_map = nn.Linear(text_encoder.config.hidden_size, width)
    network.input_proj = _projections(network.backbone.num_channels, width, settings.num_feature_levels)
    # The decoder's box heads are one and the same, the encoder's is another, as in both published configurations.
    network.bbox_embed = nn.ModuleList([MLP(width, width, 4, 3)] * settings.dec_layers)
    network.transformer.decoder.bbox_embed = network.bbox_embed
    network.transformer.enc_out_bbox_embed = MLP(width, width, 4, 3)
    return network.eval()


def backbone(swin: Swin, settings: SimpleNamespace) -> Module:
    """groundingdino-py's image backbone, of any size, with its position embedding."""
    with _quiet_import():
        from groundingdino.models.GroundingDINO.backbone.backbone import Joiner
        from groundingdino.models.GroundingDINO.backbone.position_encoding import build_position_encoding
        from groundingdino.models.GroundingDINO.backbone.swin_transformer import SwinTransformer

        stages = SwinTransformer(
            embed_dim=swin.width,
            depths=swin.depths,
            num_heads=swin.heads,
            window_size=swin.window,
            out_indices=tuple(settings.return_interm_indices),
        )
    joined = Joiner(stages, build_position_encoding(settings))
    joined.num_channels = stages.num_features[-len(settings.return_interm_indices) :]
    return joined


def _projections(channels: list[int], width: int, levels: int) -> Module:
    """Each stage's channels to `width`; coarser levels beyond the stages from the last stage, by strides of two."""
    from torch import nn

    layers = [nn.Conv2d(each, width, 1) for each in channels]
    for level in range(levels - len(channels)):
        layers.append(nn.Conv2d(channels[-1] if level == 0 else width, width, 3, stride=2, padding=1))
    return nn.ModuleList([nn.Sequential(layer, nn.GroupNorm(32, width)) for layer in layers])


@contextmanager
def _quiet_import() -> Iterator[None]:
    """groundingdino-py imports timm by an old name and calls torch.meshgrid in an old way; both warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
