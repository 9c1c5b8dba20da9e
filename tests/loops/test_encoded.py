"""A frozen encoder that runs once: its embeddings, the head on them, and what a student learns from both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from distil.data import load, tokenised
from distil.errors import DistilError
from distil.loops.encoded import Encoded, TextPair, embeddings, text_pair
from distil.loops.lab import Lab
from distil.loops.training import Training
from distil.loops.vectors import vectors_of
from distil.models import load_model, load_tokenizer
from distil.models.tokenizers import word_tokenizer
from distil.tasks import TextTask

transformers = pytest.importorskip("transformers")

WORDS = (["dull", "cold", "grey", "flat"], ["fine", "warm", "bright", "rich"])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Reviews, and a BERT with random weights whose tokenizer knows their words."""
    texts = [f"the film {k} is {WORDS[k % 2][k % 3]} and {WORDS[k % 2][(k // 5) % 4]}" for k in range(160)]
    rows = [f"{text},{k % 2}" for k, text in enumerate(texts)]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    words = word_tokenizer(texts, 300)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(vocab_size=len(words), max_position_embeddings=16, **sizes))
    model.save_pretrained(tmp_path / "tiny")
    words.save_pretrained(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def chosen(**options: object) -> TextPair:
    own = {"data": "reviews.csv", "encoder": "hf:tiny", "student": "distil:bow(vocab=30, dim=6)", "max_length": 12}
    return TextPair(**{**own, "teacher_training": Training(epochs=15, lr=0.02, batch_size=16), **options})  # type: ignore[arg-type]


def test_the_embeddings_are_what_the_head_of_the_live_model_reads(home: Path) -> None:
    raw = load("reviews.csv")
    lab = Lab(home / "run", shared=home / "cache")
    ids, rows = embeddings(lab, "hf:tiny", raw, max_length=12)
    assert sorted(ids.tolist()) == sorted([*raw.train.ids.tolist(), *raw.val.ids.tolist(), *raw.test.ids.tolist()])
    tokenizer = load_tokenizer("tiny")
    model = load_model("hf:tiny", classes=2, tokenizer=tokenizer).eval()
    seen: list[torch.Tensor] = []
    model.head.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    data = tokenised(raw, tokenizer, max_length=12)
    TextTask().predict(model, data.test)
    place = {int(k): i for i, k in enumerate(ids)}
    wanted = rows[[place[int(k)] for k in data.test.ids]]
    torch.testing.assert_close(torch.cat(seen), wanted, rtol=1e-4, atol=1e-5)


def test_the_encoder_runs_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(home / "run", shared=home / "cache")
    first = text_pair(chosen(), lab)

    def never(*args: object, **options: object) -> None:
        raise AssertionError("the encoder ran again")

    monkeypatch.setattr("distil.loops.encoded.build_model", never)
    again = text_pair(chosen(train=60), Lab(home / "other", shared=home / "cache"))
    assert again.teacher.fingerprint == first.teacher.fingerprint
    assert (len(first.bundle.train), len(again.bundle.train)) == (112, 60)
    assert first.bundle.fingerprint != again.bundle.fingerprint


def test_a_student_is_taught_from_stored_embeddings(home: Path) -> None:
    lab = Lab(home / "run", shared=home / "cache")
    pair = text_pair(chosen(), lab)
    assert pair.teacher.metrics["accuracy"] > 90
    training = Training(epochs=8, lr=0.03, batch_size=16)
    for method in ("lelp", "kd + fitnets(tap=emb)", "lelp(splitter=kmeans, subclasses=3)"):
        outcome = pair.arm(lab, "method", "one", method, training).run(0)
        assert outcome.metrics["best"]["accuracy"] > 70, method
        assert outcome.agreement is not None
    assert "frozen" in pair.setting(training)["Teacher"]


def test_layers_that_did_not_run_have_no_taps() -> None:
    teacher = Encoded(torch.tensor([1, 2]), torch.eye(2), 2)
    assert teacher.places("head") == ("head",)
    assert isinstance(teacher.get_submodule(teacher.places("emb")[0]), nn.Identity)
    with pytest.raises(DistilError, match="the taps emb and head, and no 'stages'"):
        teacher.places("stages")
    with pytest.raises(DistilError, match="id 7 was not in the data"):
        teacher({"id": torch.tensor([7])})


def test_data_without_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DistilError, match="digits holds no raw texts"):
        text_pair(chosen(data="digits"), Lab(tmp_path))


def test_an_encoder_trained_further_in_its_folder_is_read_again(home: Path) -> None:
    raw, lab = load("reviews.csv"), Lab(home / "run", shared=home / "cache")
    first, shorter = (vectors_of(lab, "hf:tiny", raw, max_length=length) for length in (12, 5))
    assert first.fingerprint != shorter.fingerprint
    assert vectors_of(lab, "hf:tiny", raw, max_length=12).fingerprint == first.fingerprint
    model = transformers.BertModel.from_pretrained("tiny")
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)
    model.save_pretrained("tiny")
    again = vectors_of(lab, "hf:tiny", raw, max_length=12)
    assert again.fingerprint != first.fingerprint
    assert not torch.allclose(again.train.inputs, first.train.inputs)
