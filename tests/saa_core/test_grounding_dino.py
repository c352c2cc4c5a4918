"""GroundingDINO: every number against groundingdino-py on an instance of its own, and inputs that must not break it.

Random weights make the selection of queries chaotic: which 40 image tokens come first, and in which order, depends on
the last bits of scores that differ little. What leads to the selection is compared first, then the selected tokens
themselves, which must be the same in the same order (the seed is one where no two of the first 41 scores are closer
than rounding moves them), and then each query's numbers, without any sorting.
"""

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from saa_core.errors import CheckpointError
from saa_core.generators import Proposals, Request
from saa_core.generators.captions import Caption, Captions
from saa_core.generators.grounding_dino import BOX_FLOOR, TEXT_FLOOR, GroundingDino, Scale
from saa_core.generators.grounding_model import ARCHITECTURES, backbone, bert, build, tokenizer
from saa_core.generators.grounding_text import TextEncoder, joined
from saa_core.generators.grounding_transformer import Pyramid, Transformer
from saa_core.generators.swin import stages
from saa_core.images import load_image
from saa_core.runtime import Compute, prepare
from saa_core.types import RGB, Query
from tests.contracts.generator import RegionGeneratorContract
from tests.contracts.images import noise, peak
from tests.foundation import SCALE, TINY, WORDS, tiny_bert, tiny_network, words_folder

TEXTS = (("defect on bottle",), ("crack", "white print", "black hole"), ("scratch",), ("dark spot, small", "crack"))
REAL = ["mvtec_ad/pill/test/contamination/002.png", "magnetic_tile/magnetic_tile/test/blowhole/000.png"]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Operations this small are faster without company."""
    prepare()  # or the first generator would set the number again
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@contextmanager
def as_published() -> Iterator[None]:
    """groundingdino-py runs with gradients on and warns of what newer versions of torch will do."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


@dataclass
class Plain:
    """groundingdino-py itself: its constructor, its BERT from a folder, its forward pass."""

    model: Any

    def __post_init__(self) -> None:
        self.seen: dict[str, Any] = {}
        parts = {"text": self.model.feat_map, "encoder": self.model.transformer.encoder}
        parts["scores"] = self.model.transformer.enc_out_class_embed
        for name, part in parts.items():
            part.register_forward_hook(lambda *call, name=name: self.seen.update({name: call[-1]}))

    def __call__(self, pixels: Any, captions: Sequence[str]) -> SimpleNamespace:
        with as_published():
            found = self.model(pixels, captions=list(captions))
        memory, words = self.seen["encoder"]
        scores = self.seen["scores"].amax(-1)
        chosen = scores.topk(self.model.num_queries, dim=1).indices
        return SimpleNamespace(
            text=self.seen["text"],
            memory=memory,
            words=words,
            scores=scores,
            chosen=chosen,
            logits=found["pred_logits"],
            boxes=found["pred_boxes"],
        )


def plain(network: Any, folder: Path) -> Plain:
    with as_published():
        from groundingdino.models.GroundingDINO.groundingdino import GroundingDINO
        from groundingdino.models.GroundingDINO.transformer import build_transformer

        settings = TINY.settings()
        tokenizer(words_folder(folder), len(WORDS)).save_pretrained(folder)
        tiny_bert().save_pretrained(folder)
        model = GroundingDINO(
            backbone(TINY.swin, settings),
            build_transformer(settings),
            num_queries=settings.num_queries,
            iter_update=True,
            query_dim=settings.query_dim,
            num_feature_levels=settings.num_feature_levels,
            two_stage_type=settings.two_stage_type,
            two_stage_bbox_embed_share=settings.two_stage_bbox_embed_share,
            two_stage_class_embed_share=settings.two_stage_class_embed_share,
            text_encoder_type=str(folder),
        )
    model.load_state_dict(network.state_dict())
    return Plain(model.eval())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return words_folder(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def words(folder: Path) -> Any:
    return tokenizer(folder, len(WORDS))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    return plain(tiny_network(), tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def network() -> Any:
    """The same weights as `published`, in an instance of its own."""
    return tiny_network()


def generator_of(words: Any, changed: Any = None, **options: Any) -> GroundingDino:
    given = {"scale": SCALE, "compute": Compute()} | options
    return GroundingDino(changed or tiny_network(), words, "0" * 64, "tiny", **given)


@pytest.fixture(scope="module")
def generator(words: Any) -> GroundingDino:
    return generator_of(words)


@pytest.fixture(scope="module")
def joint(words: Any) -> GroundingDino:
    return generator_of(words, captions="joint")


def real(shared: Path, name: str) -> RGB:
    path = shared / "data" / "dev" / name
    return load_image(path.read_bytes(), name).pixels


def ask(generator: GroundingDino, image: RGB, query: Query) -> Proposals:
    (found,) = generator([Request(image, query, peak())])
    return found


def seen_by(published_scale: Scale, image: RGB) -> Any:
    """The image as groundingdino-py's own transforms prepare it, (1, 3, H, W)."""
    with as_published():
        import groundingdino.datasets.transforms as t
        import PIL.Image

        prepare = t.Compose(
            [
                t.RandomResize([published_scale.shortest], max_size=published_scale.longest),
                t.ToTensor(),
                t.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )
        pixels, _ = prepare(PIL.Image.fromarray(image), None)
    return pixels[None]


def pyramid_of(network: Any, pixels: Any) -> Pyramid:
    levels = stages(network.backbone[0], pixels)
    found = [layer(level) for layer, level in zip(network.input_proj, [*levels, levels[-1]], strict=True)]
    tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in found], 1)
    return Pyramid(tokens, tuple(tuple(level.shape[-2:]) for level in found))


def close(found: Any, expected: Any, scale: float = 1.0) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * scale)


class TestGroundingDinoIsAGenerator(RegionGeneratorContract):
    @pytest.fixture
    def generator(self, generator: GroundingDino) -> GroundingDino:
        return generator


@pytest.fixture(scope="module", params=[(97, 141), (72, 64), (128, 40)], ids=str)
def pixels(request: pytest.FixtureRequest) -> Any:
    return torch.randn(1, 3, *request.param, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def captions(words: Any) -> list[Caption]:
    return [Captions(words).write(text) for text in TEXTS]


@pytest.fixture(scope="module")
def expected(published: Plain, pixels: Any, captions: list[Caption]) -> list[SimpleNamespace]:
    """One pass of groundingdino-py for each caption."""
    return [published(pixels, [caption.text]) for caption in captions]


@pytest.fixture(scope="module")
def found(network: Any, words: Any, pixels: Any, captions: list[Caption]) -> SimpleNamespace:
    """All captions as one batch."""
    ends = words.convert_tokens_to_ids(["[CLS]", "[SEP]", ".", "?"])
    transformer = Transformer(network)
    with torch.inference_mode():
        text = joined(TextEncoder(network, ends, len(captions))(captions))
        one = pyramid_of(network, pixels)
        image = Pyramid(one.tokens.expand(len(captions), -1, -1), one.shapes)
        memory, tokens = transformer.encode(image, text)
        selection = transformer.select(memory, tokens, text.keep, image.shapes)
        logits, boxes = transformer.decode(memory, tokens, text.keep, selection, image.shapes)
    return SimpleNamespace(text=text, memory=memory, words=tokens, chosen=selection.tokens, logits=logits, boxes=boxes)


class TestBatches:
    """Captions of several lengths as one batch, against one pass of groundingdino-py for each."""

    def test_text_and_image_after_the_encoder(
        self, found: SimpleNamespace, expected: list[SimpleNamespace], captions: list[Caption]
    ) -> None:
        for row, (caption, each) in enumerate(zip(captions, expected, strict=True)):
            length = len(caption.tokens)
            close(found.text.features[row, :length], each.text[0])
            close(found.memory[row], each.memory[0])
            close(found.words[row, :length], each.words[0])

    def test_every_query_without_sorting(
        self, found: SimpleNamespace, expected: list[SimpleNamespace], captions: list[Caption]
    ) -> None:
        for row, (caption, each) in enumerate(zip(captions, expected, strict=True)):
            first = each.scores[0].sort(descending=True).values[: len(each.chosen[0]) + 1]
            assert (first[:-1] - first[1:]).min() > 1e-5 * first.abs().max()
            assert found.chosen[row].tolist() == each.chosen[0].tolist()
            length = len(caption.tokens)
            close(found.logits[row, :, :length], each.logits[0, :, :length], scale=10)
            assert (found.logits[row, :, length:] == -torch.inf).all()
            assert (each.logits[0, :, length:] == -torch.inf).all()
            close(found.boxes[row], each.boxes[0])

    def test_the_published_batch_mixes_captions_up(
        self,
        published: Plain,
        pixels: Any,
        expected: list[SimpleNamespace],
        found: SimpleNamespace,
        captions: list[Caption],
    ) -> None:
        """groundingdino-py 0.4.0 gives each caption others' masks; here its own numbers come out, batch or not."""
        batch = published(pixels.expand(len(captions), -1, -1, -1), [caption.text for caption in captions])
        off = [(batch.memory[row] - each.memory[0]).abs().max().item() for row, each in enumerate(expected)]
        ours = [(found.memory[row] - each.memory[0]).abs().max().item() for row, each in enumerate(expected)]
        assert max(off) > 1e-2
        assert max(ours) < 1e-4

    def test_padding_changes_nothing(self, network: Any, words: Any, pixels: Any, captions: list[Caption]) -> None:
        ends = words.convert_tokens_to_ids(["[CLS]", "[SEP]", ".", "?"])
        long = Captions(words).write(("long black crack on white glass",) * 12)
        transformer = Transformer(network)
        with torch.inference_mode():
            short, other = TextEncoder(network, ends, 2)([captions[2], long])
            (alone,) = TextEncoder(network, ends, 1)([captions[2]])
            close(short.features, alone.features)
            one = pyramid_of(network, pixels)
            two = Pyramid(one.tokens.expand(2, -1, -1), one.shapes)
            length = short.keep.shape[1]
            memory, tokens = transformer.encode(two, joined([other, short]))
            expected_memory, expected_tokens = transformer.encode(one, alone)
            close(memory[1:], expected_memory)
            close(tokens[1:, :length], expected_tokens)
            logits, boxes = transformer(two, joined([other, short]))
            expected_logits, expected_boxes = transformer(one, alone)
        close(logits[1:, :, :length], expected_logits, scale=10)
        close(boxes[1:], expected_boxes)


class TestSwin:
    @pytest.mark.parametrize("size", [(97, 141), (5, 9), (64, 64)])
    def test_is_groundingdino_pys(self, network: Any, size: tuple[int, int]) -> None:
        pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
        with as_published():
            from groundingdino.util.misc import nested_tensor_from_tensor_list

            expected, _ = network.backbone(nested_tensor_from_tensor_list(list(pixels)))
        with torch.inference_mode():
            found = stages(network.backbone[0], pixels)
        for ours, theirs in zip(found, expected, strict=True):
            close(ours, theirs.tensors)


class TestProposals:
    """What the generator makes of it, against the released program's own steps."""

    def expected(
        self, published: Plain, words: Any, image: RGB, phrases: tuple[str, ...], background: str | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Boxes, token scores and peaks after the released program's thresholds and background filter."""
        with as_published():
            from groundingdino.util.utils import get_phrases_from_posmap

        caption = ". ".join(phrases) + "."
        outputs = published(seen_by(SCALE, image), [caption])
        scores, boxes = outputs.logits[0].sigmoid(), outputs.boxes[0].clone()
        kept = scores.max(dim=1)[0] > BOX_FLOOR
        scores, boxes = scores[kept], boxes[kept]
        height, width = image.shape[:2]
        boxes *= torch.tensor([width, height, width, height])
        boxes[:, :2] -= boxes[:, 2:] / 2
        boxes[:, 2:] += boxes[:, :2]
        said = [get_phrases_from_posmap(row > TEXT_FLOOR, words(caption), words) for row in scores]
        rows = [row for row, text in enumerate(said) if background is None or background not in text]
        return boxes[rows].numpy(), scores[rows].numpy(), scores[rows].amax(1).numpy()

    @pytest.mark.parametrize("name", REAL)
    def test_of_a_caption_on_a_real_image(
        self, generator: GroundingDino, published: Plain, words: Any, shared: Path, name: str
    ) -> None:
        image, phrases = real(shared, name), ("black hole", "crack")
        found = ask(generator, image, Query(phrases, (0, 0)))
        boxes, scores, peaks = self.expected(published, words, image, phrases, None)
        assert len(boxes)
        np.testing.assert_allclose(found.boxes, boxes, rtol=1e-4, atol=1e-2)
        np.testing.assert_allclose(found.peaks, peaks, rtol=1e-4)
        # [CLS] black hole . crack . [SEP]
        by_phrase = np.stack([scores[:, 1:3].max(axis=1), scores[:, 4]], axis=1)
        np.testing.assert_allclose(found.scores, by_phrase, rtol=1e-4, atol=1e-6)

    def test_of_captions_of_their_own_come_one_after_the_other(
        self, generator: GroundingDino, published: Plain, words: Any
    ) -> None:
        image, phrases = noise((60, 90)), ("crack", "defect on bottle")
        found = ask(generator, image, Query(phrases))
        each = [self.expected(published, words, image, (phrase,), None) for phrase in phrases]
        np.testing.assert_allclose(found.boxes, np.concatenate([boxes for boxes, *_ in each]), rtol=1e-4, atol=1e-2)
        split = len(each[0][0])
        assert (found.scores[:split, 1] == 0).all()
        assert (found.scores[split:, 0] == 0).all()
        np.testing.assert_allclose(found.scores[split:, 1], each[1][1][:, 1:4].max(axis=1), rtol=1e-4, atol=1e-6)

    def test_boxes_that_say_the_background_are_dropped(
        self, generator: GroundingDino, published: Plain, words: Any
    ) -> None:
        image, query = noise((60, 90), 3), Query(("defect on bottle",))
        everything = ask(generator, image, query)
        found = ask(generator, image, replace(query, background=" Bottle "))
        boxes, scores, _ = self.expected(published, words, image, query.phrases, "bottle")
        assert 0 < len(boxes) < len(everything.boxes)
        np.testing.assert_allclose(found.boxes, boxes, rtol=1e-4, atol=1e-2)
        assert (scores[:, 3] <= TEXT_FLOOR).all()

    @pytest.mark.parametrize("background", ["", " ", "wood", None])
    def test_a_background_that_no_box_says_drops_none(self, generator: GroundingDino, background: str | None) -> None:
        image, query = noise((60, 90)), Query(("defect on bottle",))
        found = ask(generator, image, replace(query, background=background))
        np.testing.assert_array_equal(found.boxes, ask(generator, image, query).boxes)

    def test_the_object_is_asked_for_in_a_pass_of_its_own(
        self, generator: GroundingDino, published: Plain, words: Any
    ) -> None:
        image = noise((60, 90))
        found = ask(generator, image, Query((), object="Bottle", background="bottle"))
        boxes, _, peaks = self.expected(published, words, image, ("bottle",), None)
        assert found.boxes.shape == (0, 4)
        assert found.scores.shape == (0, 0)
        best_first = np.argsort(-peaks, kind="stable")
        assert len(best_first) > 1
        np.testing.assert_allclose(found.object_boxes, boxes[best_first], rtol=1e-4, atol=1e-2)
        both = ask(generator, image, Query(("crack",), object="Bottle"))
        np.testing.assert_array_equal(both.object_boxes, found.object_boxes)
        np.testing.assert_array_equal(both.boxes, ask(generator, image, Query(("crack",))).boxes)

    def test_boxes_may_reach_beyond_the_image(self, generator: GroundingDino) -> None:
        boxes = ask(generator, noise((60, 90)), Query(TEXTS[1])).boxes
        assert (boxes < 0).any()
        assert (boxes[:, 2:] > (90, 60)).any()

    def test_every_kept_box_is_above_the_floor(self, generator: GroundingDino) -> None:
        found = ask(generator, noise((60, 90)), Query(("crack", "hole", "spot")))
        assert found.peaks is not None
        assert found.peaks.dtype == np.float32
        assert BOX_FLOOR < found.peaks.min() < 0.2
        assert len(found.boxes) < 3 * TINY.changes["num_queries"]


class TestParts:
    QUERY = Query(("crack", "white print", "hole", "spot"), (None, 7, None, 7), "bottle", "glass")

    def test_a_caption_is_a_part(self, generator: GroundingDino) -> None:
        first, shared, third, last = generator.parts(self.QUERY)
        assert first == Query(("crack",), background="glass")
        assert shared == Query(("white print", "spot"), (0, 0), background="glass")
        assert third == Query(("hole",), background="glass")
        assert last == Query((), object="bottle")

    def test_joined_captions_are_one_part(self, joint: GroundingDino) -> None:
        everything, last = joint.parts(self.QUERY)
        assert everything == Query(self.QUERY.phrases, (0, 0, 0, 0), background="glass")
        assert last == Query((), object="bottle")

    @pytest.mark.parametrize("mode", ["generator", "joint"])
    def test_a_part_is_its_own_part(self, mode: str, request: pytest.FixtureRequest) -> None:
        generator: GroundingDino = request.getfixturevalue(mode)
        for part in generator.parts(self.QUERY):
            assert generator.parts(part) == (part,)

    def test_nothing_to_ask_has_no_parts(self, generator: GroundingDino, joint: GroundingDino) -> None:
        assert generator.parts(Query(())) == joint.parts(Query(())) == ()

    def test_a_part_of_both_modes_gives_the_same(self, generator: GroundingDino, joint: GroundingDino) -> None:
        assert generator.id == joint.id
        image, part = noise((60, 90)), Query(("white print", "spot"), (0, 0))
        one, other = ask(generator, image, part), ask(joint, image, part)
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.scores, other.scores)

    def test_joined_phrases_see_one_another(self, generator: GroundingDino, joint: GroundingDino) -> None:
        image, query = noise((60, 90)), Query(("white print", "spot"))
        one, other = ask(generator, image, query), ask(joint, image, query)
        assert (one.scores == 0).any(axis=1).all()
        assert (other.scores > 0).all()
        assert len(other.boxes) <= TINY.changes["num_queries"]

    @pytest.mark.parametrize("mode", ["generator", "joint"])
    def test_shared_captions_are_split_where_they_are_too_long(self, mode: str, request: pytest.FixtureRequest) -> None:
        generator: GroundingDino = request.getfixturevalue(mode)
        phrases = tuple(f"{'long ' * number}crack" for number in range(30))
        parts = generator.parts(Query(phrases, (3,) * 30))
        assert sum((part.phrases for part in parts), ()) == phrases
        assert len(parts) == 2


class TestWork:
    """What is computed once."""

    def test_an_image_passes_the_backbone_once_and_a_caption_bert(self, words: Any) -> None:
        network, calls = tiny_network(), {"image": 0, "text": 0}
        generator = generator_of(words, network)
        network.backbone[0].patch_embed.register_forward_hook(lambda *_: calls.update(image=calls["image"] + 1))
        network.bert.register_forward_hook(lambda *_: calls.update(text=calls["text"] + 1))
        images = [noise((60, 90)), noise((60, 90), 1), noise((90, 60))]
        queries = [Query(("crack", "hole"), object="bottle"), Query(("crack",))]
        requests = [Request(image, query, peak()) for query in queries for image in images]
        generator(requests)
        assert calls == {"image": 3, "text": 3}
        generator(requests)
        assert calls == {"image": 6, "text": 3}

    @pytest.mark.parametrize("at_once", [2, 5, 100])
    def test_batches_give_what_single_passes_give(self, words: Any, generator: GroundingDino, at_once: int) -> None:
        images = [noise((60, 90)), noise((90, 60), 1), noise((60, 90), 2)]
        query = Query(("crack", "defect on bottle", "dark, long scratch"), object="bottle")
        requests = [Request(image, query, peak()) for image in images]
        for found, expected in zip(generator_of(words, at_once=at_once)(requests), generator(requests), strict=True):
            np.testing.assert_allclose(found.boxes, expected.boxes, rtol=1e-4, atol=1e-2)
            np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(found.object_boxes, expected.object_boxes, rtol=1e-4, atol=1e-2)

    def test_threads_with_images_of_different_sizes(self, generator: GroundingDino) -> None:
        images = [noise((40 + 9 * number, 100 - 9 * number), number) for number in range(6)]
        query = Query(("crack", "white print"), object="bottle")
        alone = [ask(generator, image, query) for image in images]
        with ThreadPoolExecutor(3) as pool:
            together = list(pool.map(lambda image: ask(generator, image, query), images))
        for one, other in zip(together, alone, strict=True):
            np.testing.assert_array_equal(one.boxes, other.boxes)
            np.testing.assert_array_equal(one.scores, other.scores)
            np.testing.assert_array_equal(one.object_boxes, other.object_boxes)


def with_weights(name: str, value: float, start: int = 0) -> Any:
    """The tiny network with a tensor set to a number, from one of its rows on."""
    network = tiny_network()
    with torch.no_grad():
        network.state_dict()[name][start:] = value
    return network


class TestBadInput:
    QUERY = Query(("crack", "frobnicated wick"), object="bottle")

    def nothing(self, found: Proposals, phrases: int = 2) -> None:
        assert found.boxes.shape == (0, 4)
        assert found.scores.shape == (0, phrases)
        assert found.object_boxes.shape == (0, 4)

    @pytest.mark.parametrize("text", ["", " ", ".", "\u200b", "☃ frob"])
    def test_a_phrase_without_known_words_scores_nothing(self, generator: GroundingDino, text: str) -> None:
        image = noise((60, 90))
        found = ask(generator, image, Query(("crack", text), (0, 0)))
        assert len(found.boxes)
        assert (found.scores[:, 1] == 0).all()
        assert found.unknown_words == tuple(word for word in text.split() if word != ".")
        alone = ask(generator, image, Query((text,)))
        assert alone.scores.shape == (0, 1)
        assert alone.unknown_words == found.unknown_words
        assert ask(generator, image, Query((), object=text)).object_boxes.shape == (0, 4)

    def test_a_phrase_with_some_known_words_scores_by_them(self, generator: GroundingDino) -> None:
        found = ask(generator, noise((60, 90)), Query(("frob crack",)))
        assert (found.scores > 0).all()
        assert found.unknown_words == ("frob",)

    @pytest.mark.parametrize(("mode", "count"), [("generator", 60), ("joint", 300)])  # a pass for each, and for all
    def test_many_phrases(self, mode: str, count: int, request: pytest.FixtureRequest) -> None:
        generator: GroundingDino = request.getfixturevalue(mode)
        known = [word for word in WORDS if word.isalpha()]
        phrases = tuple(f"{first} {second}" for first in known for second in known)[:count]
        found = ask(generator, noise((8, 8)), Query(phrases))
        assert found.scores.shape == (len(found.boxes), count)
        assert (found.scores.max(axis=0) > 0).mean() > 0.9

    def test_a_phrase_longer_than_a_caption(self, generator: GroundingDino) -> None:
        found = ask(generator, noise((60, 90)), Query(("crack " * 400, "hole"), object="bottle " * 400))
        assert found.scores.shape == (len(found.boxes), 2)

    def test_no_phrase_and_no_object(self, generator: GroundingDino) -> None:
        self.nothing(ask(generator, noise((60, 90)), Query(())), 0)

    def test_no_box(self, words: Any) -> None:
        network = tiny_network()
        with torch.no_grad():
            network.transformer.decoder.norm.bias.mul_(100)
        self.nothing(ask(generator_of(words, network), noise((60, 90)), self.QUERY))

    def test_one_box(self, words: Any) -> None:
        network = tiny_network()
        network.transformer.num_queries = 1
        with torch.no_grad():
            network.transformer.decoder.norm.bias.mul_(-1)
        found = ask(generator_of(words, network), noise((60, 90)), Query(("crack",)))
        assert found.boxes.shape == (1, 4)
        assert found.scores.shape == (1, 1)

    def test_boxes_without_an_area_are_dropped(self, words: Any) -> None:
        network = with_weights("bbox_embed.0.layers.2.bias", -1e4, start=2)
        self.nothing(ask(generator_of(words, network), noise((60, 90)), self.QUERY))

    @pytest.mark.parametrize(
        "name",
        [
            "transformer.decoder.norm.bias",
            "bbox_embed.0.layers.2.bias",
            "transformer.encoder.layers.0.self_attn.sampling_offsets.bias",
            "transformer.encoder.fusion_layers.0.gamma_v",
            "feat_map.bias",
        ],
    )
    def test_boxes_without_a_number_are_dropped(self, words: Any, name: str) -> None:
        network = with_weights(name, float("nan"))
        self.nothing(ask(generator_of(words, network), noise((60, 90)), self.QUERY))

    @pytest.mark.parametrize("shape", [(1, 1), (1, 600), (600, 1), (3, 1500)])
    def test_an_image_of_fewer_tokens_than_queries(self, generator: GroundingDino, shape: tuple[int, int]) -> None:
        found = ask(generator, noise(shape), self.QUERY)
        assert len(found.boxes) <= TINY.changes["num_queries"]
        assert (found.boxes[:, :2] < found.boxes[:, 2:]).all()

    def test_images_do_not_reach_the_next(self, generator: GroundingDino) -> None:
        first = ask(generator, noise((60, 90)), self.QUERY)
        for image in (noise((1, 600)), noise((90, 60)), noise((60, 90), 5)):
            ask(generator, image, Query(("long scratch",), background="long"))
        again = ask(generator, noise((60, 90)), self.QUERY)
        np.testing.assert_array_equal(first.boxes, again.boxes)
        np.testing.assert_array_equal(first.scores, again.scores)


class TestScale:
    @pytest.mark.parametrize("size", [(100, 100), (800, 800), (60, 90), (90, 61), (200, 1333), (3, 7), (801, 799)])
    def test_is_groundingdino_pys(self, size: tuple[int, int]) -> None:
        assert Scale().of(*size) == tuple(seen_by(Scale(), noise(size)).shape[2:])

    def test_no_side_is_empty(self) -> None:
        assert Scale().of(1, 5000) == (1, 5000)
        assert Scale().of(5000, 1) == (5000, 1)


class TestPrecision:
    def test_bfloat16_runs_and_says_so(self, words: Any, generator: GroundingDino) -> None:
        low = generator_of(words, compute=Compute(precision="bfloat16"))
        assert low.id == f"{generator.id}-bfloat16"
        found = ask(low, noise((60, 90)), Query(("crack",), object="bottle"))
        assert found.boxes.dtype == found.scores.dtype == np.float32
        assert len(found.boxes)


@pytest.fixture
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No checkpoint of this machine is found, and no digest is kept on it."""
    for variable in ("TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.usefixtures("_own_cache")
class TestLoading:
    def saved(self, folder: Path, state: dict[str, Any]) -> Path:
        """A folder of weights, as published: in a wrapping, with the names of distributed training, and more in it."""
        state = {f"module.{name}": weights for name, weights in state.items()}
        more = {"module.label_enc.weight": torch.zeros(3), "module.bert.embeddings.position_ids": torch.arange(4)}
        words = words_folder(folder / TINY.words.name)
        tiny_bert().config.to_json_file(words / "config.json")
        torch.save({"model": {**state, **more}}, folder / TINY.checkpoint.file)
        return folder

    def test_a_loaded_network_is_the_saved_one(self, generator: GroundingDino, tmp_path: Path) -> None:
        weights = self.saved(tmp_path, tiny_network().state_dict())
        loaded = GroundingDino.restore(TINY, weights, Compute(), scale=SCALE)
        digest = loaded.id.removeprefix("grounding-dino-tiny-")[:12]
        assert loaded.id == generator.id.replace("0" * 12, digest)
        assert digest != "0" * 12
        image, query = noise((60, 90)), Query(("crack",), object="bottle")
        one, other = ask(loaded, image, query), ask(generator, image, query)
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.scores, other.scores)
        np.testing.assert_array_equal(one.object_boxes, other.object_boxes)

    def test_other_weights_have_another_id(self, tmp_path: Path) -> None:
        ids = set()
        for seed in (0, 1):
            (tmp_path / str(seed)).mkdir()
            weights = self.saved(tmp_path / str(seed), tiny_network(seed).state_dict())
            ids.add(GroundingDino.restore(TINY, weights, Compute()).id)
        assert len(ids) == 2

    def test_weights_of_another_network_are_refused(self, tmp_path: Path) -> None:
        state = tiny_network().state_dict()
        del state["transformer.level_embed"]
        with pytest.raises(CheckpointError, match=r"transformer\.level_embed"):
            GroundingDino.restore(TINY, self.saved(tmp_path, state), Compute())

    def test_a_vocabulary_of_another_size_is_refused(self, tmp_path: Path) -> None:
        weights = self.saved(tmp_path, tiny_network().state_dict())
        with (weights / TINY.words.name / "vocab.txt").open("a") as file:
            file.write("another\n")
        with pytest.raises(CheckpointError, match=f"has {len(WORDS) + 1} words, but the network knows {len(WORDS)}"):
            GroundingDino.restore(TINY, weights, Compute())

    @pytest.mark.parametrize("size", ["swint", "swinb"])
    def test_absent_weights_are_named(self, tmp_path: Path, size: str) -> None:
        with pytest.raises(CheckpointError, match=f"groundingdino_{size}_"):
            GroundingDino.load(size, tmp_path, Compute())

    @pytest.mark.slow
    def test_the_full_network_from_a_file(self, tmp_path: Path, shared: Path) -> None:
        vocabulary = shared / "weights" / "bert-base-uncased-vocab.txt"
        if not vocabulary.is_file():
            pytest.skip("needs the vocabulary of bert-base-uncased in ../shared/weights")
        full = replace(ARCHITECTURES["swint"], checkpoint=replace(TINY.checkpoint, file="full.pth"))
        (tmp_path / full.words.name).mkdir()
        (tmp_path / full.words.name / "vocab.txt").write_bytes(vocabulary.read_bytes())
        torch.manual_seed(0)
        torch.save(build(full, bert()).state_dict(), tmp_path / "full.pth")
        generator = GroundingDino.restore(full, tmp_path, Compute(), scale=Scale(160, 240))
        found = ask(generator, real(shared, REAL[0]), Query(("frobnicated wick",), object="pill"))
        assert len(found.boxes)
        assert found.unknown_words == ()

    @pytest.mark.slow
    @pytest.mark.parametrize("size", ["swint", "swinb"])
    def test_parameters_have_the_published_names_and_shapes(self, size: str, tmp_path: Path) -> None:
        """Those that groundingdino-py's own builder gives; BERT's it takes from a folder, here a tiny one."""
        with as_published():
            from groundingdino.models import build_model

            tokenizer(words_folder(tmp_path), len(WORDS)).save_pretrained(tmp_path)
            tiny_bert().save_pretrained(tmp_path)
            settings = ARCHITECTURES[size].settings()
            settings.text_encoder_type = str(tmp_path)
            expected = build_model(settings).state_dict()
            found = build(ARCHITECTURES[size], tiny_bert()).state_dict()
        assert {name: each.shape for name, each in found.items()} == {
            name: each.shape for name, each in expected.items()
        }
