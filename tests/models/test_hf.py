"""Models and tokenizers of transformers from folders, what is refused of them, and the small nets for texts."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from distil.data.fingerprint import fingerprint
from distil.engine.anatomy import anatomy
from distil.engine.distiller import Distiller
from distil.errors import DistilError
from distil.methods.expression import parse
from distil.models import BagOfWords, MeanPooled, TextCNN, load_model, load_tokenizer
from distil.models.hf import load_causal, token_limit
from distil.models.tokenizers import tokenizer_for, word_tokenizer
from distil.tasks import TextTask

transformers = pytest.importorskip("transformers")

TEXTS = ["a fine warm film", "a dull cold film", "fine , warm and long", "dull !"]
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}
IDS = torch.tensor([[2, 3, 4, 0], [5, 2, 0, 0]])
INPUTS = {"input_ids": IDS, "attention_mask": (IDS > 0).long()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of three named classes and a plain encoder, each with its tokenizer, and one of images."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = word_tokenizer(TEXTS, 30)
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(tokenizer), **SMALL, id2label={0: "neg", 1: "mid", 2: "pos"})
    transformers.BertForSequenceClassification(config).save_pretrained(root / "scores")
    transformers.BertModel(transformers.BertConfig(vocab_size=len(tokenizer), **SMALL)).save_pretrained(root / "plain")
    for name in ("scores", "plain"):
        tokenizer.save_pretrained(root / name)
    vision = transformers.ViTConfig(
        image_size=8, patch_size=4, **{k: v for k, v in SMALL.items() if "position" not in k}
    )
    transformers.ViTForImageClassification(vision).save_pretrained(root / "vision")
    return root


@pytest.fixture
def here(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(folders, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tmp_path / "here"


def test_a_classifier_is_loaded_whole_and_gives_the_library_s_logits(here: Path) -> None:
    model = load_model("hf:scores", classes=3, labels=("neg", "mid", "pos"), tokenizer=load_tokenizer("scores"))
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained("scores")
    assert model.training  # the library hands models out in eval mode
    assert torch.equal(model.eval()(**INPUTS).logits, theirs(**INPUTS).logits)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_plain_encoder_gets_the_mean_of_its_real_tokens(here: Path) -> None:
    model = load_model("hf:plain", classes=2, tokenizer=load_tokenizer("plain")).eval()
    assert isinstance(model, MeanPooled)
    assert not [name for name, _ in model.named_parameters() if "pooler" in name]
    hidden = transformers.AutoModel.from_pretrained("plain")(**INPUTS).last_hidden_state
    mean = torch.stack([hidden[0, :3].mean(0), hidden[1, :2].mean(0)])
    torch.testing.assert_close(model(**INPUTS), model.head(mean))
    longer = {key: torch.nn.functional.pad(value, (0, 3)) for key, value in INPUTS.items()}
    torch.testing.assert_close(model(**longer), model(**INPUTS))


def test_fresh_weights_of_another_size_depend_on_the_seed_alone(here: Path) -> None:
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        made.append(load_model("hf:plain(pretrained=false, num_hidden_layers=1, hidden_size=8)", classes=2))
    assert len(made[0].encoder.encoder.layer) == 1
    assert made[0].head.in_features == 8
    names = [fingerprint(model) for model in made]
    assert names[0] == names[1] != names[2]
    whole = load_model("hf:scores(pretrained=False)", classes=5, labels=tuple("abcde"))
    assert whole.config.id2label[4] == "e"


def test_a_head_of_other_classes_is_replaced_only_when_asked(here: Path) -> None:
    with pytest.raises(DistilError, match=r"scores 3 classes \(neg, mid, pos\), and the data have 2; .*new_head=True"):
        load_model("hf:scores", classes=2)
    model = load_model("hf:scores(new_head=True)", classes=2, labels=("a", "b"))
    theirs = load_model("hf:scores", classes=3)
    assert model.classifier.out_features == 2
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, theirs.bert.embeddings.word_embeddings.weight)
    with pytest.raises(DistilError, match=r"in the order neg, mid, pos, .* --set classes=\[Neg, mid, pos\]"):
        load_model("hf:scores", classes=3, labels=("mid", "Neg", "pos"))
    load_model("hf:scores", classes=3, labels=("one", "two", "three"))  # other names say nothing of the order


def test_a_folder_in_a_package(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = here / "packed"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('it was run')")
    shutil.copytree(here / "plain", package / "model")
    monkeypatch.syspath_prepend(str(here))
    assert isinstance(load_model("hf:package:packed/model", classes=2), MeanPooled)
    with pytest.raises(DistilError, match="no package 'nothere' is installed"):
        load_model("hf:package:nothere/model", classes=2)


def spoiled(here: Path, name: str) -> None:
    """Spoil the folder ``plain`` in one way."""
    folder = here / "plain"
    config = json.loads((folder / "config.json").read_text())
    if name == "no config":
        (folder / "config.json").unlink()
    elif name == "torn config":
        (folder / "config.json").write_text("{")
    elif name == "own code":
        change = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
        (folder / "config.json").write_text(json.dumps(config | change))
        (folder / "mine.py").write_text("raise AssertionError('it was run')")
    elif name == "pickled":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    elif name == "no weights":
        (folder / "model.safetensors").unlink()
    elif name == "torn weights":
        (folder / "model.safetensors").write_bytes(b"torn")
    elif name == "fewer layers":
        (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    elif name == "wider":
        (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))


SPOILED = {
    "no config": "holds no config.json",
    "torn config": "config.json' is no JSON",
    "own code": "cannot be loaded .*code that comes with a model is not run",
    "pickled": "holds only pytorch_model.bin, which may run code when it is read",
    "no weights": "holds no weights",
    "torn weights": "cannot be loaded",
    "fewer layers": "do not fit its configuration: 16 tensors are missing or left over",
    "wider": "the weights of 'hf:plain' cannot be loaded",
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_folder_is_refused(here: Path, name: str) -> None:
    spoiled(here, name)
    with pytest.raises(DistilError, match=SPOILED[name]):
        load_model("hf:plain", classes=2)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("hf:", "hf: names no model"),
        ("hf:./nowhere/at all", "there is no folder './nowhere/at all'"),
        ("hf:bert-base-uncased", r"looked up only with --pretrained .*hf:bert-base-uncased\(pretrained=True\)"),
        ("hf:plain/config.json", "is a file; hf: takes the folder"),
        ("hf:plain(num_hiden_layers=2)", "has no argument 'num_hiden_layers'; did you mean 'num_hidden_layers'"),
        ("hf:plain(num_hidden_layers=1)", "do not fit its configuration"),
        ("hf:plain(pretrained=False, hidden_size=15)", "cannot be made"),
        ("hf:plain(2)", "only key=value arguments"),
    ],
)
def test_a_mistaken_name_is_refused(here: Path, spec: str, said: str) -> None:
    with pytest.raises(DistilError, match=said):
        load_model(spec, classes=2)


def test_tokenizers_are_looked_for_and_must_fit(here: Path) -> None:
    tokenizer = load_tokenizer("plain")
    assert tokenizer("A fine Film?")["input_ids"] == word_tokenizer(TEXTS, 30)("a fine film ?")["input_ids"]
    many = word_tokenizer([" ".join(f"w{k}" for k in range(40))], 30)
    with pytest.raises(DistilError, match="has 30 entries and 'hf:plain' embeds 12; use the model's own tokenizer"):
        load_model("hf:plain", classes=2, tokenizer=many)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (here / "plain" / file).unlink(missing_ok=True)
    with pytest.raises(DistilError, match=r"holds no tokenizer \(tokenizer.json, vocab.txt"):
        load_tokenizer("plain")


def test_a_causal_language_model_is_loaded_with_its_head_or_not_at_all(here: Path) -> None:
    words = load_tokenizer("plain")
    small = {"vocab_size": len(words), "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}
    config = transformers.GPT2Config(**small, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.save_pretrained("speaks")
    model = load_causal("speaks", words)
    assert not model.training
    assert torch.equal(model(**INPUTS).logits, theirs(**INPUTS).logits)
    with pytest.raises(DistilError, match="the tokenizer has 14 entries and 'hf:speaks' embeds"):
        load_causal("speaks", _longer(words, 14))
    weights = load_file("speaks/model.safetensors")
    save_file({key: value for key, value in weights.items() if key != "lm_head.weight"}, "speaks/model.safetensors")
    with pytest.raises(DistilError, match=r"1 tensors are missing or left over \(lm_head.weight, …\); save it whole"):
        load_causal("speaks", words)
    for name, said in (("scores", "no causal language model"), ("plain", "BertModel"), ("gpt2", "none is downloaded")):
        with pytest.raises(DistilError, match=said):
            load_causal(name, words)


def _longer(words: Any, count: int) -> Any:
    more = load_tokenizer("plain")
    more.add_tokens([f"<{k}>" for k in range(count - len(words))])
    return more


def test_which_tokenizer_goes_with_which_model(here: Path) -> None:
    own, limit = tokenizer_for("hf:plain", TEXTS)
    assert limit == 20
    assert token_limit("plain", {"max_position_embeddings": 7}) == 7
    words, unlimited = tokenizer_for("distil:bow(vocab=6)", TEXTS, fallback=own)
    assert unlimited > 10**6
    assert len(words) == 6
    assert sorted(words.get_vocab(), key=words.get_vocab().get) == ["[PAD]", "[UNK]", "a", "dull", "film", "fine"]
    assert tokenizer_for("distil:textcnn", TEXTS, fallback=own)[0] is own
    assert len(tokenizer_for("distil:bow(tokenizer='scores')", TEXTS)[0]) == len(own)
    assert len(tokenizer_for("nets.py:make", TEXTS, named="scores")[0]) == len(own)
    for spec, said in (
        ("distil:bow", "brings no tokenizer and there is no other model"),
        ("distil:bow(vocab=9, tokenizer='plain')", "names both vocab and tokenizer"),
        ("distil:bow(vocab=2)", "must be a whole number of at least 3"),
        ("distil:mlp(hidden=4)", "reads no texts; use hf:FOLDER, distil:bow"),
        ("timm:resnet18", "reads no texts"),
    ):
        with pytest.raises(DistilError, match=said):
            tokenizer_for(spec, TEXTS)


def test_transformers_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DistilError, match=r"transformers is not installed; .*distil\[text\]"):
        load_model("hf:anything", classes=2)


def test_image_models_come_by_the_same_prefix(here: Path) -> None:
    with pytest.raises(DistilError, match=r"reads images of 8x8 and the data are 16x16; .*--set size=8"):
        load_model("hf:vision", classes=2, input_shape=(3, 16, 16))
    with pytest.raises(DistilError, match="reads 3 channels and the data have 1"):
        load_model("hf:vision", classes=2, input_shape=(1, 8, 8))
    model = load_model("hf:vision", classes=2, input_shape=(3, 8, 8))
    assert model(torch.zeros(2, 3, 8, 8)).logits.shape == (2, 2)
    fresh = load_model("hf:vision(pretrained=False)", classes=4, input_shape=(1, 16, 16))
    assert fresh(torch.zeros(2, 1, 16, 16)).logits.shape == (2, 4)


@pytest.mark.parametrize("net", [BagOfWords, TextCNN])
def test_small_nets_do_not_see_padding(net: Any) -> None:
    model = net(9, 3, dim=6).eval()
    longer = {key: torch.nn.functional.pad(value, (0, 5)) for key, value in INPUTS.items()}
    torch.testing.assert_close(model(**longer), model(**INPUTS))
    torch.testing.assert_close(model(IDS[1:2, :2]), model(**INPUTS)[1:2])
    assert model(IDS, torch.zeros_like(IDS)).isfinite().all()  # a text of unknown signs alone
    changed = IDS.clone()
    changed[0, 3] = 7
    torch.testing.assert_close(model(changed, INPUTS["attention_mask"]), model(**INPUTS))
    for wrong in ({"dim": 0}, {"dropout": 1.0}):
        with pytest.raises(DistilError, match=rf"{net.__name__}: {next(iter(wrong))}="):
            net(9, 3, **wrong)


def test_an_order_of_words_matters_to_the_convolution_alone() -> None:
    turned = IDS[:1, :3].flip(1)
    bag, windows = BagOfWords(9, 3).eval(), TextCNN(9, 3).eval()
    torch.testing.assert_close(bag(turned), bag(IDS[:1, :3]))
    assert not torch.allclose(windows(turned), windows(IDS[:1, :3]))
    assert load_model("distil:textcnn(vocab=50, dim=8, layers=1)", classes=2)(IDS).shape == (2, 2)
    with pytest.raises(DistilError, match="kernel=2 is even"):
        TextCNN(9, 3, kernel=2)


def test_taps_are_found_by_meaning(here: Path) -> None:
    task, batch = TextTask(), {"inputs": INPUTS, "labels": torch.zeros(2, dtype=torch.long)}
    found = {}
    for spec in ("hf:scores", "hf:plain", "distil:textcnn(vocab=30)"):
        model = load_model(spec, classes=3)
        seen = anatomy(model, lambda m: task.call(m, batch), logits=task.logits)
        found[spec] = {name: [str(place) for place in places] for name, places in seen.meanings.items()}
    assert found["hf:scores"]["emb"] == ["classifier:in"]
    assert found["hf:scores"]["tokens"] == ["bert"]
    assert found["hf:scores"]["stages"] == ["bert.encoder.layer.0", "bert.encoder.layer.1"]
    assert found["hf:plain"]["head"] == ["head"]
    assert found["hf:plain"]["tokens"] == ["encoder"]
    assert found["distil:textcnn(vocab=30)"]["tokens"] == ["blocks.1"]
    config = transformers.GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=30, pad_token_id=0, num_labels=3)
    model = transformers.GPT2ForSequenceClassification(config)
    seen = anatomy(model, lambda m: task.call(m, batch), logits=task.logits)
    assert [place.path for place in seen.meanings["tokens"]] == ["transformer"]


def test_an_image_teacher_of_the_library_teaches_an_own_net(here: Path) -> None:
    teacher = load_model("hf:vision", classes=2, input_shape=(3, 8, 8))
    student = load_model("distil:cnn(widths=[4, 8])", classes=2, input_shape=(3, 8, 8))
    batch = {"inputs": torch.rand(4, 3, 8, 8), "labels": torch.tensor([0, 1, 0, 1])}
    distiller = Distiller(student, teacher, parse("supervised + kd + fitnets(tap=emb)"), example=batch)
    distiller(batch).loss.backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
