"""Models and weights: names, factories that fail in every way, files that are torn, foreign or hostile."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from ..files import knowing
from .row import Row, blob, code, own

HEAD = "import torch\nfrom torch import nn\n\n\n"


def net(wrong: str, forward: str, sentence: str, *, init: str = "pass", role: str = "student") -> Row:
    """A model of the user's own with one odd method."""
    source = f"""{HEAD}class Net(nn.Module):
    def __init__(self, classes, input_shape):
        super().__init__()
        features = 1
        for size in input_shape:
            features *= size
        self.layer = nn.Linear(features, classes)
        {init}

    def forward(self, inputs):
        logits = self.layer(inputs.flatten(1))
        {forward}
"""
    return Row(wrong, own(f"--{role}", "nets.py:Net"), sentence, code(source))


def factory(wrong: str, source: str, sentence: str, spec: str = "nets.py:make") -> Row:
    return Row(wrong, own("--student", spec), sentence, code(HEAD + source))


def weights(wrong: str, content: bytes | None, sentence: str, name: str = "odd.safetensors") -> Row:
    return Row(wrong, own("--teacher-weights", name), sentence, blob(content, name) if content is not None else None)


def saved(wrong: str, tensors: dict[str, torch.Tensor], sentence: str) -> Row:
    """Weights of the right format that are not the teacher's."""
    words = own("--teacher", "models.py:make(width=3)", "--teacher-weights", "odd.safetensors")
    return Row(wrong, words, sentence, lambda here: save_file(tensors, here / "odd.safetensors"))


def torch_file(wrong: str, content: object, sentence: str) -> Row:
    words = own("--teacher", "models.py:make(width=3)", "--teacher-weights", "odd.pt")
    return Row(wrong, words, sentence, lambda here: torch.save(content, here / "odd.pt"))


def lying(claim: bytes) -> bytes:
    """A safetensors file whose header says what is not so."""
    return len(claim).to_bytes(8, "little") + claim + b"\0" * 16


def loop(here: Path) -> None:
    (here / "odd.safetensors").symlink_to("odd.safetensors")


NAMES = [
    Row("unknown reference net", own("--student", "distil:mpl"), "has no reference net 'mpl'; did you mean 'mlp'?"),
    Row("a depth no net has", own("--student", "distil:resnet21"), "depth=21 is not 6n + 2"),
    Row("unknown argument of a net", own("--student", "distil:mlp(hiden=3)"), "did you mean 'hidden'?"),
    Row("a net of no width", own("--student", "distil:mlp(hidden=0)"), "widths [108, 0, 3] must all be at least 1"),
    Row(
        "a net of a word's width", own("--student", "distil:mlp(hidden='x')"), "distil:mlp could not be made (TypeError"
    ),
    Row(
        "a net past all memory",
        own("--student", "distil:mlp(hidden=10000000000)"),
        "distil:mlp could not be made (RuntimeError",
    ),
    Row("a model of a call", own("--student", "distil:mlp(hidden=open('was-run', 'w'))"), "cannot be read"),
    Row("a model of a giant power", own("--student", "distil:mlp(hidden=9**9**9)"), "cannot be read"),
    Row("an unbalanced model", own("--student", "distil:mlp(hidden=3"), "cannot be read"),
    Row(
        "a model of deep lists", own("--student", "distil:mlp(hidden=" + "[" * 900 + "]" * 900 + ")"), "cannot be read"
    ),
    Row(
        "unknown timm model",
        own("--student", "timm:resnet1888"),
        "timm has no model 'resnet1888'; did you mean 'resnet18",
    ),
    Row(
        "unknown torchvision model",
        own("--student", "torchvision:resnet1888"),
        "torchvision has no model 'resnet1888'; did you mean 'resnet18",
    ),
    Row("unknown argument of a timm model", own("--student", "timm:resnet18(widht=3)"), "could not be made"),
    Row("a folder that is no transformer", own("--student", "hf:photos"), "photos"),
    Row("a transformer that is not there", own("--student", "hf:nowhere"), "nowhere"),
    Row("no library", own("--student", "resnet18"), "names no library"),
    Row(
        "a module that is not there",
        own("--student", "timmm.models:resnet18"),
        "names neither a library nor a module that can be imported; known: distil, timm",
    ),
    Row("unknown factory", own("--student", "models.py:mkae"), "has no function 'mkae'; did you mean 'make'?"),
    Row("missing factory file", own("--student", "nets.py:make"), "there is no file 'nets.py'"),
    Row(
        "a factory in a folder",
        own("--student", "photos.py:make"),
        "photos.py",
        lambda here: (here / "photos.py").mkdir(),
    ),
    Row("a name that is no function", own("--student", "models.py:CLASSES"), "has no function 'CLASSES'"),
    Row("factory of no module", own("--student", "models.py:number"), "it must return a torch.nn.Module"),
    Row("unknown argument of a model", own("--student", "models.py:make(widht=3)"), "cannot be called with"),
    Row("published weights of one's own", own("--pretrained"), "has no published weights"),
]

FACTORIES = [
    factory("a syntax error", "def make(:\n    pass", "importing 'nets.py' … fails (SyntaxError: …, line 5)"),
    factory(
        "an import error", "import nowhere_at_all", "importing 'nets.py' … fails: No module named 'nowhere_at_all'"
    ),
    factory("a module that raises", "1 / 0", "importing 'nets.py' … fails (ZeroDivisionError: division by zero)"),
    factory("a module that ends the program", "raise SystemExit(0)", "importing 'nets.py' … fails (SystemExit: 0)"),
    factory("a module that exits with words", "import sys\nsys.exit('bye')", "fails (SystemExit: bye)"),
    factory("a module without end", "def go(): return go()\ngo()", "fails (RecursionError"),
    factory(
        "a factory that raises",
        "def make():\n    return {}['a']",
        "'nets.py:make' fails when it is called with {} (KeyError: 'a')",
    ),
    factory(
        "a factory that raises TypeError",
        "def make():\n    return 1 + 'a'",
        "fails when it is called with {} (TypeError",
    ),
    factory("a factory that ends the program", "def make():\n    raise SystemExit(3)", "(SystemExit: 3)"),
    factory(
        "a factory that wants more",
        "def make(classes, depth):\n    return nn.Identity()",
        "missing a required argument: 'depth'",
    ),
    factory("a factory of nothing", "def make():\n    pass", "returned NoneType; it must return a torch.nn.Module"),
    factory("a factory of a class", "def make():\n    return nn.Linear", "returned type; it must return"),
    factory(
        "a factory of control characters", "def make():\n    raise ValueError('\\x1b[2J')", r"(ValueError: \x1b[2J)"
    ),
    factory(
        "a model without parameters",
        "def make():\n    return nn.Flatten()",
        "No parameter of the student requires grad",
    ),
    net("a forward that raises", "return {}['a']", "The student nets.py:Net cannot take the samples of photos"),
    net("a forward that ends the program", "raise SystemExit(0)", "The student nets.py:Net cannot take"),
    net("a forward of nothing", "return None", "logits"),
    net("a forward of a word", "return 'logits'", "logits"),
    net("a forward of other keys", "return {'scores': logits}", "logits"),
    net("a forward of numbers alone", "return logits.sum()", "logits"),
    net("a forward of images", "return inputs", "logits"),
    net(
        "a forward that fails in training",
        "if self.training: raise ValueError('not here')\n        return logits",
        "not here",
    ),
    net("a forward that loses the gradient", "return logits.detach()", "has no student parameter in its graph"),
    net(
        "a forward of NaN",
        "return logits * float('nan')",
        "The student nets.py:Net answers samples of photos with numbers that are not finite",
    ),
    net("a forward of half the samples", "return logits[::2]", "logits"),
    net(
        "a teacher of NaN",
        "return logits * float('nan')",
        "The teacher nets.py:Net answers samples of photos with numbers that are not finite",
        role="teacher",
    ),
    net(
        "a teacher that raises",
        "raise OSError(28, 'No space left on device')",
        "The teacher nets.py:Net cannot take",
        role="teacher",
    ),
    Row(
        "student of other classes",
        own("--student", "models.py:five"),
        "student gives logits [8, 5] and the teacher [8, 3]",
    ),
    Row(
        "teacher of other classes",
        own("--teacher", "models.py:five"),
        "student gives logits [8, 3] and the teacher [8, 5]",
    ),
    Row("teacher at chance", own("--teacher", "models.py:blind"), "not above the chance level of 40.0 %"),
]

WEIGHTS = [
    weights("missing weights", None, "there is no weights file 'none.pt'", "none.pt"),
    weights("torn safetensors", None, "the weights file 'torn.safetensors'", "torn.safetensors"),
    weights("torn torch file", None, "the weights file 'torn.pt'", "torn.pt"),
    weights("weights of another model", None, "do not fit Eye: 1 missing: scale (3,)", "knows.pt"),
    weights("weights that are code", None, "cannot be read (it holds other objects than tensors", "hostile.pt"),
    weights("weights in a folder", None, "the weights 'photos' are a folder", "photos"),
    weights("empty weights", b"", "the weights file 'odd.safetensors' (0 bytes) cannot be read"),
    weights("empty torch weights", b"", "the weights file 'odd.pt' (0 bytes) cannot be read", "odd.pt"),
    weights("weights of a web page", b"<!DOCTYPE html><html>404</html>", "'odd.pt' … cannot be read", "odd.pt"),
    weights("weights whose header is too long", b"\xff" * 8 + b"{}", "'odd.safetensors' … cannot be read"),
    weights(
        "weights whose header lies of its length",
        lying(b'{"scale":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}'),
        "'odd.safetensors' … cannot be read",
    ),
    weights(
        "weights whose header points before itself",
        lying(b'{"scale":{"dtype":"F32","shape":[3],"data_offsets":[12,0]}}'),
        "'odd.safetensors' … cannot be read",
    ),
    weights("weights whose header is no JSON", lying(b"not json at all"), "'odd.safetensors' … cannot be read"),
    Row(
        "a dangling link of weights",
        own("--teacher-weights", "odd.pt"),
        "there is no weights file 'odd.pt'",
        lambda here: (here / "odd.pt").symlink_to("nowhere.pt"),
    ),
    Row("a loop of links", own("--teacher-weights", "odd.safetensors"), "odd.safetensors", loop),
    Row(
        "weights of another shape",
        own("--teacher", "models.py:make(width=3)", "--teacher-weights", "other.safetensors"),
        "1 of another shape: 3.bias (3,) in the model, (4,) in the file",
    ),
    saved("weights with one missing", {k: v for k, v in knowing().items() if k != "3.bias"}, "1 missing: 3.bias (3,)"),
    saved("weights with one too many", {**knowing(), "more": torch.zeros(2)}, "1 unexpected: more (2,)"),
    saved(
        "weights of NaN",
        {**knowing(), "3.bias": torch.full((3,), float("nan"))},
        "The teacher models.py:make(width=3) answers samples of photos with numbers that are not finite",
    ),
    saved("weights of whole numbers", {k: v.long() for k, v in knowing().items()}, "not above the chance level"),
    saved("no weights at all", {}, "holds no tensors"),
    torch_file("a list for weights", [torch.zeros(3)], "holds list; expected a state dict"),
    torch_file("a word for weights", "weights", "holds str; expected a state dict"),
    torch_file("weights of numbers", {"a": 1}, "holds no tensors but ['a']"),
    torch_file("a whole model for weights", torch.nn.Linear(2, 2), "holds other objects than tensors"),
]

OUT = [
    Row("out is a file", own("--out", "models.py"), "--out models.py is a file"),
    Row("out holds something", own("--out", "photos"), "--out photos already holds something"),
    Row("out is no run", own("--out", "photos", "--overwrite"), "which is no run of distil"),
    Row("out cannot be written", own("--out", "models.py/run"), "cannot be written to"),
    Row("out of a recipe", ["run", "pld", "--out", "models.py/run"], "cannot be written to"),
    Row("out is a device", own("--out", "/dev/full"), "--out /dev/full is a file"),
    Row("out in the system's own files", own("--out", "/proc/run"), "--out /proc/run cannot be written to"),
    Row("out of a name too long", own("--out", "x" * 300), "File name too long"),
    Row(
        "out is a dangling link",
        own("--out", "link"),
        "--out link",
        lambda here: (here / "link").symlink_to("no/where"),
    ),
    Row("out is a loop of links", own("--out", "link"), "--out link", lambda here: (here / "link").symlink_to("link")),
    Row("runs is a file", own(), "runs/train cannot be written to", lambda here: (here / "runs").write_text("")),
]

ROWS = [*NAMES, *FACTORIES, *WEIGHTS, *OUT]
