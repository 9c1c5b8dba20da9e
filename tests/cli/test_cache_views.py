"""`distil cache` with views, features and graphs, by several processes, and training from what it wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from distil.cache import TeacherCache

from .files import knowing, write
from .terminal import Said, distil

Say = Callable[..., Said]
PHOTOS = ["--data", "photos", "--teacher", "models.py:make(width=3)", "--teacher-weights", "knows.safetensors"]
GRAPH = ["--data", "graph.npz", "--teacher", "models.py:eye"]
STUDENT = ["--student", "models.py:make", "--epochs", "2"]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    (tmp_path / "photos" / "red" / "torn.png").unlink()

    def call(*words: str, code: int = 0) -> Said:
        said = distil(capsys, *words)
        assert said.code == code, said.err
        return said

    return call


def weights(folder: str, name: str = "kd-seed0") -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "students" / f"{name}.safetensors")


def test_training_from_stored_views_is_training_from_the_teacher_on_them(say: Say) -> None:
    views = ["--views", "3", "--augment", "crop,flip,mixup"]
    planned = json.loads(say("cache", *PHOTOS, *views, "--out", "c", "--dry-run", "--json").out)
    said = say("cache", *PHOTOS, *views, "--codec", "dense32", "--out", "c")
    train = planned["answers"] - planned["samples"]
    assert train % 2 == 0
    assert f"72 samples of photos in {72 + train} answers, 3 views of each training image," in said.err + said.out
    assert yaml.safe_load(Path("c/settings.yaml").read_text())["views"]["kinds"] == ["crop", "flip", "mixup"]
    live = ["--set", "views.count=3", "--set", "views.kinds=[crop, flip, mixup]", "--set", "views_per_image=2"]
    report = json.loads(say("train", *PHOTOS, *STUDENT, *live, "--out", "live", "--json").out)
    cached = ["--data", "photos", "--teacher", "cache:c", "--set", "views_per_image=2"]
    stored = json.loads(say("train", *cached, *STUDENT, "--out", "cached", "--json").out)
    for name in ("kd-seed0", "alone-seed0"):
        one, two = weights("live", name), weights("cached", name)
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=0, atol=1e-5)
    assert "3 views (crop, flip, mixup; replayed from the cache), 2 of them" in stored["data"]["notes"][-1]
    assert "(crop, flip, mixup; drawn by seed)" in report["data"]["notes"][-1]
    arms = stored["arms"]
    assert len(arms) == 2
    assert arms[0]["budget"] == arms[1]["budget"]
    plain = json.loads(say("train", *PHOTOS, *STUDENT, "--no-baseline", "--out", "plain", "--json").out)
    assert plain["data"]["fingerprint"] != stored["data"]["fingerprint"]
    assert max((weights("plain")[k] - v).abs().max() for k, v in weights("cached").items()) > 1e-3


def test_features_are_stored_and_answer_taps(say: Say) -> None:
    say("cache", *PHOTOS, "--codec", "dense32", "--features", "emb,2", "--features-codec", "dense32", "--out", "c")
    cached, method = ["--data", "photos", "--teacher", "cache:c"], ["--method", "rkd(distance=1, angle=1)"]
    say("train", *PHOTOS, *STUDENT, *method, "--no-baseline", "--out", "live")
    say("train", *cached, *STUDENT, *method, "--no-baseline", "--out", "cached")
    name = "rkd-distance-1-angle-1-seed0"
    for key, value in weights("live", name).items():
        torch.testing.assert_close(weights("cached", name)[key], value, rtol=0, atol=1e-4)
    said = say("train", *cached, *STUDENT, "--method", "fitnets(tap='1')", "--out", "at", code=2)
    assert "stores logits, 2, emb and no tap '1' of the teacher: write it with" in said.err
    assert not Path("at").exists()
    said = say("cache", *PHOTOS, "--features", "embb", "--out", "d", code=2)
    assert "embb" in said.err
    assert not Path("d").exists()


def test_a_graph_is_cached_whole_and_known_by_its_edges(say: Say) -> None:
    out = json.loads(say("cache", *GRAPH, "--codec", "dense32", "--out", "c", "--json").out)
    assert out["stored"] == out["samples"] == 60
    cached = ["--data", "graph.npz", "--teacher", "cache:c"]
    for method in ("glnn", "kd", "ff-g2m"):
        for name, words in (("live", GRAPH), ("cached", cached)):
            say("train", *words, *STUDENT, "--method", method, "--no-baseline", "--out", f"{name}-{method}")
        one, two = (weights(f"{name}-{method}", f"{method}-seed0") for name in ("live", "cached"))
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=0, atol=1e-6)
    with np.load("graph.npz") as parts:
        np.savez("other.npz", x=parts["x"], y=parts["y"], edge_index=parts["edge_index"][:, :-1])
    said = say("train", "--data", "other.npz", "--teacher", "cache:c", *STUDENT, "--out", "other", code=2)
    assert "the data (features or edges) changed" in said.err


def test_two_processes_write_their_shares_at_once(say: Say, tmp_path: Path) -> None:
    words = ["cache", *PHOTOS, "--views", "2", "--out", "c"]
    command = [sys.executable, "-m", "distil", *words]
    say(*words, "--part", "1/2")
    half = TeacherCache.open("c")
    assert 30 < len(half) < 42
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen([*command, "--part", f"{k}/2"], env=environment) for k in (1, 2)]
    assert [one.wait(120) for one in both] == [0, 0]
    assert len(TeacherCache.open("c")) == 72
    assert {file.name for file in half.folder.glob("*.shard")} > {shard.path.name for shard in half.shards}
    say("train", "--data", "photos", "--teacher", "cache:c", *STUDENT, "--no-baseline", "--out", "t")


def test_mistakes_are_one_sentence_and_leave_nothing(say: Say) -> None:
    save_file(knowing(), "again.safetensors")
    for words, says in (
        ([*PHOTOS, "--augment", "crop"], "--augment needs --views"),
        ([*PHOTOS, "--views", "2", "--augment", "crop,flop"], "did you mean 'flip'"),
        ([*PHOTOS, "--part", "3"], "--part 3 cannot be read"),
        ([*PHOTOS, "--part", "3/2"], "--part 3/2 is impossible"),
        ([*GRAPH, "--views", "2"], "views are of labelled images"),
        ([*PHOTOS, "--features", "logits"], "--features logits is no tap of its own"),
    ):
        assert says in say("cache", *words, "--out", "c", code=2).err
        assert not Path("c").exists()
    say("cache", *PHOTOS, "--views", "2", "--out", "v")
    say("cache", *PHOTOS, "--out", "plain")
    cached = ["--data", "photos", *STUDENT, "--out", "t", "--dry-run"]
    for words, says in (
        (["--teacher", "cache:v", "--set", "views.count=3"], "leave views out, which takes those of the cache"),
        (["--teacher", "cache:plain", "--set", "views.count=3"], "holds no views"),
        (["--teacher", "cache:v", "--set", "views_per_image=3"], "does not divide the batch size"),
        (["--teacher", "cache:plain", "--set", "views_per_image=2"], "needs views"),
        (["--teacher", "cache:v", "--set", "size=5"], "the record is of another size of the data"),
    ):
        assert says in say("train", *cached, *words, code=2).err
