"""distil condense and distil train on a user's own texts: chosen by a language model, by vectors, or without any."""

from __future__ import annotations

import csv
import json
import random
import shutil
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch

from distil.data import load
from distil.data.augmented import Augmentation
from distil.data.condensed import CondensedSet, load_condensed
from distil.loops import nearest_texts
from distil.loops.lab import Lab
from distil.loops.vectors import vectors_of
from distil.models.tokenizers import word_tokenizer
from distil.report import load as report_of

from .terminal import Said, contents, distil

transformers = pytest.importorskip("transformers")

Screen = pytest.CaptureFixture[str]
CLASSES = ("<b>bad</b>", "good & warm")
WORDS = (["dull", "cold", "grey", "flat", "slow"], ["fine", "warm", "bright", "rich", "quick"])
STUDENT = "distil:bow(vocab=200, dim=8, hidden=0)"


def pairs(count: int) -> list[tuple[str, str, str]]:
    """An instruction, an answer and its class; the answer's last word stands in every other instruction."""
    draw = random.Random(0)
    rows = []
    for k in range(count):
        words = draw.choices(WORDS[k % 2], k=draw.randint(2, 6))
        told = f"say {words[-1]} of it" if k % 4 < 2 else "what was it like"
        rows.append((told, " ".join(["the film", str(k), "is", *words]), CLASSES[k % 2]))
    return rows


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reviews in csv and in JSON lines, a GPT-2 and a BERT with random weights, whose tokenizer knows their words."""
    root = tmp_path_factory.mktemp("texts")
    with (root / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *((answer, label) for _, answer, label in pairs(120))])
    lines = [json.dumps({"instruction": a, "answer": b, "kind": c}) for a, b, c in pairs(120)]
    (root / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    words = word_tokenizer([f"{a} {b}" for a, b, _ in pairs(120)], 300)
    torch.manual_seed(0)
    wide = {"vocab_size": len(words), "n_embd": 16, "n_layer": 1, "n_head": 2, "initializer_range": 0.5}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**wide, n_positions=32)).save_pretrained(root / "lm")
    bert = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32,
    )  # fmt: skip
    transformers.BertModel(bert).save_pretrained(root / "bert")
    transformers.BertLMHeadModel(bert).save_pretrained(root / "both-ways")
    for name in ("lm", "bert", "both-ways"):
        words.save_pretrained(root / name)
    return root


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def condense(capsys: Screen, *more: str, method: str = "perplexity", data: str = "reviews.csv") -> Said:
    own = ["condense", "--data", data, "--method", method, "--per-class", "3", "--out", "small", "--device", "cpu"]
    return distil(capsys, *own, *more)


def good(said: Said) -> Said:
    assert said.code == 0, said.err
    assert "Traceback" not in said.err
    return said


LM = ("--set", "lm=hf:lm")
IFD = (*LM, "--set", "columns.text=answer", "--set", "columns.label=kind", "--set", "columns.prompt=instruction")


def loss(text: str, told: str = "") -> float:
    """The mean loss of a text by transformers' own loss, the first token never scored, one text at a time."""
    words = transformers.AutoTokenizer.from_pretrained("lm")
    model = transformers.AutoModelForCausalLM.from_pretrained("lm").eval()
    before, ids = (words(each, add_special_tokens=False)["input_ids"] for each in (told, text))
    labels = torch.tensor([[-100] * (len(before) + 1) + ids[1:]])
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([before + ids]), labels=labels).loss)


def test_texts_chosen_by_perplexity_teach_a_student(place: Path, capsys: Screen) -> None:
    said = good(condense(capsys, *LM))
    assert "6 samples; texts" in said.out.replace("\n", " ")
    small = load_condensed("small/set")
    assert (small.classes, small.kind, small.noun) == (CLASSES, "hard", "texts")
    assert small.inputs.shape == (6, 0)
    raw = load("reviews.csv", splits="small/splits.csv")
    texts, labels = raw.train.batch(torch.arange(len(raw.train)))["inputs"], raw.train.labels
    expected = []
    for label in range(2):
        mine = sorted((t for t, own in zip(texts, labels.tolist()) if own == label), key=loss)
        first = (len(mine) - 3) // 2
        expected += mine[first : first + 3]
    assert small.texts == tuple(expected)
    rows = [json.loads(line) for line in Path("small/set/texts.jsonl").read_text("utf-8").splitlines()]
    assert [row["text"] for row in rows] == expected
    assert [row["label"] for row in rows] == [CLASSES[k] for k in small.labels.tolist()]
    assert small.ids is not None
    whole = [answer for _, answer, _ in pairs(120)]
    assert [whole[row["id"]] for row in rows] == expected
    page = Path("small/report.html").read_text("utf-8")
    assert expected[0] in page
    assert "&lt;b&gt;bad&lt;/b&gt;" in page
    assert "<b>bad" not in page

    train = ("train", "--data", "small", "--student", STUDENT, "--device", "cpu")
    assert good(distil(capsys, *train, "--dry-run", "--json")).json["samples"] == 6
    good(distil(capsys, *train, "--set", "updates=40", "--set", "training.lr=0.05", "--out", "students"))
    report = report_of("students")
    assert (report["task"], report["data"]["test"]) == ("text-classification", len(raw.test))
    [arm] = report["arms"]
    assert arm["metrics"]["accuracy"]["best"][0] > 75  # ten words tell the classes; 6 texts hold most of them
    assert not [warning for warning in report["warnings"] if "other data" in warning]
    good(distil(capsys, "export", "students", "--out", "shipped"))
    Path("new.txt").write_text("the film is dull and cold\n", encoding="utf-8")
    answers = good(distil(capsys, "predict", "shipped", "new.txt", "--json")).json["answers"]
    assert answers[0]["label"] in CLASSES


def test_answers_are_chosen_by_what_their_instruction_adds(place: Path, capsys: Screen) -> None:
    good(condense(capsys, *IFD, method="ifd", data="pairs.jsonl"))
    small = load_condensed("small/set")
    assert small.prompts is not None
    told = {answer: prompt for prompt, answer, _ in pairs(120)}
    assert small.prompts == tuple(told[text] for text in small.texts or ())
    raw = load("pairs.jsonl", text="answer", label="kind", prompt="instruction", splits="small/splits.csv")
    part = raw.train.batch(torch.arange(len(raw.train)))
    score = {t: float(torch.tensor(loss(t, p) - loss(t)).exp()) for t, p in zip(part["inputs"], part["prompts"])}
    for label in range(2):
        mine = [t for t, own in zip(part["inputs"], part["labels"].tolist()) if own == label and score[t] < 1]
        chosen = [t for t, own in zip(small.texts or (), small.labels.tolist()) if own == label]
        assert chosen == sorted(mine, key=lambda t: -score[t])[:3]
    assert "score 1 or more and were left out" in " ".join(small.made["notes"])
    assert "what was it like" in Path("small/report.html").read_text("utf-8")


def test_a_set_of_texts_is_ordinary_data_for_a_method_and_its_teacher(place: Path, capsys: Screen) -> None:
    good(condense(capsys, "--per-class", "20", method="random"))
    teacher = ("--teacher", "hf:bert", "--train-teacher", "20", "--method", "kd", "--epochs", "1", "--lr", "0.01")
    good(
        distil(
            capsys,
            "train",
            "--data",
            "small",
            *teacher,
            "--student",
            STUDENT,
            "--device",
            "cpu",
            "--batch-size",
            "8",
            "--out",
            "taught",
        )
    )
    assert report_of("taught")["data"]["train"] == 40


ENCODED = ("--set", "encoder=hf:bert")


@pytest.mark.parametrize("method", ["herding", "k-center", "clusters", "duplicates", "forgetting"])
def test_what_compares_vectors_keeps_the_texts_it_chose(place: Path, capsys: Screen, method: str) -> None:
    more = ("--set", "epochs=2") if method == "forgetting" else ()
    good(condense(capsys, *ENCODED, *more, method=method))
    small = load_condensed("small/set")
    whole = [answer for _, answer, _ in pairs(120)]
    assert small.ids is not None
    assert small.texts == tuple(whole[k] for k in small.ids.tolist())
    assert small.labels.bincount().tolist() == [3, 3]
    assert len(set(small.texts)) == 6


def test_vectors_are_kept_where_they_are_asked_for(place: Path, capsys: Screen) -> None:
    good(condense(capsys, *ENCODED, "--set", "keep=vectors", method="herding"))
    vectors = load_condensed("small/set")
    assert (vectors.texts, vectors.inputs.shape) == (None, (6, 16))
    good(condense(capsys, *ENCODED, "--overwrite", method="herding"))
    texts = load_condensed("small/set")
    assert torch.equal(texts.ids, vectors.ids)  # type: ignore[arg-type]


NEAREST = (*ENCODED, "--set", "keep=nearest", "--set", "iterations=2", "--set", "net=distil:mlp(hidden=8)")


def test_vectors_that_are_made_become_the_nearest_real_texts(
    place: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[list[float]] = []
    run_arms = nearest_texts.run_arms

    def noting(*given: Any, **named: Any) -> Any:
        found = run_arms(*given, **named)
        figures.extend([each.metrics["last"]["accuracy"] for each in runs] for runs in found.values())
        return found

    monkeypatch.setattr(nearest_texts, "run_arms", noting)
    judged = ("--evaluate", "--student", STUDENT, "--student", "distil:textcnn(vocab=200, dim=8)", "--updates", "4")
    good(condense(capsys, *NEAREST, *judged, "--seeds", "2", method="dm"))
    small = load_condensed("small/set")
    whole = [answer for _, answer, _ in pairs(120)]
    assert small.ids is not None
    assert small.texts == tuple(whole[k] for k in small.ids.tolist())
    assert small.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(set(small.ids.tolist())) == 6

    free = (*NEAREST[:2], "--set", "keep=vectors", *NEAREST[4:], "--set", "splits=small/splits.csv", "--out", "free")
    good(condense(capsys, *free, method="dm"))
    vectors, raw = load_condensed("free/set"), load("reviews.csv", splits="small/splits.csv")
    bank = vectors_of(Lab(place / "lab", shared=place / "lab"), "hf:bert", raw).train
    for label in range(2):  # of all ways to take three different texts of the class, one of the shortest way in all
        mine = (bank.labels == label).nonzero().flatten()
        away = torch.cdist(vectors.inputs[vectors.labels == label], bank.inputs[mine])
        at = [bank.ids[mine].tolist().index(k) for k in small.ids[small.labels == label].tolist()]
        total = away[0][:, None, None] + away[1][None, :, None] + away[2][None, None, :]
        same = torch.eye(len(mine), dtype=torch.bool)
        total[same[:, :, None] | same[:, None, :] | same[None, :, :]] = torch.inf
        assert float(sum(away[k, at[k]] for k in range(3))) == pytest.approx(float(total.min()), rel=1e-4)

    report = report_of("small")
    assert [arm["name"] for arm in report["arms"]] == ["random", "set", "real"]
    assert "the nearest real text of its class" in report["setting"]["Texts"]
    [cost] = [table for table in report["tables"] if table["title"] == "What the nearest real texts cost"]
    assert [row[1] for row in cost["rows"]] == ["last", "best"] * 2
    for _, _, *cells in cost["rows"]:
        made, taken, points = (float(cell.split(" ")[0]) for cell in cells)
        assert points == pytest.approx(made - taken, abs=0.11)
    for row, (free, taken) in zip(cost["rows"][::2], zip(figures[::2], figures[1::2], strict=True), strict=True):
        assert row[2:4] == [f"{fmean(each):.1f} ± {stdev(each):.1f}" for each in (free, taken)]
    good(distil(capsys, "train", "--data", "small", "--student", STUDENT, "--set", "updates=3", "--out", "students"))
    report = report_of("students")
    assert report["task"] == "text-classification"
    assert not [warning for warning in report["warnings"] if "other data" in warning]


@pytest.mark.parametrize(("method", "labels"), [("dc-kd", ()), ("dm", ("--labels", "static"))])
def test_a_teacher_labels_the_texts_that_are_taken(
    place: Path, capsys: Screen, method: str, labels: tuple[str]
) -> None:
    taught = ("--teacher", "distil:mlp(hidden=[])", "--train-teacher", "60", "--set", "training.lr=0.05")
    good(condense(capsys, *NEAREST, *taught, *labels, method=method))
    small = load_condensed("small/set")
    assert (small.kind, small.noun) == ("static", "texts")
    assert small.logits is not None
    good(
        condense(capsys, *ENCODED, *taught, "--labels", "static", "--per-class", "42", "--out", "all", method="random")
    )
    every = load_condensed("all/set")
    assert every.ids is not None
    assert small.ids is not None
    assert every.logits is not None
    row = {k: place for place, k in enumerate(every.ids.tolist())}
    expected = every.logits[[row[k] for k in small.ids.tolist()]]
    torch.testing.assert_close(small.logits, expected, atol=2e-2, rtol=2e-2)


def test_nearest_texts_are_of_texts_and_of_a_set_that_is_made(place: Path, capsys: Screen) -> None:
    said = condense(capsys, "--set", "keep=nearest", method="dm", data="digits")
    assert said.code == 2
    assert "keep='nearest' is for texts, and digits holds none" in " ".join(said.err.split())
    good(condense(capsys, method="random"))
    said = distil(capsys, *THERE, "--out", "again")
    assert said.code == 2
    assert "small holds texts, which are real ones already; leave keep=nearest out" in " ".join(said.err.split())
    assert not Path("again").exists()


THERE = (
    *("condense", "--data", "reviews.csv", "--existing", "small", "--set", "encoder=hf:bert", "--set", "keep=nearest"),
    *("--set", "splits=small/splits.csv", "--device", "cpu"),
)
QUICK = ("--student", STUDENT, "--student", "distil:textcnn(vocab=200, dim=8)", "--seeds", "2", "--updates", "4")


def test_vectors_that_are_there_become_the_nearest_real_texts(place: Path, capsys: Screen) -> None:
    made = (*NEAREST[:2], "--set", "keep=vectors", *NEAREST[4:])
    good(condense(capsys, *made, method="dm"))
    good(condense(capsys, *NEAREST, "--set", "splits=small/splits.csv", "--out", "whole", method="dm"))
    before, expected = contents(Path("small")), load_condensed("whole/set")
    said = good(distil(capsys, *THERE, *QUICK, "--out", "texts"))
    assert "Train on it: distil train --data texts" in said.out.replace("\n", " ")
    assert contents(Path("small")) == before
    small = load_condensed("texts/set")
    assert (small.texts, small.kind, small.made["method"]) == (expected.texts, "hard", "dm")
    assert torch.equal(small.ids, expected.ids)  # type: ignore[arg-type]
    report = report_of("texts")
    assert "the nearest real text of its class" in report["setting"]["Texts"]
    assert "What the nearest real texts cost" in [table["title"] for table in report["tables"]]
    assert not [warning for warning in report["warnings"] if "other data" in warning]
    good(distil(capsys, "train", "--data", "texts", "--student", STUDENT, "--set", "updates=3", "--out", "students"))
    # Of another encoder, another split or data of whom nothing is known: it is done, and said.
    for more in ("encoder=hf:both-ways", "split_seed=3"):
        other = [more if word.startswith("splits=") else word for word in THERE]
        said = good(distil(capsys, *other, "--dry-run"))
        assert "The vectors were made from other data" in " ".join(said.err.split())


def test_texts_of_vectors_that_are_there_are_labelled_anew_or_refused(place: Path, capsys: Screen) -> None:
    taught = ("--teacher", "distil:mlp(hidden=[])", "--train-teacher", "60", "--set", "training.lr=0.05")
    made = (*NEAREST[:2], "--set", "keep=vectors", *NEAREST[4:], *taught)
    good(condense(capsys, *made, "--labels", "static", method="dm"))

    def complaint(*more: str) -> str:
        said = distil(capsys, *THERE, *more, "--out", "texts")
        assert said.code == 2, said
        assert not Path("texts").exists()
        return " ".join(said.err.split())

    assert "are its teachers' answers to the vectors, not to texts" in complaint()
    assert "labels are a teacher's on views of vectors, and texts have none" in complaint(
        *taught, "--labels", "dynamic"
    )
    good(distil(capsys, *THERE, *taught, "--labels", "static", *QUICK, "--out", "texts"))
    small = load_condensed("texts/set")
    assert (small.kind, small.noun) == ("static", "texts")
    vectors = load_condensed("small/set")
    assert small.logits is not None
    assert vectors.logits is not None
    assert not torch.allclose(small.logits, vectors.logits)  # the teacher's of the texts, no longer of the vectors
    many = CondensedSet(torch.randn(120, 16), torch.arange(120) % 2, CLASSES)
    shutil.rmtree("small/set")
    many.save("small/set")
    shutil.rmtree("texts")
    assert "keep=nearest takes 60 different texts of" in complaint()
    made_by = {"method": "dc-kd", "seconds": 123.0}  # but labelled hard since, so that no teacher is asked
    few = CondensedSet(torch.randn(4, 16), torch.arange(4) % 2, CLASSES, made=made_by)
    few.save("small/set")
    said = good(distil(capsys, *THERE, "--dry-run"))
    assert "The vectors do not say what they are of" in " ".join(said.err.split())
    good(distil(capsys, *THERE, *QUICK, "--out", "texts"))
    small = load_condensed("texts/set")
    assert (small.kind, small.noun, small.made["seconds"]) == ("hard", "texts", 123.0)
    [note] = small.made["notes"]
    assert report_of("texts")["warnings"].count(note) == 1


def test_vectors_and_the_texts_taken_for_them_are_shown_alike(
    place: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Augmentation] = []
    set_arm = nearest_texts.set_arm

    def noting(lab: Any, role: Any, label: str, make: Any, *given: Any, **named: Any) -> Any:
        shown.append(Augmentation.of(make(0).record["augmentation"]))
        return set_arm(lab, role, label, make, *given, **named)

    monkeypatch.setattr(nearest_texts, "set_arm", noting)
    good(condense(capsys, *NEAREST[:2], "--set", "keep=vectors", *NEAREST[4:], method="dm"))
    good(distil(capsys, *THERE, "--labels", "hard", *QUICK, "--out", "texts"))
    assert len(shown) >= 2
    assert shown == [shown[0]] * len(shown)
    assert shown[0].mix == "none"


def test_a_teacher_of_vectors_labels_texts_and_they_are_judged(place: Path, capsys: Screen) -> None:
    taught = ("--teacher", "distil:mlp(hidden=[])", "--train-teacher", "60", "--set", "training.lr=0.05")
    judged = ("--evaluate", "--student", STUDENT, "--student", "distil:textcnn(vocab=200, dim=8)", "--seeds", "1")
    said = good(condense(capsys, *ENCODED, *taught, "--labels", "static", *judged, "--updates", "4", method="el2n"))
    assert "texts" in said.out
    small = load_condensed("small/set")
    assert (small.kind, small.noun) == ("static", "texts")
    assert small.logits is not None
    report = report_of("small")
    assert [arm["name"] for arm in report["arms"]] == ["random", "set", "set-hard", "real"]
    good(
        distil(
            capsys, "train", "--data", "small", "--student", STUDENT, "--set", "updates=3", "--out", "students",
            "--device", "cpu",
        )
    )  # fmt: skip
    assert [arm["name"] for arm in report_of("students")["arms"]] == ["hard", "set"]
    existing = ("condense", "--data", "reviews.csv", "--existing", "small", "--set", "splits=small/splits.csv")
    again = good(distil(capsys, *existing, *judged, "--updates", "4", "--json", "--device", "cpu"))
    assert [arm["name"] for arm in again.json["arms"]] == ["random", "set-hard", "set", "real"]


def test_copies_are_left_out_and_counted(place: Path, capsys: Screen) -> None:
    rows = [f"A dull film,{CLASSES[0]}", f"a  DULL film,{CLASSES[0]}", f"cold,{CLASSES[0]}", f"warm,{CLASSES[1]}"]
    parts = [
        *(f"{row},train" for row in rows),
        *(f"fine {k},{CLASSES[k % 2]},{('val', 'test')[k // 2]}" for k in range(4)),
    ]
    Path("copies.csv").write_text("\n".join(["text,label,split", *parts]), encoding="utf-8")
    said = good(condense(capsys, method="duplicates", data="copies.csv"))
    assert "fewer than 3 training samples" in said.err
    small = load_condensed("small/set")
    assert small.weights is not None
    counted = dict(zip(small.texts or (), small.weights.tolist(), strict=True))
    assert counted == {"A dull film": 2.0, "cold": 1.0, "warm": 1.0}


def test_a_class_with_fewer_gives_all_and_texts_too_short_are_named(place: Path, capsys: Screen) -> None:
    kept = [row for k, row in enumerate(pairs(120)) if k % 2 == 0 or k < 14]
    rows = [(answer, label, "train") for _, answer, label in kept[:-4]]
    rows += [(a, label, part) for a, label, part in zip(("x one", "x two"), CLASSES, ("val", "val"))]
    rows += [(a, label, part) for a, label, part in zip(("x three", "x four"), CLASSES, ("test", "test"))]
    with Path("few.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label", "split"), ("dull", CLASSES[0], "train"), *rows])
    said = good(condense(capsys, *LM, "--per-class", "9", data="few.csv"))
    words = " ".join(said.err.split())
    assert "1 of 64 texts have fewer than 2 tokens, too short to be scored, and were left out: 'dull' (id 0)" in words
    assert "classes have fewer than 9 training samples and give all: good & warm (7)" in words
    small = load_condensed("small/set")
    assert small.labels.bincount().tolist() == [9, 7]
    assert "too short to be scored" in small.made["notes"][0]


def test_a_dry_run_says_what_texts_would_take(place: Path, capsys: Screen) -> None:
    before = contents(place)
    said = good(condense(capsys, *LM, "--dry-run", "--json"))
    assert said.json["budget"]["samples"] == 6
    assert 6 * 15 < said.json["budget"]["bytes"] < 6 * 50
    assert contents(place) == before


def test_a_language_model_trained_further_in_its_folder_reads_again(place: Path, capsys: Screen) -> None:
    good(condense(capsys, *LM))
    first = load_condensed("small/set").made["lm"]
    torch.manual_seed(1)
    config = transformers.GPT2Config.from_pretrained("lm")
    transformers.GPT2LMHeadModel(config).save_pretrained("lm")
    good(condense(capsys, *LM, "--resume"))
    assert load_condensed("small/set").made["lm"] != first


def test_half_of_a_surrogate_pair_is_read_as_a_mark(place: Path, capsys: Screen) -> None:
    lines = [json.dumps({"text": f"\ud83d {b}", "label": c}) for _, b, c in pairs(120)]
    Path("halves.jsonl").write_text("\n".join(lines), encoding="utf-8")
    dry = good(condense(capsys, "--dry-run", "--json", method="random", data="halves.jsonl"))
    assert dry.json["budget"]["bytes"] > 6 * 15
    good(condense(capsys, *LM, data="halves.jsonl"))
    assert all(text.startswith("\ud83d ") for text in load_condensed("small/set").texts or ())
    more = ("--set", "updates=3", "--out", "students", "--device", "cpu")
    good(distil(capsys, "train", "--data", "small", "--student", STUDENT, *more))
    assert report_of("students")["arms"][0]["metrics"]["accuracy"]["best"][0] > 0


WRONG: dict[str, tuple[tuple[str, ...], str, str]] = {
    "samples of texts": ((), "dm", "dm makes samples, and reviews.csv holds texts, which stand for that as vectors"),
    "vectors of nobody": ((), "herding", "name the encoder that makes them: --set encoder=hf:FOLDER"),
    "vectors kept of nobody": (("--set", "keep=vectors"), "random", "keep=vectors keeps an encoder's vectors"),
    "texts that are made": ((*ENCODED, "--set", "keep=texts"), "dm", "dm makes samples that are no texts"),
    "the nearest of what is real": (
        (*ENCODED, "--set", "keep=nearest"),
        "herding",
        "herding chooses texts that are real",
    ),
    "the nearest of nobody": (("--set", "keep=nearest"), "dm", "name the encoder that makes them"),
    "more than there are": ((*NEAREST, "--per-class", "99"), "dm", "takes 99 different texts of <b>bad</b>"),
    "labels of views of the nearest": ((*NEAREST, "--labels", "dynamic"), "dm", "take hard or static labels"),
    "a way to keep": (("--set", "keep=words"), "random", "keep='words' is unknown"),
    "no model": ((), "perplexity", "name its folder: --set lm=hf:FOLDER"),
    "a model of the hub": (("--set", "lm=hf:gpt2"), "perplexity", "there is no folder 'gpt2' with a language model"),
    "another kind of model": (("--set", "lm=distil:bow"), "perplexity", "hf:FOLDER alone is expected"),
    "an encoder": (("--set", "lm=hf:bert"), "perplexity", "holds a BertModel, which is no causal language model"),
    "a model that looks ahead": (("--set", "lm=hf:both-ways"), "perplexity", "looks at tokens that come after"),
    "no instructions": (LM, "ifd", "name the column of instructions: --set columns.prompt=NAME"),
    "an unknown column": ((*LM, "--set", "columns.prompt=told"), "ifd", "has no prompt column 'told'"),
    "a part of the order": ((*LM, "--set", "take=best"), "perplexity", "take='best' is unknown"),
    "twins without vectors": ((*LM, "--set", "twins=0.9"), "perplexity", "copies with --method duplicates"),
    "labels of views": ((*ENCODED, "--labels", "dynamic"), "random", "take hard or static labels"),
    "a teacher of texts": (
        ("--teacher", "hf:bert", "--labels", "static"),
        "random",
        "teachers of a small set see texts",
    ),
    "nothing below, of any class": (
        (*LM, "--set", "below=0.5", "--set", "balance=false"),
        "perplexity",
        "can be chosen. 84 of 84 texts score 0.5 or more",
    ),
    "nothing below": ((*LM, "--set", "below=0.5"), "perplexity", "can be chosen. 84 of 84 texts score 0.5 or more"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_one_sentence(name: str, place: Path, capsys: Screen) -> None:
    more, method, sentence = WRONG[name]
    before = {path for path in contents(place) if not path.startswith("cache")}
    said = condense(capsys, *more, method=method)
    assert said.code == 2, said
    assert "Traceback" not in said.err
    assert sentence in " ".join(said.err.split())
    left = {path for path in contents(place) if not path.startswith(("cache", "small"))}
    assert left == before


def test_no_texts_at_all_are_refused(place: Path, capsys: Screen) -> None:
    Path("empty.csv").write_text("text,label\n", encoding="utf-8")
    said = condense(capsys, *LM, data="empty.csv")
    assert said.code == 2
    assert "holds no text with a label" in said.err


def test_a_set_whose_texts_were_changed_is_refused(place: Path, capsys: Screen) -> None:
    good(condense(capsys, method="random"))
    file = Path("small/set/texts.jsonl")
    file.write_text(file.read_text("utf-8").replace("film", "movie"), encoding="utf-8")
    said = distil(capsys, "train", "--data", "small", "--student", STUDENT)
    assert said.code == 2
    assert "texts.jsonl was changed or cut off" in " ".join(said.err.split())
