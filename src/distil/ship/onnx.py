"""A module as ONNX: torch.export, then torch's exporter; dimensions stay free, and errors name an operator."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.ship.served import Served, is_text

__all__ = ["OUTPUT", "OnnxFailure", "free_dimensions", "open_session", "write_onnx"]

OUTPUT = "logits"
_INLINE = 1 << 30  # bytes of weights above which they go to a file beside the graph (a protobuf ends at 2 GiB)
_OPERATOR = re.compile(r"OpOverload\(op='([\w.:]+)'")
_FIXED = re.compile(r"marked (\w+) as dynamic but your code specialized it to be a constant \((\d+)\)")
_LIMIT = re.compile(r"sequence = Dim\('sequence', max=(\d+)\)")


class OnnxFailure(DistilError):
    """A model that cannot be written as ONNX; everything else of an export can still be kept."""


def free_dimensions(tensors: Mapping[str, Tensor]) -> dict[str, dict[int, str]]:
    """Return the dimensions of each input whose size is not fixed, by the name they get.

    >>> free_dimensions({"inputs": torch.zeros(2, 3, 8, 8)})
    {'inputs': {0: 'batch'}}
    """
    if "edge_index" in tensors:
        return {"inputs": {0: "nodes"}, "edge_index": {1: "edges"}}
    if is_text(tensors):
        return {name: {0: "batch", 1: "sequence"} for name in tensors}
    return {name: {0: "batch"} for name in tensors}


def write_onnx(
    served: Served, tensors: Mapping[str, Tensor], path: Path, *, opset: int | None = None, longest: int | None = None
) -> int:
    """Write ``served`` to ``path`` and return the operator-set version it uses.

    Args:
        served: in eval mode, float32, on the CPU.
        tensors: an example of its inputs, at least two samples each.
        path: ``….onnx``; weights of more than 1 GiB go to ``….onnx.data`` beside it.
        opset: default what torch's exporter prefers.
        longest: the longest sequence of a text model.

    Raises:
        OnnxFailure: a dimension that the model fixes, control flow that cannot be traced, an operator without a form.
        DistilError: an operator set that the exporter cannot reach.
    """
    _need("onnx", "onnxscript")
    with _silent(), torch.no_grad():
        program = _traced(served, tensors, longest)
        try:
            made: Any = torch.onnx.export(
                program,
                input_names=list(tensors),
                output_names=[OUTPUT],
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
            size = sum(t.numel() * t.element_size() for t in program.state_dict.values())
            _anonymous(made.model)
            made.save(path, external_data=size > _INLINE)
        except Exception as error:
            raise OnnxFailure(_unconvertible(served, error)) from error
    reached = int(made.model.opset_imports.get("", 0))
    if opset is not None and reached != opset:
        raise DistilError(
            f"opset {opset} was asked for, and the exporter could only write {type(served.module).__name__} in opset "
            f"{reached}; leave opset out, or ask for {reached}."
        )
    return reached


def _traced(served: Served, tensors: Mapping[str, Tensor], longest: int | None) -> torch.export.ExportedProgram:
    """Trace with free dimensions; where nobody said how long a text may be, the model's own limit is taken."""
    free = free_dimensions(tensors)
    named = {name: torch.export.Dim(name) for axes in free.values() for name in axes.values()}
    if longest is not None and "sequence" in named:
        named["sequence"] = torch.export.Dim("sequence", max=longest)
    shapes = tuple({axis: named[name] for axis, name in free[key].items()} for key in tensors)
    try:
        return torch.export.export(served, tuple(tensors.values()), dynamic_shapes=(shapes,), strict=False)
    except Exception as error:
        limit = _LIMIT.search(str(error))
        if limit and longest is None:
            return _traced(served, tensors, int(limit[1]))
        if limit:
            raise OnnxFailure(
                f"{type(served.module).__name__} takes at most {limit[1]} tokens and the preprocessing says "
                f"max_length={longest}; say {limit[1]} or less."
            ) from error
        raise OnnxFailure(_untraceable(served, error)) from error


def _anonymous(model: Any) -> None:
    """Take out what the exporter notes of the code that was traced: paths of this machine are nobody's business."""
    for graph in (model.graph, *model.functions.values()):
        graph.metadata_props.clear()
        for node in graph.all_nodes():
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()
    model.metadata_props.clear()


def _untraceable(served: Served, error: Exception) -> str:
    name, text = type(served.module).__name__, str(error)
    fixed = _FIXED.search(text)
    if fixed:
        return (
            f"{name} fixes the dimension '{fixed[1]}' at the {fixed[2]} of the example, so its ONNX file could take no "
            "other: its code (or a library under it) turns that size into a plain number."
        )
    operator = _operator(error)
    why = f"the operator {operator}" if operator else f"{type(error).__name__}: {_line(text)}"
    return f"{name} cannot be traced for ONNX ({why}); control flow that depends on values is the usual cause."


def _unconvertible(served: Served, error: Exception) -> str:
    operator = _operator(error)
    why = f"the operator {operator} has no ONNX form" if operator else f"{type(error).__name__}: {_line(str(error))}"
    return f"{type(served.module).__name__} cannot be written as ONNX: {why}."


def _operator(error: BaseException | None) -> str:
    while error is not None:
        found = _OPERATOR.search(str(error))
        if found:
            return found[1]
        error = error.__cause__ or error.__context__
    return ""


def _line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:200].rstrip(".") if lines else "no reason given"


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep what exporters print to themselves; failures are told in one sentence."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(io.StringIO()):
                yield
    finally:
        logging.disable(before)


def _need(*libraries: str) -> None:
    from importlib.util import find_spec

    missing: Sequence[str] = [name for name in libraries if find_spec(name) is None]
    if missing:
        raise DistilError(f"{' and '.join(missing)} not installed; install it with pip install 'distil[export]'.")


def open_session(path: Path, *, threads: int | None = None) -> Any:
    """Open an ONNX file with onnxruntime on the CPU."""
    _need("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common parent but this
        raise DistilError(f"{path} cannot be opened by onnxruntime ({_line(str(error))}).") from None
