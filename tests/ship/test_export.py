"""`distil.export`: any module as a folder that is checked beside it, or not there at all."""

from __future__ import annotations

import doctest
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_model as fill
from torch import Tensor, nn

import distil
from distil.errors import DistilError
from distil.ship import ExportResult, ModelCard, open_export, predict
from distil.ship.card import fenced, markdown
from distil.tasks import ClassificationTask

from .nets import Counted, Fixed, Neighbours, Singular, Tied, TwoFaced

ROWS = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


def run(folder: Path, **tensors: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    return torch.from_numpy(session.run(None, {name: value.numpy() for name, value in tensors.items()})[0])


def document(folder: Path, name: str = "export.json") -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, ExportResult]:
    """A module in training mode, with dropout beside its tied weights, exported with a hostile card."""
    torch.manual_seed(0)
    model = nn.Sequential(Tied(), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 3))
    model[1].eval()
    facts = {"Method": "<script>alert(1)</script>", "Data": "a|b\n# heading [x](javascript:y)"}
    out = tmp_path_factory.mktemp("made") / "below" / "out"
    return model, distil.export(model, ROWS, out, classes=["no", "`yes`", "<b>"], card=facts)


def test_the_folder_holds_all_it_takes(tied: tuple[nn.Module, ExportResult]) -> None:
    _, made = tied
    names = ["MODEL_CARD.md", "config.json", "labels.json", "model.onnx", "model.safetensors", "predict.py"]
    assert sorted(made.files) == [*names, "preprocessing.json"]
    assert sorted(p.name for p in made.folder.iterdir()) == sorted([*made.files, "export.json"])
    assert [p.name for p in made.folder.parent.iterdir()] == ["out"]
    assert document(made.folder, "labels.json") == ["no", "`yes`", "<b>"]
    config = document(made.folder, "config.json")
    assert config["inputs"] == [{"name": "inputs", "dtype": "float32", "shape": ["batch", 4]}]
    assert config["fingerprint"] == distil.data.fingerprint(tied[0])
    assert config["opset"] == made.opset


def test_the_batch_is_free_and_the_answers_are_the_models(tied: tuple[nn.Module, ExportResult]) -> None:
    model, made = tied
    model.eval()
    for size in (1, 2, 5, 8):
        with torch.no_grad():
            torch.testing.assert_close(run(made.folder, inputs=ROWS[:size]), model(ROWS[:size]), rtol=1e-4, atol=1e-5)
    assert set(made.checked) == {"batch of 1", "batch of 3", "batch of 8"}
    assert all(0 <= each["max_difference"] <= 1e-4 * each["largest"] for each in made.checked.values())
    for engines in made.latency.values():
        assert set(engines) == {"torch", "onnxruntime"}
        assert all(0 < times["p50_ms"] <= times["p95_ms"] for times in engines.values())


def test_tied_weights_are_stored_once_and_tied_again(tied: tuple[nn.Module, ExportResult]) -> None:
    model, made = tied
    again = nn.Sequential(Tied(), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 3))
    fill(again, made.folder / "model.safetensors")
    assert again[0].second.weight is again[0].first.weight
    assert distil.data.fingerprint(again) == distil.data.fingerprint(model)


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(), nn.Linear(3, 2)).half()
    model[1].eval()
    before = distil.data.fingerprint(model)
    made = distil.export(model, ROWS, tmp_path / "out")
    assert [part.training for part in model] == [True, False, True]
    assert model[0].weight.dtype == torch.float16
    assert distil.data.fingerprint(model) == before == document(made.folder, "config.json")["fingerprint"]
    wide = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    wide[0].load_state_dict(model[0].state_dict())
    wide[1].load_state_dict(model[2].state_dict())
    torch.testing.assert_close(run(made.folder, inputs=ROWS), wide(ROWS).detach(), rtol=1e-4, atol=1e-5)


def test_a_card_shows_text_and_obeys_none(tied: tuple[nn.Module, ExportResult]) -> None:
    _, made = tied
    card = (made.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in card
    assert "<script" not in card
    assert "<b>" not in card
    assert "| Data | a\\|b \\# heading \\[x\\](javascript:y) |" in card
    assert "\\`yes\\`" in card
    for heading in ("## What it is", "## Size and speed", "## Use", "## Limits"):
        assert f"\n{heading}\n" in card
    assert document(made.folder, "config.json")["fingerprint"] in card
    assert "model.onnx was run beside the trained model on the example" in card


def test_a_code_block_cannot_be_closed_from_inside() -> None:
    shown = fenced("distil train ```\n# a heading\x1b[31m", "sh")
    assert shown.startswith("````sh\n")
    assert shown.endswith("\n````")
    assert "\x1b" not in shown
    assert markdown("two\nlines *bold* <i> https://x.y") == "two lines \\*bold\\* &lt;i&gt; https:\u200b//x.y"


def test_no_path_of_this_machine_is_in_the_files(tied: tuple[nn.Module, ExportResult]) -> None:
    _, made = tied
    here = str(Path(distil.__file__).resolve().parents[2]).encode()
    for path in made.folder.iterdir():
        assert here not in path.read_bytes(), path.name
        assert str(made.folder.parent).encode() not in path.read_bytes(), path.name


def test_normalisation_is_inside_the_file(tmp_path: Path) -> None:
    images = torch.rand(4, 3, 5, 5)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)).eval()
    task = ClassificationTask(normalise={"student": ([0.5, 0.4, 0.3], 0.2), "teacher": (9.0, 9.0)})
    made = distil.export(
        model, {"inputs": images, "labels": torch.zeros(4, dtype=torch.long)}, tmp_path / "o", task=task
    )
    with torch.no_grad():
        torch.testing.assert_close(run(made.folder, inputs=images), task.call(model, {"inputs": images}))
        assert (run(made.folder, inputs=images) - model(images)).abs().max() > 0.01
    found = document(made.folder, "preprocessing.json")
    assert found["kind"] == "image"
    assert found["mean"] == pytest.approx([0.5, 0.4, 0.3])
    assert found["std"] == pytest.approx([0.2] * 3)
    assert found["size"] == [5, 5]
    card = (made.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "The mean and std of training are subtracted inside model.onnx." in card


def test_a_module_that_is_another_one_when_exported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DistilError, match=r"another one than was trained: on a batch of 1 its answers differ by up to"):
        distil.export(TwoFaced(4, 2), ROWS, tmp_path / "deep" / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_operator_without_onnx_form_is_named_and_the_weights_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(
        DistilError, match=r"the operator aten\._linalg_svd has no ONNX form.*model\.safetensors, is in"
    ):
        distil.export(Singular(4, 2), ROWS, out)
    names = {path.name for path in out.iterdir()}
    assert {"model.safetensors", "labels.json", "MODEL_CARD.md", "export.json"} <= names
    assert not {name for name in names if name.endswith((".onnx", ".py"))}
    kept = document(out)
    assert "aten._linalg_svd" in kept["onnx"]["failure"]
    assert kept["checked"] == {}
    with pytest.raises(DistilError, match=r"aten\._linalg_svd"):
        distil.export(Singular(4, 2), ROWS, tmp_path / "alone", formats=["onnx"])
    assert not (tmp_path / "alone").exists()


def test_a_batch_that_is_fixed_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(DistilError, match="fixes the dimension 'batch' at the 8 of the example"):
        distil.export(Fixed(4, 2), ROWS, tmp_path / "out", formats=["onnx"])


def test_an_opset_is_written_or_refused(tmp_path: Path) -> None:
    made = distil.export(nn.Linear(4, 2), ROWS, tmp_path / "a", opset=18)
    assert made.opset == 18
    with pytest.raises(DistilError, match="opset 5 was asked for"):
        distil.export(nn.Linear(4, 2), ROWS, tmp_path / "b", opset=5)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_one_sample_is_example_enough(tmp_path: Path) -> None:
    made = distil.export(nn.Linear(4, 2), ROWS[:1], tmp_path / "out", formats=["onnx"])
    assert run(made.folder, inputs=ROWS).shape == (8, 2)
    assert "model.safetensors" not in made.files


def test_a_graph_network_takes_the_edges_of_any_graph(tmp_path: Path) -> None:
    nodes = 9
    edges = torch.randint(nodes, (2, 30), generator=torch.Generator().manual_seed(1))
    batch = {"inputs": torch.rand(nodes, 4), "edge_index": edges, "labels": torch.zeros(nodes, dtype=torch.long)}
    model = Neighbours(4, 3).eval()
    made = distil.export(model, batch, tmp_path / "out", task="node-classification")
    assert set(made.checked) == {"4 nodes", "8 nodes", "9 nodes"}
    pairs = torch.triu_indices(20, 20, 1)[:, ::4]  # both ways and none twice, as a file's edges are read
    other = {"inputs": torch.rand(20, 4), "edge_index": torch.cat([pairs, pairs.flip(0)], 1)}
    with torch.no_grad():
        torch.testing.assert_close(run(made.folder, **other), model(*other.values()))
    assert document(made.folder, "preprocessing.json") == {"kind": "features", "shape": [4], "edges": True}
    np.savez(tmp_path / "g.npz", x=other["inputs"].numpy(), edge_index=other["edge_index"].numpy())
    answers = list(predict(open_export(made.folder), [tmp_path / "g.npz"], batch_size=7))
    with torch.no_grad():
        assert [each.labels[0] for each in answers] == [str(int(k)) for k in model(*other.values()).argmax(1)]


def both_ways(pairs: torch.Tensor) -> torch.Tensor:
    return torch.cat([pairs, pairs.flip(0)], 1)


@pytest.mark.parametrize(
    "spec",
    [
        "gcn(hidden=4, layers=3)",
        "gcn(hidden=4, sparse_inputs=true)",
        "sage(hidden=4)",
        "gat(hidden=4)",
        "gin(hidden=4)",
    ],
)
def test_graph_networks_take_graphs_of_any_size(spec: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = distil.load_model(f"distil:{spec}", classes=3, input_shape=(4,)).eval()
    batch = {"inputs": torch.rand(9, 4), "edge_index": both_ways(torch.triu_indices(9, 9, 1)[:, ::3])}
    made = distil.export(model, batch, tmp_path / "out", task="node-classification")
    for nodes in (1, 9, 40):
        edges = both_ways(torch.triu_indices(nodes, nodes, 1)[:, ::5])
        loops = torch.arange(0, nodes, 2).expand(2, -1)
        for given in (edges, torch.cat([edges, loops], 1), edges[:, :0]):
            other = {"inputs": torch.rand(nodes, 4), "edge_index": given}
            with torch.no_grad():
                torch.testing.assert_close(run(made.folder, **other), model(*other.values()))


def test_a_graph_network_that_counts_its_nodes_says_what_it_fixes(tmp_path: Path) -> None:
    batch = {"inputs": torch.rand(9, 4), "edge_index": torch.randint(9, (2, 30))}
    with pytest.raises(DistilError, match="Counted fixes the dimension 'nodes' at the 9 of the example"):
        distil.export(Counted(4, 3), batch, tmp_path / "out", task="node-classification")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_an_earlier_export_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    words: dict[str, Any] = {"formats": ["safetensors"]}
    out = tmp_path / "out"
    first = distil.export(nn.Linear(4, 2), ROWS, out, **words)
    with pytest.raises(DistilError, match="already holds something; add --overwrite"):
        distil.export(nn.Linear(4, 3), ROWS, out, **words)
    assert document(out) == first.manifest
    distil.export(nn.Linear(4, 3), ROWS, out, overwrite=True, **words)
    assert len(document(out, "labels.json")) == 3
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(DistilError, match="is no export of distil"):
        distil.export(nn.Linear(4, 3), ROWS, tmp_path / "mine", overwrite=True, **words)
    with pytest.raises(DistilError, match="is a file; name a folder"):
        distil.export(nn.Linear(4, 3), ROWS, tmp_path / "mine" / "thesis.txt", **words)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("model", "example", "options", "message"),
    [
        (nn.Linear(4, 2), torch.rand(3, 5), {}, "Linear cannot run on the example"),
        (nn.Linear(4, 2), ROWS, {"classes": ["a", "b", "c"]}, "3 class names for 2 outputs"),
        (nn.Linear(4, 2), ROWS, {"formats": ["onxx"]}, "did you mean 'onnx'"),
        (nn.Linear(4, 2), torch.zeros(0, 4), {}, "holds no samples"),
        (nn.Linear(4, 2), ROWS, {"device": "tpu9"}, "device=tpu9 cannot be used here"),
        (nn.Linear(4, 2), ROWS, {"preprocessing": {"kind": "picture"}}, "'kind' is 'picture'"),
        (nn.Linear(4, 2), ROWS, {"preprocessing": {"kind": "image", "size": [0, 2], "channels": 1}}, "'size' is"),
        (
            nn.Linear(4, 2),
            ROWS,
            {"preprocessing": {"kind": "text", "tokenizer": "no", "max_length": 3}},
            "no tokenizer",
        ),
        (nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), ROWS, {}, r"logits \[batch, classes\] are expected"),
    ],
)
def test_mistakes_leave_nothing(
    tmp_path: Path, model: nn.Module, example: Tensor, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DistilError, match=message):
        distil.export(model, example, tmp_path / "out", **{"formats": ["safetensors"], **options})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["card", "export", "manifest", "onnx", "preprocessing", "served"])
def test_examples_in_docstrings_hold(name: str) -> None:
    result = doctest.testmod(sys.modules[f"distil.ship.{name}"])
    assert (result.attempted > 0, result.failed) == (True, 0)


def test_a_full_card_says_where_a_model_comes_from(tmp_path: Path) -> None:
    card = ModelCard(
        title="A student",
        facts={"Teacher": "big"},
        results=["It helped."],
        table=[("", "accuracy"), ("kd", "90 %")],
        limits=["No | more."],
        command="distil train --data x",
    )
    made = distil.export(nn.Linear(4, 2), ROWS, tmp_path / "out", card=card, formats=["safetensors"])
    text = (made.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    for line in (
        "# A student",
        "- It helped.",
        "| kd | 90 % |",
        "| Teacher | big |",
        "- No \\| more.",
        "distil train --data x",
    ):
        assert line in text.splitlines()
