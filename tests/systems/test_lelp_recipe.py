"""LELP's recipe at toy size: images and texts, every arm, equal budgets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distil.loops.lab import Lab
from distil.loops.recipe import load_recipe, prepare_setup, run_recipe
from distil.loops.settings import from_yaml
from distil.report.check import validate

TINY = (
    "pair.train=120", "pair.teacher_train=240", "pair.val=60", "pair.teacher='distil:mlp(hidden=24)'",
    "pair.student='distil:mlp(hidden=4)'", "pair.teacher_training.epochs=5", "pair.teacher_training.lr=0.01",
    "training.epochs=1", "seeds=[0, 1]",
)  # fmt: skip
SHARED = ["alone", "kd-1", "kd-4", "fitnets", "lelp", "no-null-space", "no-rotation", "random"]


def run(out: Path, *settings: str) -> dict[str, Any]:
    recipe = load_recipe("lelp")
    setup = prepare_setup(recipe, assignments=settings)
    report = run_recipe(recipe, setup, out, Lab(out, shared=out / "shared"), command="distil run lelp", system="lelp")
    assert from_yaml(recipe.Setup(), out / "settings.yaml") == setup
    validate(json.loads(json.dumps(report)))
    budgets = [arm["budget"] for arm in report["arms"]]
    assert all(budget == budgets[0] for budget in budgets)  # the bound has no more than the others but its labels
    return report


def test_it_runs_on_the_parity_of_digits(tmp_path: Path) -> None:
    report = run(tmp_path, *TINY)
    splitters = ["projections", "kmeans", "agglomerative", "tsne"]
    assert [arm["name"] for arm in report["arms"]] == [*SHARED, *splitters, "fine"]
    assert [arm["role"] for arm in report["arms"]].count("rival") == 3
    assert report["data"]["classes"] == ["0/2/4/6/8", "1/3/5/7/9"]
    assert "labels modulo 2" in report["setting"]["Data"]
    sizes = {arm["name"]: arm["parameters"] for arm in report["arms"]}
    assert sizes["lelp"] - sizes["alone"] == 8 * (4 + 1)  # four more rows for each of two classes
    assert sizes["fine"] == sizes["lelp"]


def test_without_groups_there_are_no_true_subclasses(tmp_path: Path) -> None:
    report = run(tmp_path, *TINY, "pair.modulo=null", "splitters=[]", "seeds=[0]")
    assert [arm["name"] for arm in report["arms"]] == SHARED
    assert len(report["data"]["classes"]) == 10


def test_it_runs_on_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    import torch

    from distil.models.tokenizers import word_tokenizer

    words = (["dull", "cold", "grey", "flat"], ["fine", "warm", "bright", "rich"])
    texts = [f"the film {k} is {words[k % 2][k % 3]} and {words[k % 2][(k // 5) % 4]}" for k in range(120)]
    rows = [f"{text},{k % 2}" for k, text in enumerate(texts)]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    known = word_tokenizer(texts, 300)
    torch.manual_seed(0)
    transformers.BertModel(
        transformers.BertConfig(
            vocab_size=len(known), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            max_position_embeddings=16,
        )
    ).save_pretrained(tmp_path / "tiny")  # fmt: skip
    known.save_pretrained(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    report = run(
        tmp_path / "run", "texts=true", "text.data=reviews.csv", "text.encoder='hf:tiny'", "text.max_length=12",
        "text.student='distil:bow(vocab=40, dim=6)'", "text.teacher_training.epochs=8",
        "text.teacher_training.lr=0.02", "splitters=[]", "training.epochs=1", "seeds=[0]",
    )  # fmt: skip
    assert [arm["name"] for arm in report["arms"]] == SHARED
    assert "frozen" in report["setting"]["Teacher"]
