"""Files of weights: where they are found, which are refused and why, and that nothing in them is executed."""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from saa_core.checkpoints import (
    CHECKPOINTS,
    Checkpoint,
    check_keys,
    find,
    hugging_face_cache,
    load_state,
    require,
    timm_checkpoint,
    torch_hub_cache,
    verify,
)
from saa_core.errors import CheckpointError

CONTENT = b"not really weights, but bytes"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
VARIABLES = ("TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder, empty."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def tiny(**fields: Any) -> Checkpoint:
    given = {
        "name": "tiny",
        "file": "tiny.pth",
        "url": "https://weights.test/tiny.pth",
        "licence": "MIT",
        "source": "Tiny (nobody, 2024)",
        "size": len(CONTENT),
        "sha256": DIGEST,
        "hubs": ("someone/tiny",),
    }
    return Checkpoint(**{**given, **fields})


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(CheckpointError) as caught:
        call()
    return str(caught.value)


class TestTheTable:
    @pytest.mark.parametrize("each", CHECKPOINTS.values(), ids=CHECKPOINTS)
    def test_every_file_can_be_fetched_and_told_from_others(self, each: Checkpoint) -> None:
        assert CHECKPOINTS[each.name] is each
        assert each.url.startswith("https://")
        assert each.url.endswith(f"/{each.hub_file or each.file}")
        assert re.fullmatch(r"[0-9a-f]{64}", each.sha256 or "")
        assert (each.size or 0) > 0

    def test_the_tokenizer_is_the_one_that_lies_in_shared(self, shared: Path, tmp_path: Path) -> None:
        vocabulary = (shared / "weights" / "bert-base-uncased-vocab.txt").read_bytes()
        folder = put(tmp_path / "bert-base-uncased" / "vocab.txt", vocabulary).parent
        bert = CHECKPOINTS["bert-base-uncased"]
        assert find(bert, tmp_path) == folder
        assert verify(bert, folder) == bert.sha256

    @pytest.mark.parametrize("name", ["wide_resnet50_2", "wide_resnet50_2.racm_in1k"])
    def test_the_default_backbone_needs_no_timm(self, name: str) -> None:
        assert timm_checkpoint(name) is CHECKPOINTS["wide_resnet50_2"]


@pytest.mark.slow
class TestWhatTimmSays:
    def test_what_is_said_of_the_default_backbone_is_what_timm_says(self) -> None:
        from timm.models import get_pretrained_cfg

        ours, theirs = CHECKPOINTS["wide_resnet50_2"], get_pretrained_cfg("wide_resnet50_2")
        assert (theirs.hf_hub_id,) == ours.hubs
        assert theirs.url.rsplit("/", 1)[1] in ours.others

    def test_another_backbone_is_described_by_timm(self) -> None:
        plain, tagged = timm_checkpoint("resnet18"), timm_checkpoint("resnet18.tv_in1k")
        assert (plain.file, plain.hubs, plain.size, plain.sha256) == (
            "resnet18.safetensors",
            ("timm/resnet18.a1_in1k",),
            None,
            None,
        )
        assert plain.url == "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors"
        assert plain.others == ("resnet18.pth", "resnet18_a1_0-d63eafa0.pth")
        assert tagged.hubs == ("timm/resnet18.tv_in1k",)
        assert tagged.file == "resnet18.tv_in1k.safetensors"

    @pytest.mark.parametrize("name", ["resnet18000", "resnet18.no_such_tag"])
    def test_a_backbone_that_timm_does_not_know_is_refused(self, name: str) -> None:
        assert f"{name}: timm knows no network of this name" in reason(lambda: timm_checkpoint(name))

    def test_a_backbone_without_weights_is_refused(self) -> None:
        assert "no weights for it" in reason(lambda: timm_checkpoint("coatnet_0_224"))


class TestFinding:
    def test_the_users_folder_goes_before_torch_hub_and_that_before_hugging_face(self, tmp_path: Path) -> None:
        snapshots = hugging_face_cache() / "models--someone--tiny" / "snapshots"
        places = [tmp_path / "weights", torch_hub_cache(), snapshots / "0a1b"]
        files = [put(place / "tiny.pth") for place in places]
        for file in files:
            assert find(tiny(), tmp_path / "weights") == file
            file.unlink()

    def test_without_a_folder_of_the_user_only_the_caches_count(self, tmp_path: Path) -> None:
        put(tmp_path / "weights" / "tiny.pth")
        cached = put(torch_hub_cache() / "tiny.pth")
        assert find(tiny(), None) == cached

    @pytest.mark.parametrize(
        ("variable", "where"),
        [
            ("TORCH_HOME", "hub/checkpoints/tiny.pth"),
            ("XDG_CACHE_HOME", "torch/hub/checkpoints/tiny.pth"),
            ("HOME", ".cache/torch/hub/checkpoints/tiny.pth"),
            ("HF_HUB_CACHE", "models--someone--tiny/snapshots/0a1b/tiny.pth"),
            ("HF_HOME", "hub/models--someone--tiny/snapshots/0a1b/tiny.pth"),
            ("XDG_CACHE_HOME", "huggingface/hub/models--someone--tiny/snapshots/0a1b/tiny.pth"),
            ("HOME", ".cache/huggingface/hub/models--someone--tiny/snapshots/0a1b/tiny.pth"),
        ],
    )
    def test_the_caches_lie_where_the_variables_of_their_libraries_say(
        self, variable: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if variable == "HOME":
            monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv(variable, str(tmp_path / "elsewhere"))
        file = put(tmp_path / "elsewhere" / where)
        assert find(tiny(), None) == file

    def test_the_cache_of_torch_hub_is_where_torch_looks(self) -> None:
        import torch

        assert str(torch_hub_cache().parent) == torch.hub.get_dir()

    def test_the_cache_of_hugging_face_is_where_its_library_looks(self) -> None:
        code = "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == str(hugging_face_cache())

    def test_of_several_revisions_the_one_of_the_main_branch_is_taken(self) -> None:
        repository = hugging_face_cache() / "models--someone--tiny"
        files = [put(repository / "snapshots" / revision / "tiny.pth") for revision in ("0a", "1b", "2c")]
        assert find(tiny(), None) == files[0]
        put(repository / "refs" / "main", b"1b")
        assert find(tiny(), None) == files[1]
        files[1].unlink()
        assert find(tiny(), None) == files[0]

    def test_a_link_to_a_file_that_is_gone_is_no_file(self, tmp_path: Path) -> None:
        (tmp_path / "tiny.pth").symlink_to(tmp_path / "gone")
        cached = put(torch_hub_cache() / "tiny.pth")
        assert find(tiny(), tmp_path) == cached

    def test_a_folder_is_found_by_the_file_that_it_must_hold(self, tmp_path: Path) -> None:
        words = tiny(name="words", file="vocab.txt", folder=True)
        (tmp_path / "words").mkdir()
        snapshot = put(hugging_face_cache() / "models--someone--tiny" / "snapshots" / "0a" / "vocab.txt").parent
        assert find(words, tmp_path) == snapshot
        put(tmp_path / "words" / "vocab.txt")
        assert find(words, tmp_path) == tmp_path / "words"

    def test_a_network_of_timm_is_found_under_each_of_its_names(self, tmp_path: Path) -> None:
        backbone = CHECKPOINTS["wide_resnet50_2"]
        hub = hugging_face_cache() / "models--timm--wide_resnet50_2.racm_in1k" / "snapshots" / "30f7"
        files = [
            put(tmp_path / "wide_resnet50_2.safetensors"),
            put(tmp_path / "wide_resnet50_2.pth"),
            put(torch_hub_cache() / "wide_resnet50_racm-8234f177.pth"),
            put(hub / "model.safetensors"),
        ]
        for file in files:
            assert find(backbone, tmp_path) == file
            file.unlink()

    def test_what_is_absent_is_named_with_all_that_helps(self, tmp_path: Path) -> None:
        said = reason(lambda: find(CHECKPOINTS["groundingdino-swint-ogc"], tmp_path / "weights"))
        assert "\n" not in said
        assert said.startswith("groundingdino_swint_ogc.pth: not found in ")
        assert "(694 MB, Grounding DINO Swin-T OGC" in said
        assert CHECKPOINTS["groundingdino-swint-ogc"].url in said
        repository = hugging_face_cache() / "models--ShilongLiu--GroundingDINO"
        assert f"not found in {tmp_path / 'weights'}, {torch_hub_cache()}, {repository}." in said
        assert said.endswith(f"Put it into {tmp_path / 'weights'}, or run `saa doctor --download`")

    def test_several_absent_files_make_one_error(self, tmp_path: Path) -> None:
        names = ["sam-vit-b", "bert-base-uncased", "wide_resnet50_2"]
        put(tmp_path / "sam_vit_b_01ec64.pth")
        said = reason(lambda: require([CHECKPOINTS[name] for name in names], tmp_path))
        assert said.startswith("bert-base-uncased/vocab.txt, wide_resnet50_2.safetensors: not found in ")
        assert said.count(str(torch_hub_cache())) == 1
        assert "sam_vit_b" not in said

    def test_several_files_are_found_by_name(self, tmp_path: Path) -> None:
        first, second = put(tmp_path / "tiny.pth"), put(torch_hub_cache() / "other.pth")
        both = [tiny(), tiny(name="other", file="other.pth")]
        assert require(both, tmp_path) == {"tiny": first, "other": second}

    @pytest.mark.parametrize("folder", [Path("/does/not/exist"), Path("/" + "long" * 100)], ids=["gone", "too long"])
    def test_a_folder_that_cannot_be_looked_into_is_named(self, folder: Path) -> None:
        assert f"not found in {folder}, " in reason(lambda: find(tiny(), folder))


class TestVerifying:
    @pytest.mark.parametrize("known", [DIGEST, DIGEST[:6], None])
    def test_the_right_file_gives_its_digest(self, known: str | None, tmp_path: Path) -> None:
        assert verify(tiny(sha256=known), put(tmp_path / "tiny.pth")) == DIGEST

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (CONTENT[:-1], f"is cut short: {len(CONTENT) - 1} of {len(CONTENT)} bytes; delete it and run `saa doctor"),
            (CONTENT + b"!", f"is not the published file: it has {len(CONTENT) + 1} bytes instead of {len(CONTENT)}"),
            (CONTENT[:-1] + b"!", f"instead of {DIGEST}; delete it"),
            (b"", "is empty"),
            (b"\n <!DOCTYPE html><title>Log in</title>", "is a web page, saved instead of the weights"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "is a Git LFS pointer"),
        ],
    )
    def test_another_file_is_refused_by_name(self, content: bytes, said: str, tmp_path: Path) -> None:
        file = put(tmp_path / "tiny.pth", content)
        refused = reason(lambda: verify(tiny(), file))
        assert refused.startswith(f"{file}: ")
        assert said in refused

    def test_a_wrong_prefix_is_refused(self, tmp_path: Path) -> None:
        file = put(tmp_path / "tiny.pth")
        assert "instead of 0123456" in reason(lambda: verify(tiny(sha256="0123456"), file))

    def test_a_file_that_is_gone_is_named(self, tmp_path: Path) -> None:
        assert "tiny.pth: cannot be read: No such file" in reason(lambda: verify(tiny(), tmp_path / "tiny.pth"))

    def test_another_format_is_held_to_the_digits_in_its_name_alone(self, tmp_path: Path) -> None:
        right, wrong, plain = f"tiny-{DIGEST[:8]}.pth", "tiny-01234567.pth", "tiny.bin"
        checkpoint = tiny(file="tiny.safetensors", size=7, sha256="0" * 64, others=(right, wrong, plain))
        assert verify(checkpoint, put(tmp_path / right)) == DIGEST
        assert verify(checkpoint, put(tmp_path / plain)) == DIGEST
        file = put(tmp_path / wrong)
        assert "instead of 01234567" in reason(lambda: verify(checkpoint, file))

    def test_a_file_is_read_once(self, tmp_path: Path) -> None:
        file = put(tmp_path / "tiny.pth")
        before = file.stat()
        assert verify(tiny(), file) == DIGEST
        # Other bytes that look untouched from outside: who reads them sees it.
        file.write_bytes(CONTENT[:-1] + b"!")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert verify(tiny(), file) == DIGEST
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        assert "is not the published file" in reason(lambda: verify(tiny(), file))

    def test_what_is_remembered_of_one_file_stays_when_another_comes(self, tmp_path: Path, cache: Path) -> None:
        for name in ("one.pth", "two.pth", "one.pth"):
            verify(tiny(), tmp_path / name if (tmp_path / name).exists() else put(tmp_path / name))
        assert list(json.loads((cache / "saa" / "digests.json").read_bytes())) == [
            str(tmp_path / "one.pth"),
            str(tmp_path / "two.pth"),
        ]

    @pytest.mark.parametrize("damage", ["{", "[]", '{"FILE": 3}', '{"FILE": [SIZE, TIME, "abc"]}', "\0\xff"])
    def test_a_damaged_memory_is_ignored_and_mended(self, damage: str, tmp_path: Path, cache: Path) -> None:
        file = put(tmp_path / "tiny.pth")
        status = file.stat()
        written = damage.replace("FILE", str(file)).replace("SIZE", str(status.st_size))
        memory = put(cache / "saa" / "digests.json", written.replace("TIME", str(status.st_mtime_ns)).encode("latin-1"))
        assert verify(tiny(), file) == DIGEST
        assert json.loads(memory.read_bytes()) == {str(file): [status.st_size, status.st_mtime_ns, DIGEST]}

    def test_without_a_place_for_the_memory_all_works(self, tmp_path: Path, cache: Path) -> None:
        put(cache, b"a file where the folder should be")
        assert verify(tiny(), put(tmp_path / "tiny.pth")) == DIGEST


class Trap:
    """Makes a folder when a careless unpickler meets it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.marker),)


class TestLoading:
    @pytest.fixture
    def weights(self) -> dict[str, Any]:
        import torch

        torch.manual_seed(0)
        return {"body.weight": torch.randn(3, 4), "body.bias": torch.randn(3)}

    @staticmethod
    def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
        import torch

        return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)

    @pytest.mark.parametrize("zipped", [True, False])
    def test_what_torch_saved_comes_back(self, zipped: bool, weights: dict[str, Any], tmp_path: Path) -> None:
        import torch

        torch.save(weights, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        assert self.same(load_state(tmp_path / "w.pth"), weights)

    def test_what_safetensors_saved_comes_back(self, weights: dict[str, Any], tmp_path: Path) -> None:
        from safetensors.torch import save_file

        save_file(weights, tmp_path / "w.safetensors")
        assert self.same(load_state(tmp_path / "w.safetensors"), weights)

    @pytest.mark.parametrize("wrapping", ["model", "state_dict"])
    def test_wrapping_and_prefix_are_taken_off(self, wrapping: str, weights: dict[str, Any], tmp_path: Path) -> None:
        import torch

        prefixed = OrderedDict((f"module.{name}", value) for name, value in weights.items())
        torch.save({wrapping: prefixed, "epoch": 12}, tmp_path / "w.pth")
        assert self.same(load_state(tmp_path / "w.pth"), weights)

    @pytest.mark.parametrize("zipped", [True, False])
    def test_code_in_a_file_is_named_and_not_executed(self, zipped: bool, tmp_path: Path) -> None:
        import torch

        file, marker = tmp_path / "w.pth", tmp_path / "executed"
        content = {"weight": torch.zeros(2), "more": Trap(marker)}
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        said = reason(lambda: load_state(file))
        assert said == f"{file}: holds more than weights (posix.mkdir); nothing in it was executed"
        assert not marker.exists()
        # The trap works: this is what a reader without that limit does.
        torch.load(file, weights_only=False)
        assert marker.exists()

    def test_objects_beside_the_weights_are_named(self, weights: dict[str, Any], tmp_path: Path) -> None:
        import torch

        torch.save({"model": weights, "args": argparse.Namespace(lr=0.1)}, tmp_path / "w.pth")
        assert "holds more than weights (argparse.Namespace)" in reason(lambda: load_state(tmp_path / "w.pth"))

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("w.pth", b"", "is empty"),
            ("w.safetensors", b"", "is empty"),
            ("w.pth", b"<html><body>404</body></html>", "is a web page"),
            ("w.safetensors", b"<!doctype html>", "is a web page"),
            ("w.pth", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
            ("w.pth", bytes(range(1, 250)), "nothing in it was executed"),
            ("w.pth", b"hello world, hello world", "cannot be read as weights"),
            ("w.safetensors", bytes(range(1, 250)), "is damaged"),
        ],
    )
    def test_what_is_no_file_of_weights_is_refused(self, name: str, content: bytes, said: str, tmp_path: Path) -> None:
        file = put(tmp_path / name, content)
        refused = reason(lambda: load_state(file))
        assert refused.startswith(f"{file}: ")
        assert said in refused

    @pytest.mark.parametrize(("zipped", "said"), [(True, "is cut short"), (False, "cannot be read as weights")])
    def test_half_a_file_is_refused(self, zipped: bool, said: str, tmp_path: Path) -> None:
        import torch

        file = tmp_path / "w.pth"
        torch.save({"weight": torch.zeros(5000)}, file, _use_new_zipfile_serialization=zipped)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        assert said in reason(lambda: load_state(file))

    def test_half_a_safetensors_file_is_refused(self, weights: dict[str, Any], tmp_path: Path) -> None:
        from safetensors.torch import save_file

        file = tmp_path / "w.safetensors"
        save_file(weights, file)
        file.write_bytes(file.read_bytes()[:-1])
        assert "is damaged" in reason(lambda: load_state(file))

    def test_a_program_of_torchscript_is_refused(self, tmp_path: Path) -> None:
        import zipfile

        with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
            for part in ("data.pkl", "constants.pkl", "version", "code/__torch__.py"):
                archive.writestr(f"w/{part}", "3\n")
        assert "cannot be read as weights" in reason(lambda: load_state(tmp_path / "w.pth"))

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ([1, 2], "holds no weights: a list"),
            ({}, "holds no weights: a dict"),
            ({"model": {}}, "holds no weights: a dict"),
            ({"epoch": 3}, "holds no weights under 'epoch', but a int"),
            ({3: 4}, "holds no weights under 3, but a int"),
        ],
    )
    def test_what_is_not_names_with_tensors_is_refused(self, content: object, said: str, tmp_path: Path) -> None:
        import torch

        torch.save(content, tmp_path / "w.pth")
        assert said in reason(lambda: load_state(tmp_path / "w.pth"))

    @pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
    def test_a_file_that_is_gone_is_named(self, name: str, tmp_path: Path) -> None:
        assert f"{name}: cannot be read: No such file" in reason(lambda: load_state(tmp_path / name))


class TestFitting:
    @pytest.fixture
    def model(self) -> Any:
        import torch

        torch.manual_seed(0)
        return torch.nn.Sequential(OrderedDict(body=torch.nn.Linear(4, 3), head=torch.nn.Linear(3, 2)))

    @pytest.fixture
    def state(self) -> dict[str, Any]:
        import torch

        shapes = {"body.weight": (3, 4), "body.bias": (3,), "head.weight": (2, 3), "head.bias": (2,)}
        return {name: torch.full(shape, 7.0) for name, shape in shapes.items()}

    def test_a_state_that_fits_is_loaded(self, model: Any, state: dict[str, Any]) -> None:
        check_keys("w.pth", model, state)
        assert all(bool((value == 7).all()) for value in model.state_dict().values())

    def test_missing_tensors_are_refused_unless_they_may_be_missing(self, model: Any, state: dict[str, Any]) -> None:
        body = {name: value for name, value in state.items() if name.startswith("body")}
        said = reason(lambda: check_keys("w.pth", model, body))
        assert said == "w.pth: does not fit Sequential: it lacks head.weight, head.bias"
        check_keys("w.pth", model, body, allowed_missing=("head.",))
        assert bool((model.body.weight == 7).all())
        assert not bool((model.head.weight == 7).any())

    def test_other_tensors_are_refused_unless_they_are_allowed(self, model: Any, state: dict[str, Any]) -> None:
        more = {**state, **{f"tail.{number}": state["body.bias"] for number in range(5)}}
        said = reason(lambda: check_keys("w.pth", model, more))
        assert said.endswith("it has besides tail.0, tail.1, tail.2 and 2 more")
        check_keys("w.pth", model, more, allowed_unexpected=("label.", "tail."))
        check_keys("w.pth", model, more, allowed_unexpected=("",))

    def test_another_shape_is_refused_and_the_model_stays(self, model: Any, state: dict[str, Any]) -> None:
        import torch

        before = {name: value.clone() for name, value in model.state_dict().items()}
        wrong = {**state, "head.weight": torch.zeros(5, 3)}
        said = reason(lambda: check_keys("w.pth", model, wrong, ("head.",), ("",)))
        assert said == "w.pth: does not fit Sequential: it has in another shape head.weight (5, 3) for (2, 3)"
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
