"""Data: images, graphs and texts that are torn, hostile, of another kind or of no use, and stored splits."""

from __future__ import annotations

import csv
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .row import Row, blob, graph, own, table, texts

Change = Callable[[dict[str, Any]], object]


def changed(wrong: str, change: Change, sentence: str) -> Row:
    """The graph of graph.npz with something changed."""

    def make(here: Path) -> None:
        with np.load(here / "graph.npz") as file:
            arrays = {name: file[name] for name in file.files}
        change(arrays)
        np.savez(here / "odd.npz", **arrays)

    return Row(wrong, graph("odd.npz"), sentence, make)


def nodes(wrong: str, change: Callable[[list[dict[str, str]]], object], sentence: str, name: str = "nodes.csv") -> Row:
    """The graph of csv tables with rows changed."""

    def make(here: Path) -> None:
        with (here / "graph" / name).open(newline="") as file:
            rows = list(csv.DictReader(file))
        change(rows)
        with (here / "graph" / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)

    return Row(wrong, graph("graph"), sentence, make)


def spoilt(wrong: str, name: str, content: bytes, sentence: str, data: str = "graph") -> Row:
    """A graph of csv tables with one file replaced."""
    return Row(wrong, graph(data), sentence, lambda here: (here / data / name).write_bytes(content))


def images(wrong: str, sentence: str, *rows: str, encoding: str = "utf-8") -> Row:
    return Row(wrong, own(data="table.csv"), sentence, table(*rows, encoding=encoding))


def words(wrong: str, sentence: str, *rows: str, name: str = "table.csv", encoding: str = "utf-8") -> Row:
    return Row(wrong, texts(name), sentence, table(*rows, name=name, encoding=encoding))


def parquet(wrong: str, columns: dict[str, list[Any]], sentence: str) -> Row:
    def make(here: Path) -> None:
        import pyarrow as pa
        from pyarrow import parquet as files

        files.write_table(pa.table(columns), here / "odd.parquet")

    return Row(wrong, own(data="odd.parquet"), sentence, make)


def folder(wrong: str, make: Callable[[Path], object], sentence: str) -> Row:
    """A folder of images called odd."""

    def both(here: Path) -> None:
        for name in ("red", "green"):
            (here / "odd" / name).mkdir(parents=True)
        make(here / "odd")

    return Row(wrong, own(data="odd"), sentence, both)


def picture(width: int, height: int, rows: bytes = b"") -> bytes:
    """A grey PNG that says it has this size, whatever it holds."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def everywhere(content: bytes, name: str = "{}.png") -> Callable[[Path], object]:
    """The same file, eight times in each of two classes."""
    return lambda odd: [(odd / c / name.format(k)).write_bytes(content) for c in ("red", "green") for k in range(8)]


def array(shape: str, dtype: str = "<f4") -> bytes:
    """A .npy file that says it has this shape and holds nothing."""
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode()


def archive(members: dict[str, bytes]) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return whole.getvalue()


def half(name: str, odd: str) -> Callable[[Path], object]:
    """The first half of a file, under another name."""

    def make(here: Path) -> None:
        whole = (here / name).read_bytes()
        (here / odd).write_bytes(whole[: len(whole) // 2])

    return make


def put(key: str, value: Callable[[Any], Any]) -> Change:
    return lambda arrays: arrays.__setitem__(key, value(arrays))


def cell(row: int, column: str, value: str) -> Callable[[list[dict[str, str]]], object]:
    return lambda rows: rows[row].__setitem__(column, value)


PLACES = [
    Row("unknown data", own(data="digts"), "there is no data set or file called 'digts'; did you mean 'digits'?"),
    Row("missing path", own(data="photo/s"), "there is no data set or file called 'photo/s'; correct the path"),
    Row("a dangling link of data", own(data="link"), "there is no data set or file called 'link'", lambda here: (here / "link").symlink_to("no")),
    Row("a name with a newline", own(data="pho\ntos\x1b[1m"), r"called 'pho\ntos\x1b[1m'"),
    Row("a name too long", own(data="x" * 5000), "x"),
    Row("a device of data", own(data="/dev/null"), "'/dev/null' is no folder, .parquet or .csv"),
    Row("a file of another kind", own(data="models.py"), "is no folder, .parquet or .csv"),
    Row("columns for a graph", graph("graph.npz", "--set", "columns.text=x"), "means nothing for 'graph.npz'"),
    Row("columns that are not there", own("--set", "columns.label=colour", data="photos.csv"), "no label column 'colour'"),
    Row("a size for texts", texts("table.csv", "--set", "size=8"), "size=8 means nothing for 'table.csv'", table("text,label", "a,b")),
    Row(
        "named data without their root", ["run", "pld"], "set DISTIL_DATA to that folder",
        environment={"DISTIL_DATA": None},
    ),
    Row(
        "named data in an empty root", ["run", "pld"], "lacks FashionMNIST/raw/train-images-idx3-ubyte",
        environment={"DISTIL_DATA": "empty"},
    ),
    Row("a split too large", ["run", "nd", "--set", "pair.data=digits", "--set", "pair.train=99999"], "99999"),
]  # fmt: skip

IMAGES = [
    Row("empty folder", own(data="empty"), "holds no images in class sub-folders"),
    Row("one class", own(data="one"), "has one class only ('red', 6 images)"),
    folder("folders without images", lambda odd: None, "'odd' holds no images in class sub-folders (2 sub-folders"),
    folder("images without classes", lambda odd: (odd / "1.png").write_bytes(picture(1, 1)), "holds no images in class"),
    folder("folders of words", everywhere(b"words", "{}.txt"), "16 other files in them); expected FOLDER/CLASS/IMAGE"),
    folder("images of words", everywhere(b"words"), "none of the 16 images can be decoded"),
    folder("empty images", everywhere(b""), "none of the 16 images can be decoded"),
    folder("web pages for images", everywhere(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "can be decoded"),
    folder("bombs of images", everywhere(picture(60000, 60000)), "none of the 16 images can be decoded"),
    folder("images of no size", everywhere(picture(0, 0)), "none of the 16 images can be decoded"),
    folder("images cut short", everywhere(picture(64, 64, bytes(range(256)) * 16)[:90]), "none of the 16 images can be decoded"),
    folder("one image in each class", lambda odd: [(odd / c / "1.png").write_bytes(picture(1, 1, b"\0\7")) for c in ("red", "green")], "which leave train, val and test with"),
    folder("an odd list of classes", lambda odd: (everywhere(picture(1, 1, b"\0\7"))(odd), (odd / "classes.json").write_text('{"a": 1}')), "is no list of names"),
    folder("a list of classes in Latin-1", lambda odd: (everywhere(picture(1, 1, b"\0\7"))(odd), (odd / "classes.txt").write_bytes(b"vert\xe9\nred")), "save it as UTF-8"),
    folder("a list of other classes", lambda odd: (everywhere(picture(1, 1, b"\0\7"))(odd), (odd / "classes.txt").write_text("blue\nblack")), "and the data's class list has the classes blue, black"),
    folder("classes with escapes", lambda odd: ((odd / "\x1b[31m\n<script>").mkdir(), everywhere(b"")(odd), [(odd / "\x1b[31m\n<script>" / f"{k}.png").write_bytes(b"") for k in range(3)]), "none of the 19 images can be decoded"),
    images("a table without labels", "no label column of label", "path", "photos/red/02.png"),
    images("a table without images", "no image path column of image", "label", "red"),
    images("an empty table of images", "the first line must name the columns", ""),
    images("a table of a header alone", "'table.csv' holds no images", "path,label"),
    images("an image without a label", "table.csv, line 2 has no label", "path,label", "photos/red/02.png,"),
    images("a row too long", "line 3: it has 3 fields and the header 2", "path,label", "a.png,red", "b.png,red,blue"),
    images("a row too short", "line 2: it has 1 fields and the header 2", "path,label", "a.png"),
    images("a column twice", "two columns are called 'label'", "path,label,label", "a.png,red,blue"),
    images("a table of lost images", "none of the 2 images can be decoded", "path,label", "a.png,red", "b.png,blue"),
    images("images outside by dots", "can be decoded", "path,label", "../../../../etc/passwd,red", "../x.png,blue"),
    images("a table in Latin-1", "line 2: the byte 0xe9 is no UTF-8", "path,label", "été.png,red", encoding="latin-1"),
    images("a table in UTF-16", "is written in UTF-16, not in UTF-8", "path,label", "a.png,red", encoding="utf-16"),
    images("a table of zeros", "columns", "\0" * 100),
    images("an open quote", "line 2: unexpected end of data; a quote", "path,label", '"a.png,red', "b.png,blue"),
    images("a million columns", "no image path column", ",".join(f"c{k}" for k in range(100_000))),
    Row("an empty parquet file", own(data="odd.parquet"), "is no readable parquet file", blob(b"", "odd.parquet")),
    Row("a torn parquet file", own(data="odd.parquet"), "is no readable parquet file", half("photos.parquet", "odd.parquet")),
    Row("a parquet file of zeros", own(data="odd.parquet"), "is no readable parquet file", blob(b"PAR1" + b"\0" * 99 + b"PAR1", "odd.parquet")),
    Row("a folder called parquet", own(data="odd.parquet"), "holds no images in class", lambda here: (here / "odd.parquet").mkdir()),
    parquet("a parquet file without images", {"label": [0, 1]}, "no image column of image"),
    parquet("a parquet file without labels", {"image": [b"a", b"b"]}, "no label column of label"),
    parquet("a parquet label that is none", {"image": [b"a", b"b"], "label": [0, None]}, "odd.parquet, row 1 has no label"),
    parquet("parquet images of words", {"image": [b"a", b"b"], "label": [0, 1]}, "none of the 2 images can be decoded"),
    parquet("a parquet file of no rows", {"image": [], "label": []}, "holds no images"),
    parquet("parquet labels of lists", {"image": [b"a"] * 2, "label": [[0], [1]]}, "can be decoded"),
]  # fmt: skip

GRAPHS = [
    Row("NaN features", graph("nan.npz"), "the features of 1 nodes hold NaN or infinity (first: node 7)"),
    Row("labels out of range", graph("labels.npz"), "node 4 has the label -5"),
    Row("edges out of range", graph("edges.npz"), "node numbers go from 0 to 59"),
    Row("edges of a csv to nowhere", graph("lost"), "names an unknown node"),
    Row("a graph of no arrays", graph("knows.safetensors"), "lacks ['x', 'edge_index', 'y']"),
    Row("a graph of code", graph("hostile.pt"), "'hostile.pt' cannot be read safely"),
    changed("edges that are negative", put("edge_index", lambda a: a["edge_index"] - 1), "node numbers go from 0 to 59"),
    changed("edges that are fractions", put("edge_index", lambda a: a["edge_index"] / 2), "expected integers of shape [2, edges]"),
    changed("edges on their side", put("edge_index", lambda a: a["edge_index"].T), "expected integers of shape [2, edges]"),
    changed("no edges", put("edge_index", lambda a: a["edge_index"][:, :0]), "none of its 0 edges joins two different nodes"),
    changed("labels of fractions", put("y", lambda a: a["y"] + 0.5), "are no class ids; give integers"),
    changed("labels for fewer nodes", put("y", lambda a: a["y"][:9]), "60 nodes but labels of shape (9,)"),
    changed("labels of one class", put("y", lambda a: a["y"] * 0), "all labelled nodes have one class"),
    changed("no labels", put("y", lambda a: a["y"] * 0 - 100), "no node has a label"),
    changed("labels of a hundred thousand million", put("y", lambda a: a["y"] + 10**11), "the largest label is 100000000002, and there are 60 nodes"),
    changed("labels that are words", put("y", lambda a: np.array(["a"] * 60)), "the array 'y' holds <U1, not numbers"),
    changed("labels that are objects", put("y", lambda a: np.array([{}] * 60, object)), "is no readable npz of plain arrays"),
    changed("features of one number", put("x", lambda a: np.float32(3)), "features of shape"),
    changed("features of words", put("x", lambda a: np.array([["a"] * 5] * 60)), "the array 'x' holds <U1, not numbers"),
    changed("features of complex numbers", put("x", lambda a: a["x"] * 1j), "the array 'x' holds complex64, not numbers"),
    changed("no nodes", lambda a: a.update(x=a["x"][:0], y=a["y"][:0], edge_index=a["edge_index"][:, :0]), "features of shape (0, 5)"),
    changed("masks that overlap", lambda a: a.update({f"{k}_mask": np.ones(60, bool) for k in ("train", "val", "test")}), "60 nodes are in both train and val; masks must be disjoint"),
    changed("masks that are empty", lambda a: a.update({f"{k}_mask": np.zeros(60, bool) for k in ("train", "val", "test")}), "the train mask holds no labelled node"),
    changed("masks of other nodes", lambda a: a.update({f"{k}_mask": np.ones(9, bool) for k in ("train", "val", "test")}), "the train mask has shape (9,)"),
    changed("a mask alone", lambda a: a.update(train_mask=np.ones(60, bool)), "the val mask holds no labelled node"),
    Row("a torn npz", graph("odd.npz"), "is no readable npz", half("graph.npz", "odd.npz")),
    Row("an empty npz", graph("odd.npz"), "is no readable npz", blob(b"", "odd.npz")),
    Row("a bomb in an npz", graph("odd.npz"), "is no readable npz", blob(archive({"x.npy": array("(1000000, 1000000)"), "y.npy": array("(60,)"), "edge_index.npy": array("(2, 9)")}), "odd.npz")),
    Row("an array past all numbers", graph("odd.npz"), "is no readable npz", blob(archive({"x.npy": array("(99999999999999, 99999999999999)")}), "odd.npz")),
    Row("an array that expands", graph("odd.npz"), "is no readable npz", blob(archive({"x.npy": array("(60, 5)"), "y.npy": b"\0" * 50_000_000}), "odd.npz")),
    Row("code in the head of an array", graph("odd.npz"), "is no readable npz", blob(archive({"x.npy": array("__import__('os').system('touch was-run')")}), "odd.npz")),
    Row("an archive that leads out", graph("odd.npz"), "the array '../../x.npy' holds", blob(archive({"../../x.npy": b"x"}), "odd.npz")),
    Row("a pickle called npz", graph("odd.npz"), "is no readable npz", blob(b"\x80\x04cposix\nsystem\n(S'touch was-run'\ntR.", "odd.npz")),
    Row("a pickle called pkl", graph("odd.pkl"), "is no folder, .parquet or .csv", blob(b"\x80\x04cposix\nsystem\n(S'touch was-run'\ntR.", "odd.pkl")),
    Row("a torn graph of torch", graph("torn.pt"), "'torn.pt' cannot be read safely: it is damaged"),
    Row("a torn graph of safetensors", graph("torn.safetensors"), "is no readable safetensors file"),
    nodes("a feature that is a word", cell(3, "f1", "wide"), "a feature that is no number: could not convert string to float: 'wide'"),
    nodes("a feature that is NaN", cell(3, "f1", "nan"), "the features of 1 nodes hold NaN or infinity (first: node 3)"),
    nodes("a node twice", cell(3, "id", "2"), "names the node '2' twice"),
    nodes("a split of another name", lambda rows: [row.update(split="maybe") for row in rows], "the train mask holds no labelled node"),
    nodes("an edge to nowhere", cell(3, "target", "nobody"), "names an unknown node", name="edges.csv"),
    nodes("no labelled node", lambda rows: [row.update(label="-100") for row in rows], "no node has a label"),
    spoilt("nodes without labels", "nodes.csv", b"id,f0\n1,2\n", "needs a header with id and label"),
    spoilt("nodes in Latin-1", "nodes.csv", b"id,label,f0\n1,\xe9t\xe9,2\n", "line 2: the byte 0xe9 is no UTF-8"),
    spoilt("nodes in UTF-16", "nodes.csv", "id,label\n1,a\n".encode("utf-16"), "is written in UTF-16"),
    spoilt("no nodes of csv", "nodes.csv", b"", "the first line must name the columns"),
    spoilt("edges of one column", "edges.csv", b"source\n1\n", "has one column; two are needed"),
    spoilt("edges of nothing", "edges.csv", b"source,target\n", "none of its 0 edges joins two different nodes"),
    Row("a graph without nodes", graph("odd"), "has no nodes.csv", lambda here: [(here / "odd").mkdir(), (here / "odd" / "edges.csv").write_text("a,b\n")]),
    Row("an image net for a graph", ["train", "--data", "graph.npz", "--teacher", "models.py:eye", "--student", "distil:cnn", "--method", "kd"], "The student distil:cnn cannot take the samples of graph"),
]  # fmt: skip

TEXTS = [
    words("a text table without labels", "but no label column called label", "text", "good"),
    words("a text table of no text", "'table.csv' holds no text with a label", "text,label", " ,good"),
    words("a text table of a header alone", "holds no text with a label", "text,label"),
    words("texts of one class", "has one class only ('a', 3 texts)", "text,label", "x,a", "y,a", "z,a"),
    words("two texts", "which leave train, val and test with", "text,label", "x,a", "y,b"),
    words("a split of texts that is none", "table.csv, line 2: the split 'maybe' is none of train, val and test", "text,label,split", "x,a,maybe"),
    words("a comma in a text", "line 2: it has 3 fields and the header 2; a text with a comma in it must stand in quotes", "text,label", "x, y,a"),
    words("a quote left open", "line 2: …a quote inside a quoted text must be doubled", "text,label", '"x,a'),
    words("texts in Latin-1", "line 3: the byte 0xe9 is no UTF-8", "text,label", "x,a", "été,b", encoding="latin-1"),
    words("texts in UTF-16", "is written in UTF-16", "text,label", "x,a", encoding="utf-16"),
    words("lines that are no JSON", "'table.jsonl', line 2: it is no JSON", '{"text": "x", "label": 1}', '{"text": "x", "la', name="table.jsonl"),
    words("lines of JSON that are no objects", "line 1: it holds a list; expected an object", '["x", 1]', name="table.jsonl"),
    words("a text of a number", "line 1: the column 'text' holds a int; expected a text", '{"text": 5, "label": 1}', name="table.jsonl"),
    words("a label of a list", "line 1: the label '[1]' is a list; expected a class", '{"text": "x", "label": [1]}', name="table.jsonl"),
    words("a label of a fraction", "line 1: the label '1.5' is a float", '{"text": "x", "label": 1.5}', name="table.jsonl"),
    words("no lines of JSON", "columns", "", name="table.jsonl"),
    words("a line of deep JSON", "line 1: it is no JSON", "[" * 100_000, name="table.jsonl"),
    words("a number of five thousand digits in JSON", "line 1: it is no JSON", '{"text": "x", "label": ' + "9" * 5000 + "}", name="table.jsonl"),
    words("a table of other columns", "has the columns 'a', 'b' but no text column called text", "a\tb", "1\t2", name="table.tsv"),
    Row("tables of which one has no split", texts("odd"), "names no split; call the files train, val and test", lambda here: [(here / "odd").mkdir(), *((here / "odd" / f"{n}.csv").write_text("text,label\n") for n in ("train", "more"))]),
    Row("a split in two formats", texts("odd"), "holds train as .csv and as .tsv; keep one of them", lambda here: [(here / "odd").mkdir(), *((here / "odd" / f"train.{n}").write_text("text,label\n") for n in ("csv", "tsv"))]),
]  # fmt: skip


def splits(wrong: str, content: str | bytes, sentence: str) -> Row:
    kept = content if isinstance(content, bytes) else content.encode()
    return Row(wrong, own("--set", "splits=odd.csv"), sentence, blob(kept, "odd.csv"))


SPLITS = [
    splits("empty splits", "", "odd.csv"),
    splits("splits of other columns", "a,b\n1,2\n", "odd.csv"),
    splits("splits of other data", "id,part,content\n0,train,0123456789abcdef\n", "name 1 samples that the data do not hold"),
    splits("splits of a part that is none", "id,part,content\n0,practice,0123456789abcdef\n", "odd.csv"),
    splits("splits of a word for a number", "id,part,content\nfirst,train,0123456789abcdef\n", "odd.csv"),
    splits("splits of a negative number", "id,part,content\n-1,train,0123456789abcdef\n", "odd.csv"),
    splits("splits of bytes", b"\xff\xfe\0\1", "odd.csv"),
    splits("splits of JSON", json.dumps({"train": [1]}), "odd.csv"),
    Row("splits that are a folder", own("--set", "splits=photos"), "photos"),
]  # fmt: skip

ROWS = [*PLACES, *IMAGES, *GRAPHS, *TEXTS, *SPLITS]
