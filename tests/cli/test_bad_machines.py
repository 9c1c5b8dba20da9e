"""What the machine refuses, in a process of its own: full disks, closed ends, code that must not run; and odd names."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .bad.row import own, texts
from .bad.runs import RESUMED
from .terminal import contents, distil

Screen = pytest.CaptureFixture[str]


def process(*words: str, out: str | None = None, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line for itself; ``out`` is where its standard output goes, ``limit`` the bytes of a file."""

    def small() -> None:
        assert limit is not None
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    with open(out or os.devnull, "w") as stream:
        return subprocess.run(
            [sys.executable, "-m", "distil", *words],
            stdout=stream if out else subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            preexec_fn=small if limit is not None else None,
        )


def refused(found: subprocess.CompletedProcess[str], sentence: str) -> None:
    assert found.returncode == 2, found
    assert "Traceback" not in found.stderr
    assert "Exception ignored" not in found.stderr
    last = found.stderr.splitlines()[-1]
    assert last.startswith("distil: ")
    assert sentence in last


def test_standard_output_that_is_full() -> None:
    refused(process("list", "--json", out="/dev/full"), "No space left on device")


def test_a_mistake_in_a_process_of_its_own(here: Path) -> None:
    before = contents(here)
    found = process(*own("--teacher-weights", "hostile.pt"))
    refused(found, "holds other objects than tensors")
    assert found.stdout == ""
    assert contents(here) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    options = ("-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place))
    if mount is None or os.geteuid() != 0 or subprocess.run([mount, *options], capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root alone, and not in every container")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_run_on_a_full_disk(here: Path, small_disk: Path, capsys: Screen) -> None:
    said = distil(capsys, *own("--student", "models.py:make(width=500)", "--out", str(small_disk / "run")))
    assert said.code == 2, said
    (complaint,) = said.complaints
    assert "could not be written" in complaint
    assert "No space left on device" in complaint
    assert not list(small_disk.rglob("report.*"))
    assert not list(small_disk.rglob("students/*"))
    assert not list(small_disk.rglob(".*"))


def test_an_export_on_a_full_disk(here: Path, finished: Path, small_disk: Path, capsys: Screen) -> None:
    (small_disk / "filler").write_bytes(b"\0" * 60_000)
    words = ("export", str(finished / "done"), "--out", str(small_disk / "new"), "--format", "safetensors")
    said = distil(capsys, *words)
    assert said.code == 2, said
    assert "could not be written" in said.complaints[0]
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_a_file_that_may_not_grow(here: Path) -> None:
    before = contents(here)
    found = process(*own("--student", "models.py:make(width=500)"), limit=20_000)
    refused(found, "could not be written (File too large")
    assert {name: held for name, held in contents(here).items() if name.partition("/")[0] != "runs"} == before
    assert not list((here / "runs").rglob("students/*"))
    assert not list((here / "runs").rglob("report.*"))


def test_torn_results_are_made_anew(here: Path, finished: Path, capsys: Screen) -> None:
    shutil.copytree(finished / "done", here / "done")
    for stored in (here / "done" / "stages").rglob("tree.json"):
        stored.write_bytes(stored.read_bytes()[:40])
    said = distil(capsys, *RESUMED)
    assert said.code == 0, said
    assert "is truncated or no checkpoint of distil" in " ".join(said.err.split())
    assert "It is made anew." in " ".join(said.err.split())


def test_a_torn_checkpoint_is_named(here: Path, finished: Path, capsys: Screen) -> None:
    shutil.copytree(finished / "done", here / "done")
    shutil.rmtree(here / "done" / "stages")
    checkpoints = sorted((here / "done" / "checkpoints").rglob("tensors.safetensors"))
    assert checkpoints
    for stored in checkpoints:
        stored.write_bytes(stored.read_bytes()[:20])
    said = distil(capsys, *RESUMED)
    assert said.code == 2, said
    (complaint,) = said.complaints
    assert "tensors.safetensors is truncated or was changed (its checksum differs); delete" in complaint


def test_control_characters_and_markup_in_names_are_shown_and_not_obeyed(here: Path, capsys: Screen) -> None:
    odd = "red\x1b[31m\n<script>alert(1)</script>[bold]"
    (here / "photos" / "red").rename(here / "photos" / odd.replace("/", ""))
    said = distil(capsys, *own("--out", "done", "--set", "classes=[blue, green, crimson]"))
    assert said.code == 2
    assert said.complaints[0].isprintable()
    assert r"red\x1b[31m\n<script>" in said.complaints[0]
    said = distil(capsys, *own("--out", "done"))
    assert said.code == 0, said
    assert "\x1b" not in said.out + said.err
    page = (here / "done" / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "\x1b" not in page


def test_labels_of_texts_with_control_characters_are_named_plainly(here: Path, capsys: Screen) -> None:
    (here / "table.csv").write_text('text,label\ngood,"\x1b]0;owned\x07"\n' * 3, encoding="utf-8")
    said = distil(capsys, *texts("table.csv"))
    assert said.code == 2
    assert said.complaints[0].isprintable()


def test_settings_for_several_taps_are_kept_together(here: Path, capsys: Screen) -> None:
    said = distil(capsys, *own("--set", "taps.emb=1", "--set", "taps.map='3'", "--dry-run", "--json"))
    assert said.code == 2  # a number is no path, and is not taken for one
    said = distil(capsys, *own("--set", "taps.emb='1'", "--set", "taps.map='3'", "--dry-run", "--json"))
    assert said.code == 0, said
    assert said.json["settings"]["taps"] == {"emb": "1", "map": "3"}
