"""Small networks of the real architectures with random, seeded weights, for tests that need a model and no accuracy."""

from pathlib import Path
from typing import Any

from saa_core.checkpoints import Checkpoint
from saa_core.generators.grounding_dino import CaptionMode, GroundingDino, Scale
from saa_core.generators.grounding_model import Architecture, Swin, build, tokenizer
from saa_core.runtime import Compute

WORDS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "?", "-"),
    *("anomaly", "defect", "damage", "flaw", "on", "of", "bottle", "glass", "crack", "hole", "scratch", "spot"),
    *("black", "white", "dark", "small", "long", "print", "##s", "##ed", "##ing"),
)
"""A vocabulary: every other word is unknown."""
SCALE = Scale(64, 128)

TINY = Architecture(
    "tiny",
    Swin(16, (1, 1, 2, 1), (1, 2, 4, 8), 4),
    Checkpoint("tiny", "tiny.pth", "https://example.invalid/tiny.pth", "Apache-2.0", "random weights"),
    "GroundingDINO_SwinT_OGC",
    # groundingdino-py computes its position embeddings for a width of 256 only, so that stays.
    {"enc_layers": 2, "dec_layers": 2, "dim_feedforward": 64, "num_queries": 40},
    Checkpoint(
        "tiny-words", "vocab.txt", "https://example.invalid/vocab.txt", "Apache-2.0", "a few words", folder=True
    ),
)


def tiny_bert(seed: int = 0) -> Any:
    """Two layers of BERT over `WORDS`."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return BertModel(BertConfig(vocab_size=len(WORDS), **sizes)).eval()


def tiny_network(seed: int = 0) -> Any:
    """The network of `TINY` with weights that make every part of it matter.

    A fresh network fuses image and text with a weight of 1e-4, looks at the same places everywhere and moves no box;
    its token scores are near 0 or 1.
    """
    import torch

    network = build(TINY, tiny_bert(seed))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weights in network.named_parameters():
            if "gamma" in name:
                weights.uniform_(0.2, 0.6)
            elif "sampling_offsets.weight" in name or "attention_weights.weight" in name:
                weights.normal_(0, 0.05)
            elif "bbox_embed" in name:
                weights.normal_(0, 0.1)
            elif "relative_position_bias" in name:
                weights.normal_(0, 0.5)
            elif weights.dim() == 1:
                weights.add_(torch.randn_like(weights) * 0.1)
        _spread_scores(network.transformer)
    return network


def _spread_scores(transformer: Any) -> None:
    """Token logits, products of two normalised vectors, to a mean of about -7 and a deviation of about 3."""
    words = transformer.encoder.text_layers[-1].norm2.bias.normal_(0, 0.5)
    transformer.decoder.norm.weight.mul_(0.2)
    transformer.decoder.norm.bias.copy_(words * (-7 / words.square().sum()))


def words_folder(folder: Path) -> Path:
    """A folder that holds `WORDS` as a tokenizer's vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", "utf-8")
    return folder


def tiny_grounding_dino(folder: Path, captions: CaptionMode = "separate", seed: int = 0) -> GroundingDino:
    """A generator over `tiny_network`; needs a folder to write its words to."""
    words = tokenizer(words_folder(folder), len(WORDS))
    return GroundingDino(tiny_network(seed), words, "0" * 64, "tiny", Compute(), captions, SCALE)


def tiny_sam(seed: int = 0) -> Any:
    """SAM with three layers of width 48, one of them over the whole image, for images of 128 pixels."""
    from functools import partial

    import torch
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    torch.manual_seed(seed)
    side, width = 128, 32
    encoder = ImageEncoderViT(
        img_size=side,
        embed_dim=48,
        depth=3,
        num_heads=3,
        mlp_ratio=2,
        out_chans=width,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=3,
        global_attn_indexes=(1,),
    )
    prompts = PromptEncoder(width, (side // 16, side // 16), (side, side), mask_in_chans=8)
    decoder = MaskDecoder(
        transformer_dim=width,
        transformer=TwoWayTransformer(depth=2, embedding_dim=width, num_heads=4, mlp_dim=64),
        iou_head_hidden_dim=32,
    )
    sam = Sam(encoder, prompts, decoder).eval()
    with torch.no_grad():
        for name, weights in sam.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:
                weights.normal_(0, 0.5)
        # Logits of both signs, with a border between them, and a sure prediction of the IoU.
        decoder.output_hypernetworks_mlps[0].layers[-1].weight.mul_(400)
        decoder.iou_prediction_head.layers[-1].bias.fill_(0.7)
    return sam
