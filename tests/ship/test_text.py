"""Text students: a tokenizer travels with the model, and batches and lengths stay free."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

import distil
from distil.errors import DistilError
from distil.ship import Answer, open_export, predict
from distil.ship.inputs import Skipped, encoder

from .nets import Words

TEXTS = ["good film", "bad film", "a good good film", "bad bad bad bad bad bad bad bad bad bad"]
VOCABULARY = {"[PAD]": 0, "[UNK]": 1, "good": 2, "bad": 3, "film": 4, "a": 5}
LONGEST = 6


def model() -> Words:
    """Knows good from bad by construction."""
    made = Words(len(VOCABULARY), 2).eval()
    torch.nn.init.normal_(made.embedding.weight, std=0.01, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        made.embedding.weight[2, 0], made.embedding.weight[3, 0] = 2.0, -2.0
        made.head.weight.zero_()
        made.head.weight[1, 0], made.head.weight[0, 0] = 2.0, -2.0
        made.head.bias.zero_()
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer, and the export of the model with it."""
    place = tmp_path_factory.mktemp("text")
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    (place / "tokenizer").mkdir()
    tokenizer.save(str(place / "tokenizer" / "tokenizer.json"))
    (place / "tokenizer" / "code.py").write_text("raise SystemExit")
    preprocessing = {"kind": "text", "tokenizer": str(place / "tokenizer"), "max_length": LONGEST}
    ids = encoder(place / "tokenizer", preprocessing, ("input_ids", "attention_mask"))(TEXTS)
    example = {"inputs": {name: torch.from_numpy(value) for name, value in ids.items()}}
    distil.export(model(), example, place / "out", classes=["bad", "good"], preprocessing=preprocessing)
    return place


def answers(folder: Path, *files: Path, **options: Any) -> list[Answer]:
    found = list(predict(open_export(folder / "out"), files, **options))
    assert all(isinstance(each, Answer) for each in found), found
    return found  # type: ignore[return-value]


def test_batch_and_length_are_free(folder: Path) -> None:
    config = json.loads((folder / "out" / "config.json").read_text())
    assert [each["name"] for each in config["inputs"]] == ["input_ids", "attention_mask"]
    assert all(each["shape"] == ["batch", "sequence"] for each in config["inputs"])
    exported = open_export(folder / "out")
    for batch, length in ((1, 1), (2, 5), (5, LONGEST)):
        ids = torch.randint(len(VOCABULARY), (batch, length))
        mask = torch.ones_like(ids)
        ours = model()(ids, mask)["logits"].detach().numpy()
        theirs = exported.run({"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)


def test_the_tokenizer_travels_without_code(folder: Path) -> None:
    assert json.loads((folder / "out" / "preprocessing.json").read_text()) == {
        "kind": "text",
        "tokenizer": "tokenizer",
        "max_length": LONGEST,
    }
    assert [path.name for path in (folder / "out" / "tokenizer").iterdir()] == ["tokenizer.json"]
    files = json.loads((folder / "out" / "export.json").read_text())["files"]
    assert "tokenizer/tokenizer.json" in files


def test_lines_and_columns_are_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("\n".join([*TEXTS, ""]), encoding="utf-8")
    (tmp_path / "table.csv").write_text("id,text\n" + "".join(f'{k},"{text}"\n' for k, text in enumerate(TEXTS)))
    for file in ("lines.txt", "table.csv"):
        found = answers(folder, tmp_path / file, batch_size=3)
        assert [each.labels[0] for each in found] == ["good", "bad", "good", "bad"]
        assert [each.name for each in found] == [f"{tmp_path / file}:{k}" for k in range(1, 5)]
        assert all(each.probabilities[0] > 0.9 for each in found)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe\xfa")
    found = list(predict(open_export(folder / "out"), [tmp_path / "other.csv", tmp_path / "latin.txt"]))
    assert [type(each) for each in found] == [Skipped, Skipped]
    assert "one called 'text' is expected" in found[0].reason  # type: ignore[union-attr]


def test_the_script_needs_neither_distil_nor_torch(folder: Path, tmp_path: Path) -> None:
    for name in ("distil", "torch"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('not on this machine')\n")
    said = subprocess.run(
        [sys.executable, str(folder / "out" / "predict.py"), *TEXTS],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=True,
    )
    assert [line.split("\t")[1] for line in said.stdout.splitlines()] == ["good", "bad", "good", "bad"]


def test_a_broken_tokenizer_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DistilError, match="is no readable tokenizer"):
        encoder(tmp_path, {"max_length": 4}, ("input_ids",))
    with pytest.raises(DistilError, match="takes 'pixels', which no tokenizer gives"):
        encoder(folder / "tokenizer", {"max_length": 4}, ("pixels",))(["good"])


def test_a_length_that_the_model_cannot_take_is_named(folder: Path, tmp_path: Path) -> None:
    ids = torch.randint(len(VOCABULARY), (4, 3))
    example = {"inputs": {"input_ids": ids, "attention_mask": torch.ones_like(ids)}}
    preprocessing = {"kind": "text", "tokenizer": str(folder / "tokenizer"), "max_length": 10}
    with pytest.raises(DistilError, match="takes at most 9 tokens and the preprocessing says max_length=10"):
        distil.export(model(), example, tmp_path / "out", preprocessing=preprocessing, formats=["onnx"])
    assert list(tmp_path.iterdir()) == []


def test_several_inputs_without_a_word_on_them_are_taken_by_name(tmp_path: Path) -> None:
    ids = torch.randint(len(VOCABULARY), (4, 3))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    made = distil.export(model(), {"inputs": inputs}, tmp_path / "out")
    np.savez(tmp_path / "in.npz", **{name: value.numpy() for name, value in inputs.items()})
    found = answers(tmp_path, tmp_path / "in.npz")
    expected = model()(**inputs)["logits"].argmax(1).tolist()
    assert [each.labels[0] for each in found] == [str(k) for k in expected]
    script = [sys.executable, str(made.folder / "predict.py"), str(tmp_path / "in.npz")]
    lines = subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split("\t")[1] for line in lines] == [str(k) for k in expected]
