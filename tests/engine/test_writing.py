"""A folder is written whole or not at all, whatever stops it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from distil.engine.serial import load_tree, save_tree
from distil.errors import DistilError
from distil.files import write_folder


def say(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "said.txt").write_text(text) and None


def stop(error: BaseException) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        say("half")(folder)
        raise error

    return fill


def test_a_folder_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "here"
    for text in ("one", "two"):
        assert write_folder(place, say(text)) == place
        assert (place / "said.txt").read_text() == text
        assert [path.name for path in place.parent.iterdir()] == ["here"]


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("odd"), "odd"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "No space left"),
    ],
)
def test_what_cannot_be_written_is_one_sentence_and_leaves_what_was(
    error: Exception, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(Path("here"), say("one"))
    with pytest.raises(DistilError, match=rf"^here could not be written \({why}.*\); nothing was changed"):
        write_folder(Path("here"), stop(error))
    assert (tmp_path / "here" / "said.txt").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("mine")])
def test_other_errors_pass_and_leave_what_was(error: BaseException, tmp_path: Path) -> None:
    place = write_folder(tmp_path / "here", say("one"))
    with pytest.raises(type(error)):
        write_folder(place, stop(error))
    assert (place / "said.txt").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


STOPS = [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(5, "Input/output error"), DistilError)]


@pytest.mark.parametrize(("error", "expected"), STOPS)
def test_a_stop_between_both_renames_brings_the_first_folder_back(
    error: BaseException, expected: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, rename, calls = write_folder(tmp_path / "here", say("one")), Path.rename, list[Path]()

    def second(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == 2:
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", second)
    with pytest.raises(expected):
        write_folder(place, say("two"))
    assert (place / "said.txt").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


@pytest.mark.parametrize("error", [error for error, _ in STOPS])
def test_a_folder_that_cannot_be_put_back_is_named_and_kept(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, rename, calls = write_folder(tmp_path / "here", say("one")), Path.rename, list[Path]()

    def first(path: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 1:
            return rename(path, target)
        raise error if len(calls) == 2 else OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "rename", first)
    with pytest.raises(DistilError, match=r"could not be put back \(Read-only file system\)") as caught:
        write_folder(place, say("two"))
    [left] = tmp_path.iterdir()
    assert left == calls[0]
    assert f"it lies whole in {left}" in str(caught.value)
    assert (left / "said.txt").read_text() == "one"


def test_a_tree_goes_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = {"weights": torch.arange(3.0), "step": 4}
    place = save_tree(tree, tmp_path / "tree")
    monkeypatch.setattr("distil.engine.serial.save_file", stop_saving)
    with pytest.raises(DistilError, match=r"tree could not be written \(No space left"):
        save_tree({"weights": torch.zeros(3)}, place)
    found = load_tree(place)
    assert torch.equal(found["weights"], tree["weights"])
    assert load_file(place / "tensors.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def stop_saving(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file(tensors, path)
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
