"""Models by name and weights from files: what is accepted, and the sentence for what is not."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from distil.errors import DistilError
from distil.models import GCN, MLP, CifarResNet, SmallCNN, load_model, load_weights, summary

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")


def test_timm_and_torchvision_by_name() -> None:
    model = load_model("timm:resnet10t", classes=7, channels=1)
    assert model.eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 7)
    model = load_model("torchvision:squeezenet1_1", classes=7)
    assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    model = load_model("timm:resnet10t(drop_rate=0.25)", classes=2)
    assert model.drop_rate == 0.25


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("timm:resnet5", "'resnet50'"),
        ("torchvision:resnet19", "'resnet18'"),
        ("distil:mpl", "'mlp'"),
        ("distil:resnet21x", "'resnet2"),
        ("resnet50", "write timm:resnet50"),
        ("tim:resnet50", "'timm'"),
    ],
)
def test_unknown_names_list_the_nearest(spec: str, hint: str) -> None:
    with pytest.raises(DistilError) as caught:
        load_model(spec)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "argument"),
    [
        ("timm:mixer_s32_224(patch_size=4)", "patch_size"),
        ("timm:efficientnet_b0(channel_multiplier=4)", "channel_multiplier"),
        ("torchvision:vit_b_16(patch_size=4)", "patch_size"),
    ],
)
def test_an_argument_that_a_name_fixes_is_said_to_be_fixed(spec: str, argument: str) -> None:
    with pytest.raises(DistilError, match=f"fixes {argument} itself, so {argument}=4 cannot be given; leave it out"):
        load_model(spec)


def test_reference_nets_are_parsed_not_evaluated() -> None:
    model = load_model("distil:mlp(hidden=(8, 6), dropout=0.5)", classes=3, input_shape=(1, 4, 4))
    assert isinstance(model, MLP)
    assert [layer.out_features for layer in model.layers] == [8, 6, 3]
    assert isinstance(load_model("distil:cnn(widths=[4, 8], norm=False)", classes=3, input_shape=(1, 8, 8)), SmallCNN)
    resnet = load_model("distil:resnet8", classes=3, channels=1)
    assert isinstance(resnet, CifarResNet)
    assert resnet.conv1.in_channels == 1
    assert isinstance(load_model("distil:gcn(hidden=16)", classes=3, input_shape=(5,)), GCN)
    with pytest.raises(DistilError, match="cannot be read"):
        load_model("distil:mlp(hidden=__import__('os').getpid())", classes=3, input_shape=(4,))
    with pytest.raises(DistilError, match="only key=value"):
        load_model("distil:mlp(64)", classes=3, input_shape=(4,))
    with pytest.raises(DistilError, match="no argument 'hiden'; did you mean 'hidden'"):
        load_model("distil:mlp(hiden=64)", classes=3, input_shape=(4,))
    with pytest.raises(DistilError, match="distil:mlp needs in_features and classes"):
        load_model("distil:mlp")


def test_own_factories_from_a_file_and_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "nets_here.py"
    file.write_text(
        "from torch import nn\n"
        "def tiny(classes, width=4):\n    return nn.Sequential(nn.Flatten(), nn.Linear(width, classes))\n"
        "def wrong():\n    return 3\n"
    )
    model = load_model(f"{file}:tiny(width=9)", classes=2)
    assert model(torch.zeros(1, 9)).shape == (1, 2)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_model("nets_here:tiny", classes=5)(torch.zeros(1, 4)).shape == (1, 5)
    with pytest.raises(DistilError, match="no function 'tinny'; did you mean 'tiny'"):
        load_model("nets_here:tinny")
    with pytest.raises(DistilError, match="returned int"):
        load_model(f"{file}:wrong")
    with pytest.raises(DistilError, match=r"cannot be called with \{\}"):
        load_model(f"{file}:tiny")
    with pytest.raises(DistilError, match="there is no file"):
        load_model(f"{tmp_path}/none.py:tiny")
    file.with_name("broken.py").write_text("import a_module_that_is_not_there\n")
    with pytest.raises(DistilError, match=r"importing .* fails: No module named 'a_module_that_is_not_there'"):
        load_model(f"{tmp_path}/broken.py:net")


def test_pretrained_uses_the_library_and_explains_a_failed_download(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def offline(name: str, **options: Any) -> nn.Module:
        asked.update(options)
        raise URLError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(DistilError, match=r"pretrained weights of timm:resnet10t could not be loaded \(URLError"):
        load_model("timm:resnet10t", pretrained=True)
    assert asked["pretrained"] is True
    monkeypatch.setattr(torchvision.models, "get_model", offline)
    with pytest.raises(DistilError, match="give weights=FILE instead"):
        load_model("torchvision:resnet18", pretrained=True)
    assert asked["weights"] == "DEFAULT"
    with pytest.raises(DistilError, match="no published weights"):
        load_model("distil:resnet8", pretrained=True)


def test_torchvision_pretrained_gets_a_fresh_head(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torchvision.models.get_model
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights, **options: real(name, **options))
    assert load_model("torchvision:resnet18", classes=4, pretrained=True).fc.out_features == 4
    with pytest.raises(DistilError, match="takes 3 channels, not 1"):
        load_model("torchvision:resnet18", channels=1)


@pytest.mark.parametrize("form", ["safetensors", "plain", "nested", "ddp", "compiled", "both"])
def test_weights_in_every_usual_form(tmp_path: Path, form: str) -> None:
    source = SmallCNN(1, 3, widths=(4,))
    state, path = source.state_dict(), tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    saved: Any = {
        "nested": {"epoch": 3, "state_dict": state},
        "ddp": {f"module.{k}": v for k, v in state.items()},
        "compiled": {f"_orig_mod.{k}": v for k, v in state.items()},
        "both": {"model": {f"module._orig_mod.{k}": v for k, v in state.items()}, "args": None},
    }.get(form, state)
    save_file(state, path) if form == "safetensors" else torch.save(saved, path)
    loaded = load_model("distil:cnn(widths=(4,))", classes=3, channels=1, weights=path)
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())


def test_weights_that_do_not_fit_are_listed_with_shapes(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"layers.0.weight": torch.zeros(5, 4), "layers.0.bias": torch.zeros(8), "extra": torch.zeros(2)}, path)
    model = MLP(4, 8, 2)
    before = model.layers[0].weight.clone()
    with pytest.raises(DistilError) as caught:
        load_weights(model, path)
    text = str(caught.value)
    assert "2 missing: layers.1.weight (2, 8), layers.1.bias (2,)" in text
    assert "1 unexpected: extra (2,)" in text
    assert "layers.0.weight (8, 4) in the model, (5, 4) in the file" in text
    assert torch.equal(model.layers[0].weight, before)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_truncated_and_missing_files_are_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    state = MLP(4, 8, 2).state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(DistilError, match=rf"w{suffix}' \(150 bytes\) cannot be read .* truncated"):
        load_weights(MLP(4, 8, 2), path)
    with pytest.raises(DistilError, match="there is no weights file"):
        load_weights(MLP(4, 8, 2), tmp_path / "none.pt")


class _Hostile:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


def test_a_pickled_object_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": _Hostile()}, "w.pt")
    Path("raw.pt").write_bytes(pickle.dumps(_Hostile()))
    for file in ("w.pt", "raw.pt"):
        with pytest.raises(DistilError, match="cannot be read"):
            load_weights(MLP(4, 8, 2), file)
    assert not Path("executed").exists()
    torch.save([1, 2], "list.pt")
    with pytest.raises(DistilError, match="holds list"):
        load_weights(MLP(4, 8, 2), "list.pt")
    torch.save({"epoch": 3}, "empty.pt")
    with pytest.raises(DistilError, match=r"holds no tensors but \['epoch'\]"):
        load_weights(MLP(4, 8, 2), "empty.pt")


def test_summary_counts_shared_tensors_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model.append(model[0])
    model[1].requires_grad_(False)
    size = summary(model)
    assert (size.parameters, size.trainable) == (12 + 6, 12)
    assert size.bytes == 4 * (12 + 6 + 6) + 8
