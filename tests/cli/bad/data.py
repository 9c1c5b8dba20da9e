"""Data: images and texts that are torn, hostile, of another kind or of no use, and stored splits."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .row import Row, blob, graph, half, own, table, texts


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


PLACES = [
    Row("unknown data", own(data="digts"), "there is no data set or file called 'digts'; did you mean 'digits'?"),
    Row("missing path", own(data="photo/s"), "there is no data set or file called 'photo/s'; correct the path"),
    Row(
        "a dangling link of data",
        own(data="link"),
        "there is no data set or file called 'link'",
        lambda here: (here / "link").symlink_to("no"),
    ),
    Row("a name with a newline", own(data="pho\ntos\x1b[1m"), r"called 'pho\ntos\x1b[1m'"),
    Row("a name too long", own(data="x" * 5000), "x"),
    Row("a device of data", own(data="/dev/null"), "'/dev/null' is no folder, .parquet or .csv"),
    Row("a file of another kind", own(data="models.py"), "is no folder, .parquet or .csv"),
    Row("columns for a graph", graph("graph.npz", "--set", "columns.text=x"), "means nothing for 'graph.npz'"),
    Row(
        "columns that are not there",
        own("--set", "columns.label=colour", data="photos.csv"),
        "no label column 'colour'",
    ),
    Row(
        "a size for texts",
        texts("table.csv", "--set", "size=8"),
        "size=8 means nothing for 'table.csv'",
        table("text,label", "a,b"),
    ),
    Row(
        "named data without their root",
        ["run", "pld"],
        "set DISTIL_DATA to that folder",
        environment={"DISTIL_DATA": None},
    ),
    Row(
        "named data in an empty root",
        ["run", "pld"],
        "lacks FashionMNIST/raw/train-images-idx3-ubyte",
        environment={"DISTIL_DATA": "empty"},
    ),
    Row("a split too large", ["run", "nd", "--set", "pair.data=digits", "--set", "pair.train=99999"], "99999"),
]

IMAGES = [
    Row("empty folder", own(data="empty"), "holds no images in class sub-folders"),
    Row("one class", own(data="one"), "has one class only ('red', 6 images)"),
    folder("folders without images", lambda odd: None, "'odd' holds no images in class sub-folders (2 sub-folders"),
    folder(
        "images without classes", lambda odd: (odd / "1.png").write_bytes(picture(1, 1)), "holds no images in class"
    ),
    folder("folders of words", everywhere(b"words", "{}.txt"), "16 other files in them); expected FOLDER/CLASS/IMAGE"),
    folder("images of words", everywhere(b"words"), "none of the 16 images can be decoded"),
    folder("empty images", everywhere(b""), "none of the 16 images can be decoded"),
    folder("web pages for images", everywhere(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "can be decoded"),
    folder("bombs of images", everywhere(picture(60000, 60000)), "none of the 16 images can be decoded"),
    folder("images of no size", everywhere(picture(0, 0)), "none of the 16 images can be decoded"),
    folder(
        "images cut short",
        everywhere(picture(64, 64, bytes(range(256)) * 16)[:90]),
        "none of the 16 images can be decoded",
    ),
    folder(
        "one image in each class",
        lambda odd: [(odd / c / "1.png").write_bytes(picture(1, 1, b"\0\7")) for c in ("red", "green")],
        "which leave train, val and test with",
    ),
    folder(
        "an odd list of classes",
        lambda odd: (everywhere(picture(1, 1, b"\0\7"))(odd), (odd / "classes.json").write_text('{"a": 1}')),
        "is no list of names",
    ),
    folder(
        "a list of classes in Latin-1",
        lambda odd: (everywhere(picture(1, 1, b"\0\7"))(odd), (odd / "classes.txt").write_bytes(b"vert\xe9\nred")),
        "save it as UTF-8",
    ),
    folder(
        "a list of other classes",
        lambda odd: (everywhere(picture(1, 1, b"\0\7"))(odd), (odd / "classes.txt").write_text("blue\nblack")),
        "and the data's class list has the classes blue, black",
    ),
    folder(
        "classes with escapes",
        lambda odd: (
            (odd / "\x1b[31m\n<script>").mkdir(),
            everywhere(b"")(odd),
            [(odd / "\x1b[31m\n<script>" / f"{k}.png").write_bytes(b"") for k in range(3)],
        ),
        "none of the 19 images can be decoded",
    ),
    images("a table without labels", "no label column of label", "path", "photos/red/02.png"),
    images("a table without images", "has no column but the label 'label'", "label", "red"),
    images("an empty table of images", "the first line must name the columns", ""),
    images("a table of a header alone", "'table.csv' holds no images", "path,label"),
    images("an image without a label", "table.csv, line 2 has no label", "path,label", "photos/red/02.png,"),
    images("a row too long", "line 3: it has 3 fields and the header 2", "path,label", "a.png,red", "b.png,red,blue"),
    images("a row too short", "line 2: it has 1 fields and the header 2", "path,label", "a.png"),
    images("a column twice", "two columns are called 'label'", "path,label,label", "a.png,red,blue"),
    images("a table of lost images", "none of the 2 images can be decoded", "path,label", "a.png,red", "b.png,blue"),
    images("images outside by dots", "can be decoded", "path,label", "../../../../etc/passwd.png,red", "../x.png,blue"),
    images("a table in Latin-1", "line 2: the byte 0xe9 is no UTF-8", "path,label", "été.png,red", encoding="latin-1"),
    images("a table in UTF-16", "is written in UTF-16, not in UTF-8", "path,label", "a.png,red", encoding="utf-16"),
    images("a table of zeros", "columns", "\0" * 100),
    images("an open quote", "line 2: unexpected end of data; a quote", "path,label", '"a.png,red', "b.png,blue"),
    images("a million columns", "no label column called", ",".join(f"c{k}" for k in range(100_000))),
    Row("an empty parquet file", own(data="odd.parquet"), "is no readable parquet file", blob(b"", "odd.parquet")),
    Row(
        "a torn parquet file",
        own(data="odd.parquet"),
        "is no readable parquet file",
        half("photos.parquet", "odd.parquet"),
    ),
    Row(
        "a parquet file of zeros",
        own(data="odd.parquet"),
        "is no readable parquet file",
        blob(b"PAR1" + b"\0" * 99 + b"PAR1", "odd.parquet"),
    ),
    Row(
        "a folder called parquet",
        own(data="odd.parquet"),
        "holds no images in class",
        lambda here: (here / "odd.parquet").mkdir(),
    ),
    parquet("a parquet file without images", {"label": [0, 1]}, "has no column but the label"),
    parquet("a parquet file without labels", {"image": [b"a", b"b"]}, "no label column of label"),
    parquet(
        "a parquet label that is none", {"image": [b"a", b"b"], "label": [0, None]}, "odd.parquet, row 1 has no label"
    ),
    parquet("parquet images of words", {"image": [b"a", b"b"], "label": [0, 1]}, "none of the 2 images can be decoded"),
    parquet("a parquet file of no rows", {"image": [], "label": []}, "holds no images"),
    parquet("parquet labels of lists", {"image": [b"a"] * 2, "label": [[0], [1]]}, "can be decoded"),
]


TEXTS = [
    words("a text table without labels", "but no label column called label", "text", "good"),
    words("a text table of no text", "'table.csv' holds no text with a label", "text,label", " ,good"),
    words("a text table of a header alone", "holds no text with a label", "text,label"),
    words("texts of one class", "has one class only ('a', 3 texts)", "text,label", "x,a", "y,a", "z,a"),
    words("two texts", "which leave train, val and test with", "text,label", "x,a", "y,b"),
    words(
        "a split of texts that is none",
        "table.csv, line 2: the split 'maybe' is none of train, val and test",
        "text,label,split",
        "x,a,maybe",
    ),
    words(
        "a comma in a text",
        "line 2: it has 3 fields and the header 2; a text with a comma in it must stand in quotes",
        "text,label",
        "x, y,a",
    ),
    words("a quote left open", "line 2: …a quote inside a quoted text must be doubled", "text,label", '"x,a'),
    words("texts in Latin-1", "line 3: the byte 0xe9 is no UTF-8", "text,label", "x,a", "été,b", encoding="latin-1"),
    words("texts in UTF-16", "is written in UTF-16", "text,label", "x,a", encoding="utf-16"),
    words(
        "lines that are no JSON",
        "'table.jsonl', line 2: it is no JSON",
        '{"text": "x", "label": 1}',
        '{"text": "x", "la',
        name="table.jsonl",
    ),
    words(
        "lines of JSON that are no objects",
        "line 1: it holds a list; expected an object",
        '["x", 1]',
        name="table.jsonl",
    ),
    words(
        "a text of a number",
        "line 1: the column 'text' holds a int; expected a text",
        '{"text": 5, "label": 1}',
        name="table.jsonl",
    ),
    words(
        "a label of a list",
        "line 1: the label '[1]' is a list; expected a class",
        '{"text": "x", "label": [1]}',
        name="table.jsonl",
    ),
    words(
        "a label of a fraction", "line 1: the label '1.5' is a float", '{"text": "x", "label": 1.5}', name="table.jsonl"
    ),
    words("no lines of JSON", "columns", "", name="table.jsonl"),
    words("a line of deep JSON", "line 1: it is no JSON", "[" * 100_000, name="table.jsonl"),
    words(
        "a number of five thousand digits in JSON",
        "line 1: it is no JSON",
        '{"text": "x", "label": ' + "9" * 5000 + "}",
        name="table.jsonl",
    ),
    words(
        "a table of other columns",
        "has the columns 'a', 'b' but no label column called label",
        "a\tb",
        "1\t2",
        name="table.tsv",
    ),
    Row(
        "tables of which one has no split",
        texts("odd"),
        "names no split; call the files train, val and test",
        lambda here: [
            (here / "odd").mkdir(),
            *((here / "odd" / f"{n}.csv").write_text("text,label\n") for n in ("train", "more")),
        ],
    ),
    Row(
        "a split in two formats",
        texts("odd"),
        "holds train as .csv and as .tsv; keep one of them",
        lambda here: [
            (here / "odd").mkdir(),
            *((here / "odd" / f"train.{n}").write_text("text,label\n") for n in ("csv", "tsv")),
        ],
    ),
]


def splits(wrong: str, content: str | bytes, sentence: str) -> Row:
    kept = content if isinstance(content, bytes) else content.encode()
    return Row(wrong, own("--set", "splits=odd.csv"), sentence, blob(kept, "odd.csv"))


SPLITS = [
    splits("empty splits", "", "odd.csv"),
    splits("splits of other columns", "a,b\n1,2\n", "odd.csv"),
    splits(
        "splits of other data",
        "id,part,content\n0,train,0123456789abcdef\n",
        "name 1 samples that the data do not hold",
    ),
    splits("splits of a part that is none", "id,part,content\n0,practice,0123456789abcdef\n", "odd.csv"),
    splits("splits of a word for a number", "id,part,content\nfirst,train,0123456789abcdef\n", "odd.csv"),
    splits("splits of a negative number", "id,part,content\n-1,train,0123456789abcdef\n", "odd.csv"),
    splits("splits of bytes", b"\xff\xfe\0\1", "odd.csv"),
    splits("splits of JSON", json.dumps({"train": [1]}), "odd.csv"),
    Row("splits that are a folder", own("--set", "splits=photos"), "photos"),
]

ROWS = [*PLACES, *IMAGES, *TEXTS, *SPLITS]
