"""`distil cache`, and training from what it wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import distil as package
from distil.cache import TeacherCache
from distil.data import Batches
from distil.models.tokenizers import tokenizer_for
from distil.tasks import TextTask

from .terminal import Said, distil

Say = Callable[..., Said]

SPEC = "distil:mlp(hidden=32)"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that knows digits well enough to be one."""
    bundle = package.load("digits")
    torch.manual_seed(0)
    model = package.load_model(SPEC, classes=10, input_shape=bundle.input_shape)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for epoch in range(4):
        for batch in Batches(bundle.train, 64, seed=0, shuffle=True).iterate(epoch):
            F.cross_entropy(model(batch["inputs"]), batch["labels"]).backward()
            optimizer.step()
            optimizer.zero_grad()
    file = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_file(model.state_dict(), file)
    return file


@pytest.fixture
def teacher(weights: Path) -> list[str]:
    return ["--data", "digits", "--teacher", SPEC, "--teacher-weights", str(weights)]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    def call(*words: str, code: int = 0) -> Said:
        said = distil(capsys, *words)
        assert said.code == code, said.err
        return said

    return call


def shards(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("*.shard")}


def test_the_size_is_said_before_and_is_the_size(teacher: list[str], tmp_path: Path, say: Say) -> None:
    out = tmp_path / "c"
    planned = json.loads(say("cache", *teacher, "--out", str(out), "--dry-run", "--json").out)
    assert not out.exists()
    written = json.loads(say("cache", *teacher, "--out", str(out), "--json").out)
    assert planned["samples"] == written["stored"] == 1797
    assert planned["bytes_per_sample"] == 16 + 24
    assert planned["bytes"] <= written["bytes"] <= planned["bytes"] + 3 * 1100  # three headers
    assert written["check"]["difference"] <= written["check"]["bound"]
    said = say("cache", *teacher, "--out", str(tmp_path / "d"), "--dry-run").out
    assert "1797 samples of digits at 40 bytes each: 0.07 MB. Nothing was written." in said


def test_training_from_the_cache_is_training_from_the_teacher(teacher: list[str], tmp_path: Path, say: Say) -> None:
    out = tmp_path / "c"
    assert "Use it: distil train" in say("cache", *teacher, "--codec", "dense32", "--out", str(out)).out
    common = ["--student", "distil:mlp(hidden=8)", "--epochs", "2", "--no-baseline", "--json"]
    cached = ["--data", "digits", "--teacher", f"cache:{out}"]
    reports = {}
    for name, words in (("live", teacher), ("cached", cached)):
        reports[name] = json.loads(say("train", *words, *common, "--out", str(tmp_path / name)).out)
    one, two = (load_file(tmp_path / name / "students" / "kd-seed0.safetensors") for name in reports)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-5)
    assert reports["cached"]["teacher"]["name"] == f"cache:{out}"
    assert reports["cached"]["teacher"]["metrics"] == pytest.approx(reports["live"]["teacher"]["metrics"], rel=1e-3)


def test_a_cache_is_gone_on_with_refused_or_replaced(teacher: list[str], tmp_path: Path, say: Say) -> None:
    out = tmp_path / "c"
    say("cache", *teacher, "--out", str(out))
    first = shards(out)
    (out / sorted(first)[0]).unlink()
    said = say("cache", *teacher, "--out", str(out), code=2)
    assert "already holds something" in said.err
    say("cache", "--out", str(out), "--resume")  # what it was told before is kept
    assert shards(out) == first
    said = say("cache", "--out", str(out), "--resume", "--codec", "topk4", code=2)
    assert "answers of another codec" in said.err
    say("cache", *teacher, "--out", str(out), "--overwrite", "--codec", "topk4")
    assert not shards(out) & first
    assert not list(tmp_path.glob(".c*"))
    assert TeacherCache.open(out).meta.fields["logits"].codec["k"] == 4


def test_mistakes_are_one_sentence_and_leave_nothing(teacher: list[str], tmp_path: Path, say: Say) -> None:
    out, wrong = tmp_path / "c", tmp_path / "wrong.safetensors"
    state = load_file(teacher[-1])
    last = [name for name in state if name.startswith("layers.1.")]
    assert len(last) == 2
    save_file(state | {name: state[name].roll(1, 0) for name in last}, wrong)  # every class for its neighbour
    for words, says in (
        ([*teacher, "--codec", "dense61"], "did you mean 'dense16'"),
        ([*teacher, "--codec", "topk64"], "k=64 of 10 classes"),
        ([*teacher, "--precision", "fp8"], "precision='fp8' is unknown"),
        (["--data", "digits"], "--teacher is missing"),
        (["--data", "digits", "--teacher", f"cache:{out}"], "is a cache already"),
        ([*teacher[:-1], str(wrong)], "Nothing was cached: "),
    ):
        said = say("cache", *words, "--out", str(out), code=2)
        assert says in said.err
        assert not out.exists()


def test_training_refuses_what_the_cache_is_not_of(teacher: list[str], tmp_path: Path, say: Say) -> None:
    dense, sparse = tmp_path / "dense", tmp_path / "sparse"
    say("cache", *teacher, "--out", str(dense))
    say("cache", *teacher, "--codec", "topk4", "--out", str(sparse))
    common = ["train", "--data", "digits", "--student", "distil:mlp(hidden=8)", "--out", str(tmp_path / "t")]
    for words, says in (
        (["--teacher", f"cache:{sparse}"], "use kd(temperature=1), or write the cache with --codec topk4x4@4"),
        (["--teacher", f"cache:{sparse}", "--method", "dkd"], "the cache holds topk4x4 targets: write it with"),
        (["--teacher", f"cache:{tmp_path / 'none'}"], "there is no teacher cache in"),
        (["--teacher", f"cache:{dense}", "--set", "size=16"], "has the content"),
        (["--teacher", f"cache:{dense}", "--train-teacher", "2"], "train_teacher is for a model"),
        (["--teacher", f"cache:{dense}", "--method", "fitnets"], "fitnets"),
    ):
        assert says in say(*common, *words, code=2).err
        assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("codec", ["topk4@2", "sampled50@2"])
def test_kd_trains_from_a_sparse_cache(teacher: list[str], tmp_path: Path, say: Say, codec: str) -> None:
    out = tmp_path / "c"
    assert "--method 'kd(temperature=2)'" in say("cache", *teacher, "--codec", codec, "--out", str(out)).out
    common = ["--student", "distil:mlp(hidden=16)", "--epochs", "5", "--lr", "0.01", "--no-baseline", "--json"]
    method = ["--method", "0.1*supervised + 0.9*kd(temperature=2)"]
    reports = {}
    for name, words in (("live", teacher), ("cached", ["--data", "digits", "--teacher", f"cache:{out}"])):
        reports[name] = json.loads(say("train", *words, *method, *common, "--out", str(tmp_path / name)).out)
    assert reports["cached"]["teacher"]["name"] == f"cache:{out}"
    seen, expected = (reports[name]["teacher"]["metrics"]["accuracy"] for name in ("cached", "live"))
    assert seen == pytest.approx(expected, abs=0.5 if codec.startswith("topk") else 3.0)
    arms = [reports[name]["arms"][0]["metrics"]["accuracy"]["best"][0] for name in ("cached", "live")]
    assert abs(arms[0] - arms[1]) < 6
    assert arms[0] > 70


def test_texts_are_cached_with_the_teachers_own_tokenizer(
    tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student reads other ids, in batches of another padding; the cache knows each text by the teacher's."""
    monkeypatch.chdir(tmp_path)
    words = {"good": ["fine", "warm", "bright"], "bad": ["dull", "cold", "grey"]}
    rows = [f"it is {' '.join([words[y][k % 3]] * (1 + k % 4))} {k},{y}" for k in range(120) for y in words]
    Path("films.csv").write_text("text,label\n" + "\n".join(rows), encoding="utf-8")
    spec, student = "distil:bow(vocab=14, dim=8)", "distil:bow(vocab=9, dim=4)"
    bundle = package.load("films.csv")
    texts = [bundle.train.dataset.texts[k] for k in bundle.train.positions.tolist()]
    tokenizer, _ = tokenizer_for(spec, texts)
    ready = package.data.tokenised(bundle, tokenizer)
    torch.manual_seed(0)
    model = package.load_model(spec, classes=2, tokenizer=tokenizer)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    task = TextTask()
    for epoch in range(4):
        for batch in Batches(ready.train, 32, seed=0, shuffle=True).iterate(epoch):
            task.loss(task.call(model, batch), batch).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    save_file(model.state_dict(), "teacher.safetensors")
    live = ["--data", "films.csv", "--teacher", spec, "--teacher-weights", "teacher.safetensors"]
    say("cache", *live, "--codec", "dense32", "--out", "cache")
    common = ["--student", student, "--epochs", "2", "--no-baseline"]
    say("train", *live, *common, "--out", "live")
    say("train", "--data", "films.csv", "--teacher", "cache:cache", *common, "--out", "cached")
    one, two = (load_file(tmp_path / name / "students" / "kd-seed0.safetensors") for name in ("live", "cached"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-5)
