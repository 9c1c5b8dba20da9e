"""Texts from tables: every format, every mistake with its line, and what is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from distil.data import load, read_text, tokenised
from distil.data.tables import read_table
from distil.errors import DistilError
from distil.models.tokenizers import word_tokenizer

GOOD, BAD = 'a fine, "warm" film number {}', "a dull\nfilm number {}"


def rows(count: int = 40) -> list[tuple[str, str]]:
    return [((GOOD if k % 2 else BAD).format(k), "good" if k % 2 else "bad") for k in range(count)]


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def separated(path: Path, mark: str, names: tuple[str, str] = ("text", "label")) -> Path:
    lines = [mark.join(names), *(f"{quoted(text)}{mark}{label}" for text, label in rows())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return path


def parquet(path: Path, columns: dict[str, Any], metadata: dict[str, str] | None = None) -> Path:
    import pyarrow as pa
    from pyarrow import parquet as files

    path.parent.mkdir(parents=True, exist_ok=True)
    made = pa.table(columns)
    files.write_table(made.replace_schema_metadata(metadata) if metadata else made, path)
    return path


def json_lines(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in content), encoding="utf-8")
    return path


def written(folder: Path, kind: str) -> Path:
    path = folder / f"reviews.{kind}"
    if kind == "parquet":
        return parquet(path, {"text": [t for t, _ in rows()], "label": [c for _, c in rows()]})
    if kind == "jsonl":
        return json_lines(path, [{"text": text, "label": label} for text, label in rows()])
    return separated(path, "\t" if kind == "tsv" else ",")


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_texts_and_splits(tmp_path: Path, kind: str) -> None:
    bundle = load(written(tmp_path, kind))
    assert bundle.task == "text-classification"
    assert bundle.classes == ("bad", "good")
    assert [len(part) for part in (bundle.train, bundle.val, bundle.test)] == [28, 6, 6]
    assert bundle.train.dataset.texts == [text for text, _ in rows()]
    assert bundle.train.dataset.labels.tolist() == [k % 2 for k in range(40)]
    assert bundle.train.labels.bincount().tolist() == [14, 14]
    assert "read as text: the texts are in the column 'text', the labels in 'label'" in " ".join(bundle.notes)
    batch = bundle.train.batch(torch.tensor([0]))
    assert batch["inputs"] == [bundle.train[0]["inputs"]]
    again = load(written(tmp_path, kind))
    assert again.fingerprint == bundle.fingerprint
    assert load(tmp_path / f"reviews.{kind}", seed=1).fingerprint != bundle.fingerprint


def test_a_folder_by_split_shards_and_data_folder_with_declared_names(tmp_path: Path) -> None:
    features = {"info": {"features": {"label": {"names": ["neg", "pos"]}}}}
    for split, start in (("train-00000-of-00002", 0), ("train-00001-of-00002", 20), ("validation", 40), ("test", 50)):
        texts = [f"text {start + k}" for k in range(10 if start >= 40 else 20)]
        columns = {"sentence": texts, "label": [k % 2 for k in range(len(texts))]}
        parquet(tmp_path / "data" / f"{split}.parquet", columns, {"huggingface": json.dumps(features)})
    bundle = load(tmp_path)
    assert bundle.classes == ("neg", "pos")
    assert [len(part) for part in (bundle.train, bundle.val, bundle.test)] == [40, 10, 10]
    assert load(tmp_path, classes=["pos", "neg"]).classes == ("pos", "neg")
    (tmp_path / "data" / "test.csv").write_text("text,label\na,0\n")
    with pytest.raises(DistilError, match=r"holds test as \.csv and as \.parquet"):
        load(tmp_path)
    (tmp_path / "data" / "test.csv").unlink()
    (tmp_path / "data" / "more.parquet").write_bytes(b"")
    with pytest.raises(DistilError, match=r"more\.parquet' names no split"):
        load(tmp_path)


def test_a_hidden_test_part_counts_as_absent(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        content = [{"text": f"{split} {k}", "label": -1 if split == "test" else k % 2} for k in range(20)]
        json_lines(tmp_path / f"{split}.jsonl", content)
    bundle = load(tmp_path)
    assert [len(part) for part in (bundle.train, bundle.val, bundle.test)] == [20, 10, 10]
    assert "all labels of test.jsonl are -1" in " ".join(bundle.notes)


def test_a_table_of_images_is_none_of_texts(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text("path,text,label\n1.png,a caption,0\n2.png,another,1\n")
    with pytest.raises(DistilError, match="none of the 2 images can be decoded"):
        load(file)
    with pytest.raises(DistilError, match="which leave train, val and test with"):
        load(file, text="text")  # the user's word decides
    file.write_text("path,text,label\nhow it went,a caption,0\nwell,another,1\n")
    with pytest.raises(DistilError, match="usable texts"):
        load(file)  # what is in 'path' is no path of an image


def test_columns_are_named_or_found(tmp_path: Path) -> None:
    file = separated(tmp_path / "odd.csv", ",", ("words", "verdict"))
    with pytest.raises(DistilError, match=r"'words', 'verdict' but no text column .* --set columns.text=NAME"):
        read_text(file)
    bundle = load(file, text="words", label="verdict")
    assert bundle.classes == ("bad", "good")
    with pytest.raises(DistilError, match="no label column 'verdct'; did you mean 'verdict'"):
        load(file, text="words", label="verdct")
    assert load(separated(tmp_path / "capitals.csv", ",", ("Review", "Sentiment"))).classes == ("bad", "good")
    many = separated(tmp_path / "semicolons.csv", ";")
    assert "separated by semicolons" in " ".join(load(many).notes)


MISTAKES = {
    "latin.csv": (b"text,label\nfine,good\ncaf\xe9,good\n", "line 3: the byte 0xe9 is no UTF-8"),
    "wide.csv": ("text,label\nfine,good\n".encode("utf-16"), "written in UTF-16"),
    "open.csv": (b'text,label\nfine,good\n"never closed,bad\n', "line 3: unexpected end of data"),
    "fields.csv": (b"text,label\nfine, warm,good\n", "line 2: it has 3 fields and the header 2; a text with a comma"),
    "after.csv": (b'text,label\n"a\nb",good\nc\n', "line 4: it has 1 fields"),
    "twice.csv": (b"text,label,label\na,b,c\n", "two columns are called 'label'"),
    "nothing.csv": (b"", "the first line must name the columns"),
    "broken.jsonl": (b'{"text": "a", "label": 1}\n\n{"text": "b", "label": \n', "line 3: it is no JSON"),
    "list.jsonl": (b'["a", 1]\n', "line 1: it holds a list; expected an object"),
    "number.jsonl": (b'{"text": 3, "label": 1}\n', "number.jsonl, line 1: the column 'text' holds a int"),
    "half.jsonl": (b'{"text": "a", "label": 0.5}\n', "line 1: the label '0.5' is a float"),
    "torn.parquet": (b"PAR1 torn", "no readable parquet file"),
    "split.csv": (b"text,label,split\na,0,train\nb,1,trian\n", "split.csv, line 3: the split 'trian' is none of"),
    "empty.csv": (b"text,label\n,0\n  ,1\n", "holds no text with a label. .*2 rows have an empty text"),
    "one.csv": (b"text,label\na,x\nb,x\n", "has one class only ('x', 2 texts)"),
    "small.csv": (b"text,label\na,x\nb,y\n", "has 2 usable texts"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_file_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    content, said = MISTAKES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DistilError) as caught:
        read_text(tmp_path / name)
    head, _, tail = said.partition(" .*")
    assert head in str(caught.value)
    assert tail in str(caught.value)


def test_quotes_in_a_tsv_without_quoting_are_part_of_the_text(tmp_path: Path) -> None:
    file = tmp_path / "plain.tsv"
    file.write_text('text\tlabel\n"so" good\tgood\n"open\tbad\n')
    table = read_table(file)
    assert table.columns == {"text": ['"so" good', '"open'], "label": ["good", "bad"]}
    assert "quotes are read as part of the text" in table.notes[0]


def test_empty_texts_and_missing_labels_are_left_out_and_counted(tmp_path: Path) -> None:
    content = [{"text": text, "label": label} for text, label in rows()]
    content[3]["text"] = "   "
    content[5]["label"] = None  # type: ignore[assignment]
    del content[7]["label"]
    notes = " ".join((bundle := load(json_lines(tmp_path / "gaps.jsonl", content))).notes)
    assert "1 rows have an empty text and were left out: gaps.jsonl, line 4" in notes
    assert "2 rows have no label and were left out: gaps.jsonl, line 6; gaps.jsonl, line 8" in notes
    assert len(bundle.train.dataset) == 37
    table = {"text": [text for text, _ in rows()], "label": [float(k % 2) if k else None for k in range(40)]}
    bundle = load(parquet(tmp_path / "gaps.parquet", table))
    assert bundle.classes == ("0", "1")
    assert len(bundle.train.dataset) == 39


def test_classes_come_from_train_a_file_or_the_user(tmp_path: Path) -> None:
    for split, label in (("train", None), ("val", "god"), ("test", None)):
        content = [{"text": f"{split} {text}", "label": own} for text, own in rows(12)]
        content[4]["label"] = label or content[4]["label"]
        json_lines(tmp_path / f"{split}.jsonl", content)
    with pytest.raises(DistilError, match=r"val.jsonl, line 5 has the label 'god'.*did you mean 'good'"):
        load(tmp_path)
    json_lines(tmp_path / "val.jsonl", [{"text": text, "label": own} for text, own in rows(12)])
    assert load(tmp_path).classes == ("bad", "good")
    (tmp_path / "classes.txt").write_text("good\nbad\nugly\n")
    bundle = load(tmp_path)
    assert bundle.classes == ("good", "bad", "ugly")
    assert bundle.train.dataset.labels[:2].tolist() == [1, 0]
    assert "no training sample has the class 'ugly'" in " ".join(bundle.notes)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "classes.json").write_text('["bad", "goood"]')
    with pytest.raises(DistilError, match=r"line 2 has the label 'good', and the data's class list has"):
        load(tmp_path)
    with pytest.raises(DistilError, match="names 'bad' twice"):
        load(tmp_path, classes=["bad", "bad"])
    (tmp_path / "classes.json").write_text('{"bad": 0}')
    with pytest.raises(DistilError, match="is no list of names"):
        load(tmp_path)


def test_whole_numbers_as_text_are_numbers_and_can_be_given_names(tmp_path: Path) -> None:
    file = tmp_path / "stars.csv"
    file.write_text("text,label\n" + "".join(f"text {k},{(2, 10)[k % 2]}\n" for k in range(30)))
    bundle = load(file)
    assert bundle.classes == ("2", "10")
    assert "the labels [2, 10] were renumbered 0..1" in " ".join(bundle.notes)
    assert load(file, classes=[10, 2]).train.dataset.labels[:2].tolist() == [1, 0]
    file.write_text(file.read_text().replace(",2\n", ",0\n").replace(",10\n", ",1\n"))
    named = load(file, classes=["few", "many"])
    assert named.classes == ("few", "many")
    assert named.train.dataset.labels[:2].tolist() == [0, 1]


def test_copies_and_leaks_put_case_and_spaces_aside(tmp_path: Path) -> None:
    texts = {
        "train": ["Fine film", "fine  FILM ", "dull", "warm", "cold", "long"],
        "val": ["DULL", "short", "new", "tall"],
        "test": ["warm", "short", "late", "early"],
    }
    for split, own in texts.items():
        json_lines(tmp_path / f"{split}.jsonl", [{"text": t, "label": "ab"[k % 2]} for k, t in enumerate(own)])
    bundle = load(tmp_path)
    notes = " ".join(bundle.notes)
    assert "duplicates: 4 samples are copies (case and spaces aside) of others (2 of them with another" in notes
    assert "inside train, val and test there are 1, 0 and 0" in notes
    assert "LEAK: 1 of val and 1 of test also stand in train, and 1 of test in val" in notes
    assert len(bundle.train) == 6
    cleaned = load(tmp_path, drop_leaks=True)
    assert "the 2 samples of train concerned were left out" in " ".join(cleaned.notes)
    assert [cleaned.train[k]["inputs"] for k in range(len(cleaned.train))] == [
        "Fine film",
        "fine  FILM ",
        "cold",
        "long",
    ]
    assert len(cleaned.val) == len(cleaned.test) == 4
    assert cleaned.fingerprint != bundle.fingerprint


def test_each_role_gets_its_own_ids_of_the_same_texts(tmp_path: Path) -> None:
    bundle = load(written(tmp_path, "csv"))
    texts = bundle.train.dataset.texts
    small, large = word_tokenizer(texts, 8), word_tokenizer(texts, 100)
    both = tokenised(bundle, small, large, max_length=4, teacher_max_length=16)
    batch = both.train.batch(torch.tensor([3, 0]))
    k, first = both.train.positions[3], both.train[3]
    assert batch["id"][0] == k
    assert batch["labels"][0] == first["labels"]
    assert batch["inputs"]["input_ids"].shape == (2, 4)
    assert batch["teacher_inputs"]["input_ids"].shape[1] > 4
    assert int(batch["inputs"]["input_ids"].max()) < 8
    words = large.decode(batch["teacher_inputs"]["input_ids"][0], skip_special_tokens=True)
    assert words.split()[:2] == texts[k].lower().replace(",", " ,").split()[:2]
    lengths = batch["teacher_inputs"]["attention_mask"].sum(1)
    assert int(lengths.max()) == batch["teacher_inputs"]["input_ids"].shape[1]  # padded to the longest, no further
    assert torch.equal(first["inputs"]["input_ids"], batch["inputs"]["input_ids"][0])
    notes = " ".join(both.notes)
    assert "different tokenizers" in notes
    assert "40 texts fill all 4 tokens of the student" in notes
    same = tokenised(bundle, large, word_tokenizer(texts, 100), max_length=16)
    assert "teacher_inputs" not in same.train.batch(torch.tensor([0]))
    assert len({bundle.fingerprint, both.fingerprint, same.fingerprint}) == 3
    assert tokenised(bundle, large, max_length=16).fingerprint == same.fingerprint
    with pytest.raises(DistilError, match="holds no raw texts"):
        tokenised(both, small)


def test_padding_goes_where_the_tokenizer_puts_it(tmp_path: Path) -> None:
    bundle = load(json_lines(tmp_path / "t.jsonl", [{"text": "a b c"[: 1 + k % 5], "label": k % 2} for k in range(40)]))
    tokenizer = word_tokenizer(["a b c"], 10)
    tokenizer.padding_side = "left"
    batch = tokenised(bundle, tokenizer).train.batch(torch.arange(28))["inputs"]
    assert batch["attention_mask"][:, -1].all()
    lengths = batch["attention_mask"].sum(1)
    assert lengths.unique().tolist() == [1, 2, 3]
    assert all(not row[: 3 - n].any() for row, n in zip(batch["input_ids"], lengths))
    tokenizer.pad_token = None
    with pytest.raises(DistilError, match="has no padding token"):
        tokenised(bundle, tokenizer)
