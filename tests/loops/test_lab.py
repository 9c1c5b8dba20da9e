"""The lab: what is stored under which key, what is made anew, and tuning that chooses on validation and is counted."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distil.errors import DistilError
from distil.loops import lab as module
from distil.loops.lab import Lab, Outcome, Stage, code_of
from distil.models import load_model

from .fakes import arm, outcome


class Notes:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def begin(self, name: str, total: int | None = None) -> None:
        self.lines.append(f"begin {name}")

    def step(self, done: int, total: int) -> None:
        self.lines.append(f"{done}/{total}")

    def say(self, text: str) -> None:
        self.lines.append(text)


class Counted:
    """A function that counts its calls."""

    def __init__(self, value: Any = 1) -> None:
        self.calls, self.value = 0, value

    def __call__(self) -> Any:
        self.calls += 1
        return self.value


@dataclass(frozen=True)
class Some:
    a: int = 1
    b: tuple[float, ...] = (0.5,)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "out", shared=tmp_path / "shared", progress=Notes())


@pytest.fixture
def code() -> Iterator[Callable[[], None]]:
    """Forget the hash of the code, before and after a test that changes the code."""
    module._code_hash.cache_clear()
    yield module._code_hash.cache_clear
    module._code_hash.cache_clear()


def folders(lab: Lab) -> list[Path]:
    return sorted((lab.out / "stages").iterdir())


def test_a_stage_runs_once_for_equal_inputs(lab: Lab) -> None:
    tree: dict[str, Any] = {"x": torch.arange(3.0), "deep": [1, 2.5, None, "t", (True, float("inf"))]}
    make = Counted(tree)
    inputs: dict[str, Any] = {"settings": Some(), "seed": 3, "module": nn.Linear(2, 2)}
    first, again = lab.stage("t", make, **inputs), lab.stage("t", make, **inputs)
    assert make.calls == 1
    assert (first.reused, again.reused) == (False, True)
    assert again.seconds == pytest.approx(first.seconds)
    for made in (first, again):
        assert torch.equal(made.value["x"], tree["x"])
        assert made.value["deep"] == tree["deep"]
    assert lab.costs == {"t": first.seconds}


weights = nn.Linear(2, 2)
other = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"seed": 0}, {"seed": 1}),
        ({"lr": 0.1}, {"lr": 0.1 + 1e-12}),
        ({"n": 1}, {"n": 1.0}),
        ({"on": True}, {"on": 1}),
        ({"text": "1"}, {"text": 1}),
        ({"a": 1}, {"b": 1}),
        ({"s": Some()}, {"s": Some(b=(0.5, 0.5))}),
        ({"s": Some()}, {"s": {"a": 1, "b": [0.5]}}),
        ({"t": torch.zeros(2)}, {"t": torch.ones(2)}),
        ({"m": weights}, {"m": other}),
        ({"x": None}, {"x": 0}),
        ({"l": [1, 2]}, {"l": [2, 1]}),
    ],
)
def test_other_inputs_are_another_stage(lab: Lab, first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    make = Counted()
    assert not lab.stage("t", make, **first).reused
    assert not lab.stage("t", make, **second).reused
    assert lab.stage("t", make, **first).reused
    assert make.calls == 2


def test_the_name_is_part_of_the_key_and_the_order_of_inputs_is_not(lab: Lab) -> None:
    assert not lab.stage("t", Counted(), a=1, b=2).reused
    assert not lab.stage("u", Counted(), a=1, b=2).reused
    assert lab.stage("t", Counted(), b=2, a=1).reused


def test_what_has_no_content_to_hash_is_refused(lab: Lab) -> None:
    with pytest.raises(DistilError, match="A stage cannot depend on a set"):
        lab.stage("t", Counted(), names={"x"})


def test_what_cannot_be_stored_is_refused_and_nothing_stays(lab: Lab) -> None:
    with pytest.raises(DistilError, match="A Linear cannot be stored"):
        lab.stage("t", Counted({"module": nn.Linear(1, 1)}))
    assert folders(lab) == []


def test_a_stage_that_fails_or_is_interrupted_leaves_nothing(lab: Lab) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lab.stage("t", stop)
    assert not (lab.out / "stages").exists()


@pytest.mark.parametrize("file", ["tensors.safetensors", "tree.json"])
@pytest.mark.parametrize("damage", ["truncate", "change", "delete"])
def test_a_damaged_stage_is_made_again_with_a_remark(lab: Lab, file: str, damage: str) -> None:
    make = Counted({"x": torch.arange(100.0)})
    lab.stage("t", make)
    path = folders(lab)[0] / file
    whole = path.read_bytes()
    if damage == "delete":
        path.unlink()
    else:
        half = len(whole) // 2
        path.write_bytes(whole[:half] + (b"" if damage == "truncate" else b"?" + whole[half + 1 :]))
    made = lab.stage("t", make)
    assert (make.calls, made.reused) == (2, False)
    assert torch.equal(made.value["x"], torch.arange(100.0))
    (line,) = lab.progress.lines  # type: ignore[attr-defined]
    assert str(path.parent) in line
    assert line.endswith("It is made anew.")
    assert lab.stage("t", make).reused


def test_shared_stages_are_found_by_another_run(lab: Lab, tmp_path: Path) -> None:
    lab.stage("teacher", Counted(), shared=True)
    second = Lab(tmp_path / "elsewhere", shared=tmp_path / "shared")
    assert second.stage("teacher", Counted(), shared=True).reused
    assert not second.stage("teacher", Counted()).reused


def test_the_shared_store_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DISTIL_CACHE", str(tmp_path / "cache"))
    assert Lab(tmp_path).shared == tmp_path / "cache"
    monkeypatch.delenv("DISTIL_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Lab(tmp_path).shared == tmp_path / "home" / ".cache" / "distil"


def test_changed_code_is_another_stage_and_changed_comments_are_not(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: Callable[[], None]
) -> None:
    for folder in ("functional", "systems/pld"):
        (tmp_path / "package" / folder).mkdir(parents=True)
    (tmp_path / "package" / "demo.py").write_text("A = 1\n")
    file = tmp_path / "package" / "functional" / "maths.py"
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "package")

    def stage(text: str) -> Stage:
        file.write_text(text)
        code()
        return lab.stage("t", Counted())

    assert not stage('"""One."""\n\ndef f(x):\n    """Doc."""\n    return x\n').reused
    assert stage('"""Two."""\n\n\ndef f(x):\n    # a remark\n    return x\n').reused
    assert not stage("def f(x):\n    return 2 * x\n").reused
    (tmp_path / "package" / "systems" / "pld" / "maths.py").write_text("A = 1\n")
    assert not stage("def f(x):\n    return 2 * x\n").reused
    file.rename(tmp_path / "package" / "systems" / "maths.py")
    code()
    assert not lab.stage("t", Counted()).reused


def test_the_code_that_is_hashed_is_all_that_results_depend_on() -> None:
    folders = {file.relative_to(module.PACKAGE).parts[0] for file in module._sources(("functional", "engine", "data"))}
    assert folders == {"functional", "engine", "data"}
    assert ast.dump(module._bare(ast.parse('def f():\n    """Doc."""\n    return 1'))) == ast.dump(
        ast.parse("def f():\n    return 1")
    )


def test_the_code_of_a_model_is_its_structure_and_its_classes(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text("from torch import nn\n\nclass Own(nn.Linear):\n    pass\n")
    own = f"{tmp_path / 'nets.py'}:Own(in_features=2, out_features=2)"
    first = code_of(load_model(own))
    assert code_of(load_model(own)) == first
    (tmp_path / "nets.py").write_text("from torch import nn\n\nclass Own(nn.Linear):\n    scale = 2\n")
    assert code_of(load_model(own)) != first
    made = [nn.Sequential(nn.Linear(2, 2), kind()) for kind in (nn.ReLU, nn.Tanh, nn.ReLU)]
    codes = [code_of(module) for module in made]
    assert codes[0] == codes[2] != codes[1]
    typed: dict[str, Any] = {"__name__": "__console__"}
    exec("from torch import nn\nclass Typed(nn.Linear):\n    pass\n", typed)
    assert code_of(typed["Typed"](2, 2)) == code_of(typed["Typed"](2, 2))


def test_two_files_of_one_name_are_two_codes(tmp_path: Path) -> None:
    codes = []
    for folder, body in (("a", "pass"), ("b", "scale = 2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "nets.py").write_text(f"from torch import nn\n\nclass Own(nn.Linear):\n    {body}\n")
        codes.append(code_of(load_model(f"{tmp_path / folder / 'nets.py'}:Own(in_features=2, out_features=2)")))
    assert codes[0] != codes[1]
    (tmp_path / "colorsys.py").write_text("from torch import nn\n\nclass Own(nn.Linear):\n    pass\n")
    load_model(f"{tmp_path / 'colorsys.py'}:Own(in_features=2, out_features=2)")
    assert __import__("colorsys").rgb_to_hsv(0, 0, 0) == (0, 0, 0)  # the library's, not the file of its name


def test_a_run_is_stored_by_arm_expression_and_seed(lab: Lab) -> None:
    calls: list[int] = []

    def give(seed: int) -> Outcome:
        calls.append(seed)
        return outcome(seed, val=(1.0, 2.0))

    first = lab.run("kd", arm("method", give, "kd"), 3, data="d")
    assert lab.run("kd", arm("method", give, "kd"), 3, data="d") == first == give(3)
    lab.run("kd", arm("method", give, "kd"), 4, data="d")
    lab.run("kd", arm("method", give, "2*kd"), 3, data="d")
    lab.run("kd", arm("method", give, "kd"), 3, data="e")
    assert calls == [3, 3, 4, 3, 3]


# ---- tuning


def tuned(lab: Lab, grid: Mapping[str, list[Any]], **options: Any) -> tuple[dict[str, Any], int, list[dict[str, Any]]]:
    """Tune a fake arm whose validation is best at lr 0.2 and whose test is best at lr 0.3."""
    tried: list[dict[str, Any]] = []

    def make(point: Mapping[str, Any]) -> Callable[[int], Outcome]:
        def give(seed: int) -> Outcome:
            tried.append(dict(point))
            near = {0.1: 60.0, 0.2: 70.0, 0.3: 65.0}[point["lr"]]
            return outcome(99.0 if point["lr"] == 0.3 else 10.0, val=(near - 5, near, near - 20))

        return give

    chosen, trials = lab.tune("kd", make, grid, **{"trials": 9, "seed": 100, "metric": "accuracy", **options})
    return chosen, trials, tried


def test_tuning_chooses_on_validation_and_counts_its_trials(lab: Lab) -> None:
    chosen, trials, tried = tuned(lab, {"lr": [0.1, 0.2, 0.3]})
    assert (chosen, trials) == ({"lr": 0.2}, 3)
    assert tried == [{"lr": 0.1}, {"lr": 0.2}, {"lr": 0.3}]


def test_tuning_goes_the_way_the_metric_is_good(lab: Lab) -> None:
    chosen, _, _ = tuned(lab, {"lr": [0.1, 0.2, 0.3]}, higher_is_better=False)
    assert chosen == {"lr": 0.1}  # its last epoch, 40, is the lowest of all


def test_trials_bound_a_large_grid_by_a_seeded_draw(lab: Lab, tmp_path: Path) -> None:
    grid: dict[str, list[Any]] = {"lr": [0.1, 0.2, 0.3], "t": [1, 2, 4]}
    _, trials, tried = tuned(lab, grid, trials=4)
    assert trials == len(tried) == 4
    assert len({tuple(point.items()) for point in tried}) == 4
    assert tuned(Lab(tmp_path / "again"), grid, trials=4)[2] == tried
    assert tuned(Lab(tmp_path / "third"), grid, trials=4, seed=101)[2] != tried


def test_tuning_that_was_killed_goes_on(lab: Lab) -> None:
    tuned(lab, {"lr": [0.1, 0.2]})
    _, trials, tried = tuned(lab, {"lr": [0.1, 0.2, 0.3]})
    assert trials == 3
    assert tried == [{"lr": 0.3}]


def test_an_empty_grid_or_no_validation_is_refused(lab: Lab) -> None:
    with pytest.raises(DistilError, match="The grid of 'kd' is empty"):
        tuned(lab, {"lr": []})
    with pytest.raises(DistilError, match="no validation 'accuracy'"):
        lab.tune("kd", lambda point: lambda seed: outcome(), {"a": [1]}, trials=1, seed=0, metric="accuracy")
