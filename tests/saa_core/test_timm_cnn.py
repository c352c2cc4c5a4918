"""Features of timm's CNNs: against timm's own features, at every setting; and weights from files, good and bad."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import timm
import torch

from saa_core.errors import CheckpointError, SettingsError
from saa_core.features.timm_cnn import TimmCnn
from saa_core.prompts import SaliencyPrompt
from saa_core.runtime import Compute
from saa_core.types import RGB, FloatMap
from tests.contracts.extractor import FeatureExtractorContract
from tests.contracts.images import noise

SMALL = "test_resnet"
"""timm's own network for tests: 0.5 M parameters, a ResNet in all its parts."""


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file of the user's caches is found, and none is written."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "TORCH_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def network(name: str = SMALL, seed: int = 0) -> Any:
    """A network at random weights, with batch statistics that are not the identity."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = timm.create_model(name, pretrained=False)
        for module in made.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
    return made


def cnn(name: str = SMALL, **settings: Any) -> TimmCnn:
    return TimmCnn(network(name), name, "0" * 64, settings.pop("compute", Compute()), **settings)


def plain(name: str, state: dict[str, Any], image: RGB, side: int, indices: tuple[int, ...]) -> FloatMap:
    """The released program's way with an independent network: timm's features at positions `indices`, joined."""
    own = timm.create_model(name, features_only=True, out_indices=indices, pretrained=False)
    # Feature networks of timm hold the same tensors, some under names with "_" for ".".
    values = {key.replace(".", "_"): value for key, value in state.items()}
    own.load_state_dict({key: values[key.replace(".", "_")] for key in own.state_dict()})
    mean, std = (torch.tensor(own.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    pixels = cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)
    with torch.no_grad():
        stages = own.eval()(((torch.from_numpy(pixels).permute(2, 0, 1) / 255 - mean) / std)[None])
        size = stages[0].shape[-2:]
        wide = [torch.nn.functional.interpolate(stage, size=size, mode="nearest") for stage in stages]
        return np.asarray(torch.nn.functional.normalize(torch.cat(wide, 1), dim=1)[0].permute(1, 2, 0).numpy())


def saved(folder: Path, state: dict[str, Any], name: str = "weights.pt") -> Path:
    torch.save(state, folder / name)
    return folder / name


def without(state: dict[str, Any], *beginnings: str) -> dict[str, Any]:
    return {key: value for key, value in state.items() if not key.startswith(beginnings)}


class TestTimmCnnIsAnExtractor(FeatureExtractorContract):
    @pytest.fixture
    def extractor(self) -> TimmCnn:
        return cnn(side=96)


class TestFeatures:
    @pytest.mark.parametrize(
        ("name", "indices"),
        [
            ("resnet18", (1, 2, 3)),
            ("mobilenetv3_small_050", (1, 2, 3)),
            ("test_efficientnet", (1, 2, 3)),
            ("convnext_atto", (0, 1, 2)),
        ],
    )
    def test_they_are_those_of_timm(self, name: str, indices: tuple[int, ...]) -> None:
        image, extractor = noise((70, 90)), cnn(name, side=96)
        features = extractor(image)
        assert features.shape[:2] == (24, 24)
        expected = plain(name, extractor.backbone.state_dict(), image, 96, indices)
        np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("stages", [(1,), (3,), (2, 4), (1, 2, 3, 4)])
    @pytest.mark.parametrize("side", [32, 101, 160])
    def test_of_other_stages_and_sides(self, side: int, stages: tuple[int, ...]) -> None:
        image, extractor = noise((70, 90)), cnn()
        chosen = extractor.at(SaliencyPrompt(input=side, stages=stages), 1)
        expected = plain(SMALL, extractor.backbone.state_dict(), image, side, stages)
        np.testing.assert_allclose(chosen(image), expected, rtol=0, atol=1e-5)

    def test_every_cell_is_of_unit_length(self) -> None:
        lengths = np.linalg.norm(cnn()(noise((64, 64))), axis=-1)
        np.testing.assert_allclose(lengths, 1, atol=1e-5)

    def test_a_network_without_response_gives_zeros(self) -> None:
        silent = network()
        for value in silent.state_dict().values():
            value.zero_()
        assert not TimmCnn(silent, SMALL, "", Compute())(noise((20, 20))).any()

    @pytest.mark.parametrize("shape", [(1, 1), (3, 500), (500, 3), (1, 40)])
    def test_the_image_is_seen_whole_whatever_its_proportions(self, shape: tuple[int, int]) -> None:
        image = noise(shape)
        before = image.copy()
        features = cnn(side=64)(image)
        assert features.shape == (16, 16, 272)
        assert np.isfinite(features).all()
        np.testing.assert_array_equal(image, before)

    def test_the_layout_of_the_pixels_in_memory_does_not_count(self) -> None:
        image, extractor = noise((50, 60)), cnn(side=64)
        np.testing.assert_array_equal(extractor(image[:, ::-1]), extractor(image[:, ::-1].copy()))
        np.testing.assert_array_equal(extractor(np.asfortranarray(image)), extractor(image))

    def test_an_image_of_the_right_size_is_taken_as_it_is(self) -> None:
        image, extractor = noise((64, 64)), cnn(side=64)
        expected = plain(SMALL, extractor.backbone.state_dict(), image, 64, (1, 2, 3))
        np.testing.assert_allclose(extractor(image), expected, rtol=0, atol=1e-5)

    def test_bfloat16_is_near(self) -> None:
        image = noise((64, 64))
        near = cnn(compute=Compute(precision="bfloat16"))(image)
        assert near.dtype == np.float32
        np.testing.assert_allclose(near, cnn()(image), atol=0.02)

    @pytest.mark.parametrize("stages", [(1, 2, 3), (2,)])
    def test_openvino_gives_the_same(self, tmp_path: Path, stages: tuple[int, ...]) -> None:
        image, prompt = noise((50, 60)), SaliencyPrompt(input=96, stages=stages)
        converted = cnn(compute=Compute(runtime="openvino", cache=tmp_path)).at(prompt, 1)
        np.testing.assert_allclose(converted(image), cnn().at(prompt, 1)(image), rtol=0, atol=1e-4)


class TestSettings:
    def test_what_a_bundle_leaves_open_is_as_in_the_released_program(self) -> None:
        extractor = cnn()
        assert extractor.at(SaliencyPrompt(), 1) is extractor
        assert (extractor.side, extractor.stages) == (256, (1, 2, 3))
        assert extractor.at(SaliencyPrompt(), 3).side == 1024
        assert extractor.at(SaliencyPrompt(input=320), 3).side == 320

    def test_equal_settings_are_one_object_over_one_network(self) -> None:
        extractor, prompt = cnn(), SaliencyPrompt(input=64, stages=(2, 3))
        chosen = extractor.at(prompt, 1)
        assert extractor.at(SaliencyPrompt(input=64, stages=(2, 3)), 5) is chosen
        assert chosen.at(SaliencyPrompt(), 1) is extractor
        assert chosen.backbone is extractor.backbone

    def test_threads_get_one_object(self) -> None:
        extractor = cnn()
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda _: extractor.at(SaliencyPrompt(input=96), 1), range(16)))
        assert len(set(map(id, made))) == 1

    def test_the_id_tells_whatever_changes_features(self) -> None:
        extractor = cnn()
        others = [
            extractor.at(SaliencyPrompt(input=320), 1),
            extractor.at(SaliencyPrompt(stages=(1, 2)), 1),
            cnn(compute=Compute(precision="bfloat16")),
            TimmCnn(network(), SMALL, "1" * 64, Compute()),
        ]
        ids = {extractor.id, *(other.id for other in others)}
        assert len(ids) == 5
        assert all(each.startswith(f"{SMALL}-") for each in ids)
        assert cnn().id == extractor.id

    @pytest.mark.parametrize("stages", [(5,), (1, 7), ()])
    def test_a_stage_that_is_not_there_is_named(self, stages: tuple[int, ...]) -> None:
        with pytest.raises(SettingsError, match=rf"{SMALL}: stages .* have 1, 2, 3, 4"):
            cnn(stages=stages)

    def test_a_network_with_too_few_stages_says_which_it_has(self) -> None:
        with pytest.raises(SettingsError, match=r"csatv2: stages 1 are asked for, .* have 2, 3, 4"):
            TimmCnn.load("csatv2", None, Compute())

    def test_a_network_of_one_input_size_is_refused(self) -> None:
        with pytest.raises(SettingsError, match=r"test_vit: takes images of one size only"):
            TimmCnn.load("test_vit", None, Compute())


class TestLoad:
    def test_a_state_of_a_file(self, tmp_path: Path) -> None:
        made = network()
        loaded = TimmCnn.load(f"{SMALL}:{saved(tmp_path, made.state_dict())}", None, Compute())
        image = noise((50, 60))
        assert loaded.name == SMALL
        np.testing.assert_array_equal(loaded(image), TimmCnn(made, SMALL, "", Compute())(image))

    def test_the_file_is_part_of_the_id_and_its_place_is_not(self, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        files = [
            saved(tmp_path, network().state_dict()),
            saved(tmp_path / "other", network().state_dict()),
            saved(tmp_path, network(seed=1).state_dict(), "second.pt"),
        ]
        first, moved, second = (TimmCnn.load(f"{SMALL}:{file}", None, Compute()).id for file in files)
        assert first == moved != second

    @pytest.mark.parametrize("suffix", ["pth", "safetensors"])
    def test_a_published_backbone_is_found_by_its_name(self, tmp_path: Path, suffix: str) -> None:
        save: Callable[..., None] = torch.save
        if suffix == "safetensors":
            from safetensors.torch import save_file as save

        made = network()
        save(made.state_dict(), tmp_path / f"{SMALL}.{suffix}")
        image = noise((50, 60))
        loaded = TimmCnn.load(SMALL, tmp_path, Compute())
        np.testing.assert_array_equal(loaded(image), TimmCnn(made, SMALL, "", Compute())(image))

    def test_absent_weights_say_what_to_put_where(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=rf"wide_resnet50_2\.safetensors.*Put it into {tmp_path}"):
            TimmCnn.load("wide_resnet50_2", tmp_path, Compute())

    def test_what_lies_behind_the_last_stage_may_be_absent(self, tmp_path: Path) -> None:
        state, image = network().state_dict(), noise((50, 60))
        whole = TimmCnn.load(f"{SMALL}:{saved(tmp_path, state)}", None, Compute())
        half = TimmCnn.load(f"{SMALL}:{saved(tmp_path, without(state, 'layer4', 'fc'), 'half.pt')}", None, Compute())
        np.testing.assert_array_equal(half(image), whole(image))
        last = SaliencyPrompt(stages=(4,))
        assert whole.at(last, 1)(image).shape == (8, 8, 96)
        with pytest.raises(SettingsError, match=r"stages 4 are asked for, .* have 1, 2, 3$"):
            half.at(last, 1)

    def test_an_old_state_without_counters_loses_no_stage(self, tmp_path: Path) -> None:
        state = {key: value for key, value in network().state_dict().items() if "num_batches" not in key}
        loaded = TimmCnn.load(f"{SMALL}:{saved(tmp_path, state)}", None, Compute())
        assert loaded.at(SaliencyPrompt(stages=(4,)), 1).stages == (4,)

    def test_missing_tensors_are_named(self, tmp_path: Path) -> None:
        file = saved(tmp_path, without(network().state_dict(), "layer2.0.conv1"))
        with pytest.raises(CheckpointError, match=rf"{SMALL}:.*weights\.pt: .* lacks layer2\.0\.conv1\.weight"):
            TimmCnn.load(f"{SMALL}:{file}", None, Compute())

    def test_weights_of_another_backbone_are_refused(self, tmp_path: Path) -> None:
        file = saved(tmp_path, network("resnet18").state_dict())
        with pytest.raises(CheckpointError, match=r"does not fit.* lacks conv1\.0\.weight.* has in another shape bn1"):
            TimmCnn.load(f"{SMALL}:{file}", None, Compute())

    def test_weights_of_a_deeper_one_with_all_the_right_names_too(self, tmp_path: Path) -> None:
        # Every tensor that ResNet-18 has is there in ResNet-34, and of the same shape.
        state = network("resnet18").state_dict()
        state["layer1.2.conv1.weight"] = state["layer1.1.conv1.weight"]
        with pytest.raises(CheckpointError, match=r"has besides layer1\.2\.conv1\.weight"):
            TimmCnn.load(f"resnet18:{saved(tmp_path, state)}", None, Compute())

    @pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04 cut short", b"neither"])
    def test_a_file_that_holds_no_weights(self, tmp_path: Path, content: bytes) -> None:
        file = tmp_path / "weights.pt"
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"weights\.pt"):
            TimmCnn.load(f"{SMALL}:{file}", None, Compute())

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"absent\.pt: cannot be read"):
            TimmCnn.load(f"{SMALL}:{tmp_path / 'absent.pt'}", None, Compute())

    @pytest.mark.parametrize(
        ("spec", "near"),
        [("wide_resnet50", "wide_resnet50_2"), ("resnet_18:weights.pt", "resnet18"), ("hf-hub:timm/resnet18", "")],
    )
    def test_an_unknown_backbone_is_refused_with_near_names(self, spec: str, near: str) -> None:
        with pytest.raises(CheckpointError, match=rf"no network of this name, did you mean .*{near}"):
            TimmCnn.load(spec, None, Compute())

    def test_squeezenet_is_no_network_of_timm(self) -> None:
        with pytest.raises(CheckpointError, match=r"^squeezenet1_0: timm knows no network of this name"):
            TimmCnn.load("squeezenet1_0:squeezenet1_0_dc.pt", None, Compute())

    def test_an_unknown_tag_is_refused_with_those_there_are(self) -> None:
        with pytest.raises(CheckpointError, match=r"resnet18\.unheard: .* resnet18\.a1_in1k"):
            TimmCnn.load("resnet18.unheard", None, Compute())

    def test_real_weights_that_end_with_the_third_stage(self, shared: Path) -> None:
        file = shared / "weights" / "resnet18_l1-3_dequant.pt"
        if not file.exists():
            pytest.skip("needs ../shared/weights, which is not part of the project")
        loaded, image = TimmCnn.load(f"resnet18:{file}", None, Compute()), noise((70, 90))
        expected = plain("resnet18", torch.load(file, weights_only=True), image, 256, (1, 2, 3))
        np.testing.assert_allclose(loaded(image), expected, rtol=0, atol=1e-5)
