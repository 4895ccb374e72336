"""Official weights are found, fetched, checked and fitted; a bad file is refused with one line."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path
from urllib.error import URLError

import pytest
import simplejpeg
import torch
from torch import Tensor

from kinet.errors import InputError
from kinet.models import zoo
from kinet.models.backbone import Backbone
from kinet.models.zoo import BACKBONES, OFFICIAL, build_backbone, hash_in_name, read_weights

MOBILENET_FILE = "mobilenet_v2-b0353104.pth"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch hub's folder of weights, empty, with no way to the network."""

    def no_network(url: str, *_: object, **__: object) -> None:
        raise URLError("no network in tests")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def refusal(name: str, weights: str | Path) -> str:
    """The one line with which ``weights`` are refused."""
    with pytest.raises(InputError) as caught:
        build_backbone(name, weights=str(weights))
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def save(state: object, path: Path, **arguments: bool) -> Path:
    torch.save(state, path, **arguments)
    return path


def with_hash(path: Path) -> Path:
    """The same file under a name that carries its hash, as torch hub has it."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path.rename(path.with_stem(f"{path.stem}-{digest[:8]}"))


def same(network: Backbone, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())


# What the official MobileNetV2 sees, with this package's normalisation


def mean_probability(network: Backbone, folder: Path) -> Tensor:
    """ImageNet probabilities (1000,), averaged over the first frame of 24 clips."""
    clips = sorted(folder.iterdir())[:24]
    frames = [torch.from_numpy(simplejpeg.decode_jpeg((c / "frame_00.jpg").read_bytes())) for c in clips]
    images = torch.stack(frames).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (network.mean, network.std))
    with torch.no_grad():
        return network((images - mean) / std).softmax(1).mean(0)


def test_official_mobilenet_recognises_real_frames(shared: Path, cache: Path) -> None:
    """Measured: 0.36 on golf frames, 0.27 on archery. With BGR 0.08 and 0.18, without mean and std 0.04 and 0.14."""
    shutil.copy(shared / "weights" / MOBILENET_FILE, cache)
    network = build_backbone("mobilenet_v2", weights="imagenet").eval()
    golf = mean_probability(network, shared / "data" / "hmdb25" / "golf")
    assert set(golf.topk(2).indices.tolist()) == {522, 574}  # croquet ball, golf ball
    assert golf[[522, 574]].sum() > 0.3
    archery = mean_probability(network, shared / "data" / "hmdb25" / "shoot_bow")
    assert archery.argmax() == 456  # bow
    assert archery[456] > 0.24


# Where official files come from


def test_every_official_file_carries_its_hash() -> None:
    assert set(OFFICIAL) == set(BACKBONES) - {"resnet200", "resnet10_narrow"}
    for addresses in OFFICIAL.values():
        assert "imagenet" in addresses
        for url in addresses.values():
            assert hash_in_name(Path(url.rsplit("/", 1)[1])), url


def test_fetches_into_the_cache_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "server").mkdir()
    state = build_backbone("resnet18").state_dict()
    official = with_hash(save(state, tmp_path / "server" / "resnet18.pth"))
    monkeypatch.setitem(OFFICIAL, "resnet18", {"imagenet": official.as_uri()})
    assert same(build_backbone("resnet18", weights="imagenet"), state)
    official.unlink()
    assert same(build_backbone("resnet18", weights="imagenet"), state)
    assert [p.name for p in (tmp_path / "torch/hub/checkpoints").iterdir()] == [official.name]


def test_a_download_that_is_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    other = tmp_path / "resnet18-00000000.pth"
    other.write_bytes(b"<html>proxy login</html>")
    monkeypatch.setitem(OFFICIAL, "resnet18", {"imagenet": other.as_uri()})
    assert "invalid hash" in refusal("resnet18", "imagenet")
    assert list((tmp_path / "torch/hub/checkpoints").iterdir()) == []


def test_no_network_says_what_to_fetch_and_where_to_put_it(cache: Path) -> None:
    message = refusal("resnet50", "imagenet")
    assert "https://download.pytorch.org/models/resnet50-0676ba61.pth" in message
    assert str(cache / "resnet50-0676ba61.pth") in message
    assert "resnet50-11ad3fa6.pth" in refusal("resnet50", "imagenet_v2")


def test_a_damaged_file_in_the_cache(cache: Path) -> None:
    (cache / "resnet18-f37072fd.pth").write_bytes(b"half of it")
    message = refusal("resnet18", "imagenet")
    assert "SHA-256" in message
    assert str(cache / "resnet18-f37072fd.pth") in message


def test_weights_that_there_are_not(tmp_path: Path) -> None:
    assert "no official file 'imagenet'" in refusal("resnet200", "imagenet")
    assert "'none', 'imagenet' or the path" in refusal("resnet18", "imagenet_v2")
    assert "gone.pth" in refusal("resnet18", tmp_path / "gone.pth")
    assert "no file" in refusal("resnet18", tmp_path)


def test_unknown_names_and_widths() -> None:
    with pytest.raises(InputError, match="nearest is 'resnet50'"):
        build_backbone("resnet-50")
    for width in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(InputError, match="inner_width"):
            build_backbone("resnet18", inner_width=width)


# Files that the user names


@pytest.mark.parametrize("form", ["plain", "wrapped", "parallel", "legacy", "no_counters", "hash"])
def test_a_file_by_path(form: str, tmp_path: Path) -> None:
    state = build_backbone("mobilenet_v2").state_dict()
    content: object = state
    if form == "wrapped":
        content = {"state_dict": state, "epoch": 3}
    if form == "parallel":
        content = {f"module.{key}": tensor for key, tensor in state.items()}
    if form == "no_counters":  # files from before PyTorch 0.4.1
        content = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    path = save(content, tmp_path / "own.pth", _use_new_zipfile_serialization=form != "legacy")
    assert same(build_backbone("mobilenet_v2", weights=str(with_hash(path) if form == "hash" else path)), state)


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (str(self.path), os.O_CREAT)


@pytest.mark.parametrize("new", [True, False])
def test_code_in_a_file_is_not_run(new: bool, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    path = save({"fc.weight": Trap(mark)}, tmp_path / "trap.pth", _use_new_zipfile_serialization=new)
    message = refusal("resnet18", path)
    assert "posix.open" in message
    assert not mark.exists()


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    whole = save({"fc.weight": torch.ones(3)}, tmp_path / "whole.pth").read_bytes()
    for content in (b"", b"x", b"hello world\n", b"<html>not found</html>", whole[:50], whole[: len(whole) // 2]):
        path = tmp_path / "bad.pth"
        path.write_bytes(content)
        assert str(path) in refusal("resnet18", path)
    assert "holds a Tensor" in refusal("resnet18", save(torch.ones(2), tmp_path / "tensor.pth"))
    assert "'epoch' is a int" in refusal("resnet18", save({"epoch": 3}, tmp_path / "other.pth"))


def test_a_wrong_hash_in_the_name(tmp_path: Path) -> None:
    path = save(build_backbone("mobilenet_v2").state_dict(), tmp_path / "mobilenet_v2-b0353104.pth")
    assert "SHA-256" in refusal("mobilenet_v2", path)


def test_a_file_of_another_architecture(tmp_path: Path) -> None:
    path = save(build_backbone("resnet34").state_dict(), tmp_path / "resnet34.pth")
    message = refusal("resnet18", path)  # has all of resnet18's tensors, and more
    assert "resnet18" in message
    assert "layer1.2.conv1.weight is not in the network; 0 missing, 96 unexpected, 0 of another shape" in message
    message = refusal("resnet50", path)
    assert "layer1.0.conv1.weight is (64, 64, 3, 3) in the file, (64, 64, 1, 1) in the network" in message
    assert "conv1_7x7_s2.weight is not in the file" in refusal("bn_inception", path)


def test_narrow_backbones_take_the_leading_channels(tmp_path: Path) -> None:
    state = build_backbone("resnet18").state_dict()
    path = save(state, tmp_path / "full.pth")
    narrow = build_backbone("resnet18", weights=str(path), inner_width=0.5).state_dict()
    assert torch.equal(narrow["layer3.1.conv1.weight"], state["layer3.1.conv1.weight"][:128])
    assert torch.equal(narrow["layer3.1.conv2.weight"], state["layer3.1.conv2.weight"][:, :128])
    assert torch.equal(narrow["fc.weight"], state["fc.weight"])
    other = save(build_backbone("resnet34").state_dict(), tmp_path / "deeper.pth")
    with pytest.raises(InputError, match="96 unexpected"):  # slicing does not hide another architecture
        build_backbone("resnet18", weights=str(other), inner_width=0.5)


# What is particular to single files


def test_inception_v3_leaves_the_auxiliary_classifier_out(tmp_path: Path) -> None:
    state = build_backbone("inception_v3").state_dict()
    extra = {"AuxLogits.conv0.conv.weight": torch.ones(128, 768, 1, 1), "AuxLogits.fc.bias": torch.ones(1000)}
    path = save({**state, **extra}, tmp_path / "google.pth")
    assert same(build_backbone("inception_v3", weights=str(path)), state)


def test_bn_inception_reads_rgb_with_weights_made_for_bgr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published network on BGR in 0..255 less (104, 117, 128) and ours on normalised RGB give the same."""
    published = build_backbone("bn_inception").eval()  # its weights, read as if they were the published ones
    rows = {k: v[None] if "_bn." in k and v.ndim == 1 else v for k, v in published.state_dict().items()}
    path = with_hash(save(rows, tmp_path / "bn_inception.pth"))
    own = build_backbone("bn_inception", weights=str(path)).eval()
    assert same(own, published.state_dict())  # another file than the published one reads RGB
    monkeypatch.setattr(zoo, "BGR_FILES", (hash_in_name(path),))
    official = build_backbone("bn_inception", weights=str(path)).eval()

    rgb = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (official.mean, official.std))
    bgr = (rgb * 255).flip(1) - torch.tensor([104.0, 117.0, 128.0]).view(3, 1, 1)
    with torch.no_grad():
        expected, wrong = published(bgr), own((rgb - mean) / std)
        spread = expected.std().item()
        torch.testing.assert_close(official((rgb - mean) / std), expected, rtol=0, atol=1e-3 * spread)
    assert (wrong - expected).abs().max() > 0.1 * spread


def test_read_weights_names_the_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.pth"):
        read_weights(tmp_path / "gone.pth")


def test_densenets_old_names_are_renewed(tmp_path: Path) -> None:
    """torchvision's densenet121-a639ec97.pth was written when a layer's parts were called norm.1, conv.2 ..."""
    network = build_backbone("densenet121")
    state = network.state_dict()
    layer = re.compile(r"(denselayer\d+\.(?:norm|conv))([12])")
    old = {layer.sub(r"\1.\2", key): value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    assert not set(old) & {"features.denseblock1.denselayer1.norm1.weight"}
    loaded = build_backbone("densenet121", weights=str(save(old, tmp_path / "old.pth")))
    assert same(loaded, state)
