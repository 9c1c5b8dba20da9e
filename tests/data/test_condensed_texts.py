"""Sets of texts: what they hold, how they are kept, and what is no set of texts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distil.data import load
from distil.data.condensed import CondensedSet, load_condensed
from distil.data.condensed_files import MANIFEST
from distil.errors import DistilError

ODD = ('two\nlines, "quoted"', "<script>alert(1)</script>\u2028\x00\r", "grün \ud83d half a pair", "plain")


def small(**changed: Any) -> CondensedSet:
    made: dict[str, Any] = {
        "inputs": torch.zeros(4, 0), "labels": torch.tensor([0, 1, 1, 0]), "classes": ("a\nb", "ü"), "texts": ODD,
        "ids": torch.tensor([7, 3, 9, 1]),
    }  # fmt: skip
    return CondensedSet(**{**made, **changed})


@pytest.mark.parametrize("prompts", [None, ("", "ask\n", "\ud800", "x")])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 2.0, 0.0])])
def test_every_text_comes_back_as_it_was(prompts: Any, weights: Any, tmp_path: Path) -> None:
    first = small(prompts=prompts, weights=weights, logits=torch.randn(4, 2), record={"labels": "static"})
    back = load_condensed(first.save(tmp_path / "set"))
    assert (back.texts, back.prompts, back.classes) == (ODD, prompts, first.classes)
    assert back.fingerprint == first.fingerprint
    assert torch.equal(back.ids, first.ids)  # type: ignore[arg-type]
    assert back.storage() == first.storage()
    lines = (tmp_path / "set" / "texts.jsonl").read_bytes().decode().split("\n")
    assert len(lines) == 5
    assert json.loads(lines[0])["text"] == ODD[0]
    assert json.loads(lines[1])["label"] == "ü"
    assert ("weight" in json.loads(lines[0])) == (weights is not None)


def test_other_texts_are_another_set_and_take_their_own_bytes() -> None:
    assert small().fingerprint != small(texts=(*ODD[:3], "plainer")).fingerprint
    assert small().fingerprint != small(prompts=ODD).fingerprint
    plain = small(texts=("a", "bc", "ü", "€"))
    assert plain.storage()["images"] == 1 + 2 + 2 + 3
    assert plain.storage()["labels"] == 4
    assert replace(plain, prompts=("a", "", "", "")).storage()["images"] == 9
    assert (plain.noun, plain.images) == ("texts", False)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "too few": ({"texts": ODD[:3]}, "3 texts for 4 samples"),
    "no strings": ({"texts": (1, 2, 3, 4)}, "some that are no strings"),
    "too many prompts": ({"prompts": (*ODD, "x")}, "5 prompts for 4 samples"),
    "prompts of nothing": ({"texts": None, "prompts": ODD}, "prompts without texts"),
    "numbers too": ({"inputs": torch.zeros(4, 2)}, "texts beside inputs of shape"),
    "labels of views": ({"record": {"labels": "dynamic"}}, "texts with dynamic labels"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_set_of_texts_is_refused(name: str) -> None:
    changed, sentence = WRONG[name]
    with pytest.raises(DistilError, match=sentence):
        small(**changed)


def test_texts_are_kept_as_they_are_alone(tmp_path: Path) -> None:
    with pytest.raises(DistilError, match="leave exact=False out"):
        small().save(tmp_path / "set", exact=False)


def forged(folder: Path, line: str) -> Path:
    """The set with another first line and a manifest that says so."""
    import hashlib

    file = folder / "texts.jsonl"
    content = line.encode() + b"\n" + file.read_bytes().split(b"\n", 1)[1]
    file.write_bytes(content)
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    manifest["files"]["texts.jsonl"]["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"label": "ü", "text": "other"}', "other labels than tensors.safetensors"),
        ('{"label": "a\\nb", "text": 5}', "some that are no strings"),
        ('{"label": "a\\nb"}', "is no condensed set that this distil reads"),
        ("[1]", "is no condensed set that this distil reads"),
        ("", "other labels than"),
        ("no json", "is no condensed set that this distil reads"),
    ],
)
def test_lines_that_fit_nothing_are_one_sentence(line: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DistilError, match=sentence):
        load_condensed(forged(small().save(tmp_path / "set"), line))


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    rows = [f"{'fine' if k % 2 else 'poor'} film {k},why {k},{'good' if k % 2 else 'bad'}" for k in range(40)]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,told,label", *rows]))
    return tmp_path / "reviews.csv"


def test_a_bundle_of_a_set_tests_on_the_real_texts(reviews: Path) -> None:
    real = load(reviews)
    chosen = small(classes=real.classes, weights=torch.ones(4))
    made = chosen.as_bundle(real)
    assert made.train.batch(torch.arange(4))["inputs"] == list(ODD)
    assert made.train.labels.tolist() == [0, 1, 1, 0]
    for ours, theirs in ((made.val, real.val), (made.test, real.test)):
        everything = torch.arange(len(theirs))
        assert ours.batch(everything)["inputs"] == theirs.batch(everything)["inputs"]
        assert torch.equal(ours.labels, theirs.labels)
        assert torch.equal(ours.ids, theirs.ids)
    assert made.train.dataset is made.test.dataset  # one tokenizer reads all of them at once
    assert len(set(made.train.dataset.ids.tolist())) == len(made.train.dataset)
    assert "weights are left out" in made.notes[-1]
    with pytest.raises(DistilError, match="holds texts, and"):
        chosen.as_bundle(replace(real, task="classification"))
    with pytest.raises(DistilError, match="condense --existing SET --set encoder=hf:FOLDER"):
        CondensedSet(torch.zeros(2, 3), torch.tensor([0, 1]), real.classes).as_bundle(real)


def test_prompts_go_with_their_texts(reviews: Path) -> None:
    bundle = load(reviews, prompt="told")
    batch = bundle.train.batch(torch.arange(len(bundle.train)))
    assert [text.split()[-1] for text in batch["inputs"]] == [told.split()[-1] for told in batch["prompts"]]
    assert bundle.train[0]["prompts"] == batch["prompts"][0]
    assert bundle.fingerprint != load(reviews).fingerprint
    reviews.write_text(reviews.read_text().replace("why 4,", ",").replace("why 7,", " ,"))
    bundle = load(reviews, prompt="told")
    assert sum(map(len, (bundle.train, bundle.val, bundle.test))) == 38
    assert "2 rows have no prompt" in " ".join(bundle.notes)
