"""The short ``predict.py`` that lies in every exported folder and needs no distil: read, run, print the label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distil.data.encoding import BLANKS
from distil.ship.inputs import ASIDE

__all__ = ["needs_of", "predict_script"]

_NEEDS = {
    "image": ("numpy", "onnxruntime", "pillow"),
    "text": ("numpy", "onnxruntime", "tokenizers"),
    "features": ("numpy", "onnxruntime"),
    "table": ("numpy", "onnxruntime"),
    "tensors": ("numpy", "onnxruntime"),
}

_TOP = '''"""Print a label for each {what}: python predict.py {usage}  (needs {needs})"""
import json, sys
from pathlib import Path
import numpy as np, onnxruntime
{imports}here = Path(__file__).resolve().parent
labels = json.loads((here / "labels.json").read_text(encoding="utf-8"))
model = onnxruntime.InferenceSession(str(here / "model.onnx"), providers=["CPUExecutionProvider"])
'''

_IMAGE = """for name in sys.argv[1:]:
    image = ImageOps.exif_transpose(Image.open(name))
    if image.mode.startswith("I"):  # 16 bits per pixel
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    image = image.convert("{mode}")
    image = image if image.size == ({width}, {height}) else ImageOps.fit(image, ({width}, {height}))
    pixels = np.asarray(image, np.float32).reshape(1, {height}, {width}, {channels}).transpose(0, 3, 1, 2) / 255
    print(name, labels[model.run(None, {{"inputs": pixels}})[0][0].argmax()], sep="\\t")
"""

_FEATURES = """made = json.loads((here / "preprocessing.json").read_text(encoding="utf-8"))

def table(name):
    with open(name, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    columns = made.get("columns") or [each for each in rows[0] if each.strip().lower() not in {aside}]
    return np.array([[float(row[each]) for each in columns] for row in rows])

for name in sys.argv[1:]:
    rows = np.load(name)["x"] if name.endswith(".npz") else table(name)
    rows = rows.astype(np.float32).reshape(-1, {shape})
    if made.get("row_sums"):
        total = rows.sum(1, keepdims=True)
        rows = rows / np.where(total == 0, np.float32(1), total)
    answers = model.run(None, {{"inputs": rows}})[0]
    for number, answer in enumerate(answers, start=1):
        print(f"{{name}}:{{number}}", labels[answer.argmax()], sep="\\t")
"""

_TABLE = """made = json.loads((here / "preprocessing.json").read_text(encoding="utf-8"))
blanks = {blanks}

def encoded(row):
    numbers = []
    for column in made["columns"]:
        cell = row[column["name"]].strip()
        empty = cell.lower() in blanks
        if empty and made["missing"] == "refuse":
            sys.exit(f"the column {{column['name']!r}} holds nothing in {{row}}")
        if "values" in column:
            numbers += [float(cell == value) for value in column["values"]]
        else:
            numbers.append(0.0 if empty else (float(cell) - column["mean"]) / column["std"])
    return numbers

for name in sys.argv[1:]:
    with open(name, newline="", encoding="utf-8-sig") as file:
        rows = [encoded(row) for row in csv.DictReader(file, delimiter="\\t" if name.endswith(".tsv") else ",")]
    for number, answer in enumerate(model.run(None, {{"inputs": np.array(rows, np.float32)}})[0], start=1):
        print(f"{{name}}:{{number}}", labels[answer.argmax()], sep="\\t")
"""

_GRAPH = """for name in sys.argv[1:]:
    graph = np.load(name)
    feeds = {"inputs": graph["x"].astype(np.float32), "edge_index": graph["edge_index"].astype(np.int64)}
    for number, answer in enumerate(model.run(None, feeds)[0], start=1):
        print(f"{name}:{number}", labels[answer.argmax()], sep="\\t")
"""

_TENSORS = """for name in sys.argv[1:]:
    arrays = np.load(name)
    answers = model.run(None, {i.name: arrays[i.name] for i in model.get_inputs()})[0]
    for number, answer in enumerate(answers, start=1):
        print(f"{name}:{number}", labels[answer.argmax()], sep="\\t")
"""

_TEXT = """tokenizer = Tokenizer.from_file(str(here / "{tokenizer}" / "tokenizer.json"))
tokenizer.enable_truncation({longest})
for text in sys.argv[1:]:
    found = tokenizer.encode(text)
    known = {{"input_ids": found.ids, "attention_mask": found.attention_mask, "token_type_ids": found.type_ids}}
    feeds = {{i.name: np.array([known[i.name]], np.int64) for i in model.get_inputs()}}
    print(text, labels[model.run(None, feeds)[0][0].argmax()], sep="\\t")
"""


def needs_of(preprocessing: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the packages that the script needs."""
    return _NEEDS[preprocessing["kind"]]


def predict_script(preprocessing: Mapping[str, Any]) -> str:
    """Return the script; nothing but numbers and a checked folder name goes into it."""
    kind = preprocessing["kind"]
    needs = ", ".join(needs_of(preprocessing))
    if kind == "image":
        height, width = map(int, preprocessing["size"])
        channels = int(preprocessing["channels"])
        top = _TOP.format(
            what="picture", usage="photo.png …", needs=needs, imports="from PIL import Image, ImageOps\n\n"
        )
        mode = "L" if channels == 1 else "RGB"
        return top + _IMAGE.format(mode=mode, width=width, height=height, channels=channels)
    if kind == "text":
        top = _TOP.format(
            what="text", usage='"some text" …', needs=needs, imports="from tokenizers import Tokenizer\n\n"
        )
        return top + _TEXT.format(tokenizer="tokenizer", longest=int(preprocessing["max_length"]))
    if kind == "table":
        top = _TOP.format(what="row", usage="table.csv …", needs=needs, imports="import csv\n\n")
        return top + _TABLE.format(blanks=sorted(BLANKS))
    if kind == "tensors":
        return _TOP.format(what="sample", usage="inputs.npz …", needs=needs, imports="\n") + _TENSORS
    if preprocessing.get("edges"):
        return _TOP.format(what="node", usage="graph.npz …", needs=needs, imports="\n") + _GRAPH
    shape = ", ".join(str(int(size)) for size in preprocessing["shape"])
    top = _TOP.format(what="row", usage="features.npz …", needs=needs, imports="import csv\n\n")
    return top + _FEATURES.format(shape=shape, aside=ASIDE)
