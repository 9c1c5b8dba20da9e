"""Tables of numbers and categories: what a column is, what training rows teach, and what is refused with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distil.data import load
from distil.data.columns import read_columns
from distil.data.encoding import Column, RowEncoder, is_missing
from distil.errors import DistilError

TOWNS = ("Rome", "Oslo", "Bonn")


def rows(count: int = 60) -> list[str]:
    return [f"{20 + k % 30},{TOWNS[k % 3]},{k * 0.5:.1f},{'yes' if k % 2 else 'no'}" for k in range(count)]


def written(folder: Path, lines: list[str], header: str = "age,town,size,label", name: str = "table.csv") -> Path:
    path = folder / name
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def test_a_table_is_read_and_standardised_by_its_training_rows(tmp_path: Path) -> None:
    bundle = load(written(tmp_path, rows()))
    assert bundle.task == "classification"
    assert bundle.classes == ("no", "yes")
    assert bundle.input_shape == (5,)
    assert [len(part) for part in (bundle.train, bundle.val, bundle.test)] == [42, 9, 9]
    inputs = bundle.train.batch(torch.arange(42))["inputs"]
    for column in (0, 4):  # the numbers; between them stand the towns
        torch.testing.assert_close(inputs[:, column].mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
        torch.testing.assert_close(inputs[:, column].std(correction=0), torch.tensor(1.0))
    assert torch.equal(inputs[:, 1:4].sum(1), torch.ones(42))
    item = bundle.test[0]
    age, town, size, label = rows()[int(item["id"])].split(",")
    described = bundle.preprocessing
    assert described is not None
    first, middle, last = described["columns"]
    expected = [(float(age) - first["mean"]) / first["std"], *(float(town == v) for v in middle["values"])]
    expected.append((float(size) - last["mean"]) / last["std"])
    torch.testing.assert_close(item["inputs"], torch.tensor(expected))
    assert bundle.classes[int(item["labels"])] == label
    assert middle["values"] == sorted(TOWNS)


def test_parts_of_the_source_decide_what_is_learned(tmp_path: Path) -> None:
    lines = [f"{k},a,{'yes' if k % 2 else 'no'},train" for k in range(8)]
    lines += ["100,a,yes,val", "100,b,no,val", "100,c,no,test", "100,c,yes,test"]
    bundle = load(written(tmp_path, lines, "size,town,label,split"))
    assert bundle.preprocessing is not None
    assert bundle.preprocessing["columns"][0]["mean"] == 3.5
    assert bundle.preprocessing["columns"][1]["values"] == ["a"]
    assert "'town' 3" in " ".join(bundle.notes)  # b, c and c are known to no training row
    assert bundle.test[0]["inputs"][1] == 0
    again = load(written(tmp_path, [*lines[:8], *lines[8:11], "7,c,yes,test"], "size,town,label,split"))
    assert again.preprocessing == bundle.preprocessing
    assert again.fingerprint != bundle.fingerprint


def test_a_folder_with_one_file_for_each_part(tmp_path: Path) -> None:
    written(tmp_path, rows(20), name="train.csv")
    written(tmp_path, rows(6), name="test.csv")
    bundle = load(tmp_path)
    assert [len(part) for part in (bundle.train, bundle.val, bundle.test)] == [18, 2, 6]
    written(tmp_path, ["1,yes"], "age,label", name="test.csv")
    with pytest.raises(DistilError, match="'size' is in one of the files only"):
        load(tmp_path)


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl", ".parquet"])
def test_other_tables_hold_the_same(suffix: str, tmp_path: Path) -> None:
    whole = load(written(tmp_path, rows()))
    names = ["age", "town", "size", "label"]
    cells = [line.split(",") for line in rows()]
    path = tmp_path / f"other{suffix}"
    if suffix == ".tsv":
        written(tmp_path, ["\t".join(line) for line in cells], "\t".join(names), path.name)
    elif suffix == ".jsonl":
        objects = [{"age": int(a), "town": t, "size": float(s), "label": y} for a, t, s, y in cells]
        path.write_text("\n".join(map(json.dumps, objects)), encoding="utf-8")
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        columns = [[int(c[0]) for c in cells], [c[1] for c in cells], [float(c[2]) for c in cells]]
        parquet.write_table(pyarrow.table(dict(zip(names, [*columns, [c[3] for c in cells]]))), path)
    bundle = load(path)
    assert bundle.preprocessing == whole.preprocessing
    positions = torch.arange(9)
    assert torch.equal(bundle.test.batch(positions)["inputs"], whole.test.batch(positions)["inputs"])


def test_columns_that_are_categories_ids_or_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, [f"{k},{line}" for k, line in enumerate(rows())], "id,zip,town,size,label")
    plain = load(path)
    assert plain.input_shape == (5,)
    assert "left out: 'id'" in plain.notes[0]
    bundle = load(path, categories=("zip",), ignore=("size",))
    zips = {line.partition(",")[0] for k, line in enumerate(rows()) if k in set(bundle.train.ids.tolist())}
    assert bundle.input_shape == (len(zips) + 3,)
    assert [set(column) for column in bundle.preprocessing["columns"]] == [{"name", "values"}] * 2
    with pytest.raises(DistilError, match=r"columns\.ignore names 'sise'.*'size'"):
        load(path, ignore=("sise",))
    with pytest.raises(DistilError, match=r"columns\.categories names 'zap'"):
        load(path, categories=("zap",))


def test_what_is_missing_is_refused_or_filled(tmp_path: Path) -> None:
    lines = rows()
    lines[7] = "NA,Oslo,3.5,yes"
    lines[9] = "29,?,4.5,yes"
    path = written(tmp_path, lines)
    with pytest.raises(DistilError, match=r"table\.csv, line 9: the column 'age' holds nothing there \(1 such"):
        load(path)
    bundle = load(path, missing="fill")
    rows_of = {int(item["id"]): item["inputs"] for part in (bundle.train, bundle.val, bundle.test) for item in part}
    assert rows_of[7][0] == 0
    assert rows_of[9][1:4].tolist() == [0, 0, 0]
    assert bundle.preprocessing["missing"] == "fill"
    with pytest.raises(DistilError, match=r"columns\.missing='drop' is unknown"):
        load(path, missing="drop")


def test_rows_without_a_label_are_left_out_and_counted(tmp_path: Path) -> None:
    bundle = load(written(tmp_path, [*rows(), "20,Rome,1.0,", "20,Rome,1.0,NA"]))
    assert len(bundle.train) + len(bundle.val) + len(bundle.test) == 60
    assert "2 rows have no label and were left out" in " ".join(bundle.notes)


def test_stored_splits_copies_and_leaks(tmp_path: Path) -> None:
    from distil.data.splits import write_splits

    bundle = load(written(tmp_path, rows()), seed=3)
    write_splits(tmp_path / "splits.csv", bundle)
    again = load(written(tmp_path, list(reversed(rows()))), splits=tmp_path / "splits.csv")
    assert sorted(again.contents[k] for k in again.test.ids.tolist()) == sorted(
        bundle.contents[k] for k in bundle.test.ids.tolist()
    )
    assert again.preprocessing == bundle.preprocessing
    twice = load(written(tmp_path, [*rows(), *rows()]))
    assert "duplicates: 60" in " ".join(twice.notes)
    clean = load(written(tmp_path, [*rows(), *rows()]), drop_leaks=True)
    assert len(clean.train) < len(twice.train)


@pytest.mark.parametrize(
    ("lines", "header", "said"),
    [
        (["1,2", "3,4"], "a,b", "no label column called"),
        ([f"{k},{k / 7}" for k in range(9)], "a,label", "a quantity; distil tells classes apart"),
        ([f"{k},{k}" for k in range(200)], "a,label", "200 different values in 200 rows"),
        (["1,x", "2,x", "3,x"], "a,label", "one class only"),
        ([*(f"{k},{k % 2}" for k in range(40)), "many,1"], "a,label", "line 42: the column 'a' holds 'many', and num"),
        ([f"n{k},{k % 2}" for k in range(50)], "name,label", "a name or a text rather than a category"),
        ([f",{k % 2}" for k in range(40)], "a,label", "the column 'a' holds nothing"),
        ([f"{k % 2}" for k in range(40)], "label", "no column but the label"),
        (["1,", "2,"], "a,label", "no row with a label"),
        ([f"1e{300 + k % 9},{k % 2}" for k in range(40)], "a,label", "numbers too large to average"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(lines: list[str], header: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DistilError, match=said):
        load(written(tmp_path, lines, header))


def test_a_constant_column_says_nothing_and_breaks_nothing(tmp_path: Path) -> None:
    bundle = load(written(tmp_path, [f"0.1,{k},{k % 2}" for k in range(40)], "flat,a,label"))
    inputs = bundle.train.batch(torch.arange(len(bundle.train)))["inputs"]
    assert bool((inputs[:, 0].abs() < 1e-6).all())
    assert bool(inputs.isfinite().all())


def test_the_breast_cancer_table_needs_no_files() -> None:
    from sklearn.datasets import load_breast_cancer

    bundle, found = load("breast-cancer"), load_breast_cancer()
    assert bundle.classes == ("benign", "malignant")
    assert bundle.input_shape == (30,)
    assert [len(part) for part in (bundle.train, bundle.val, bundle.test)] == [398, 86, 85]
    item = bundle.test[5]
    column = bundle.preprocessing["columns"][3]
    raw = found.data[int(item["id"]), 3]
    assert float(item["inputs"][3]) == pytest.approx((raw - column["mean"]) / column["std"], rel=1e-5)
    assert found.target_names[found.target[int(item["id"])]] == bundle.classes[int(item["labels"])]
    train = found.data[bundle.train.ids.numpy()]
    np.testing.assert_allclose(train.mean(0), [c["mean"] for c in bundle.preprocessing["columns"]])
    np.testing.assert_allclose(train.std(0), [c["std"] for c in bundle.preprocessing["columns"]])


def test_an_encoding_survives_json_and_refuses_another() -> None:
    table: dict[str, list[Any]] = {"age": [20, 40, 60], "town": ["Rome", None, "Bonn"]}
    made = RowEncoder.fit(table, [0, 1], missing="fill")
    again = RowEncoder.from_plain(json.loads(json.dumps(made.plain())))
    assert again == made
    assert np.array_equal(again.encode({**table, "more": [1, 2, 3]}), made.encode(table))
    with pytest.raises(DistilError, match="column 'town' is not there"):
        made.encode({"age": [1]})
    with pytest.raises(DistilError, match="'old'; a number is expected"):
        made.encode({"age": ["old"], "town": ["Rome"]})
    with pytest.raises(DistilError, match="too large for single precision"):
        made.encode({"age": [1e300], "town": ["Rome"]})
    assert RowEncoder((Column("a", std=2.0),)).encode({"a": ["4"]}).tolist() == [[2.0]]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"columns": [], "missing": "fill"},
        {"columns": [{"name": "a", "mean": 0, "std": 0}], "missing": "fill"},
        {"columns": [{"name": "a", "mean": None, "std": 1}], "missing": "fill"},
        {"columns": [{"name": 3, "mean": 0, "std": 1}], "missing": "fill"},
        {"columns": [{"name": "a", "values": ["x", "x"]}], "missing": "fill"},
        {"columns": [{"name": "a", "values": ["x"]}], "missing": "skip"},
    ],
)
def test_a_description_that_was_tampered_with_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DistilError, match="not described as they should be"):
        RowEncoder.from_plain(wrong)


def test_what_counts_as_missing() -> None:
    assert all(map(is_missing, (None, "", " ", "na", "N/A", "NaN", "null", "None", "?", float("nan"))))
    assert not any(map(is_missing, (0, "0", False, "no", "-")))


def test_texts_and_images_are_still_what_they_were(tmp_path: Path) -> None:
    lines = [f"some words {k},{k % 2}" for k in range(30)]
    assert load(written(tmp_path, lines, "text,label")).task == "text-classification"
    with pytest.raises(DistilError, match="a name or a text rather than a category"):
        read_columns(written(tmp_path, lines, "text,label"))
    with pytest.raises(DistilError, match=r"a\.png"):
        load(written(tmp_path, ["a.png,0", "b.png,1"], "path,label"))
