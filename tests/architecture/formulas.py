"""The rule for ``systems/``: tensor maths lives in ``functional/``, so a system builds and wires, and computes nothing.

Found in a system's source: a call of a torch function, arithmetic on what torch returned, a tensor method that is
maths, and the matrix product. Left alone: the reviewed constructors below, arithmetic of Python numbers, and methods
that are scaled and added.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

# What a system may call of torch. A name that ends in a dot allows all that follows with a capital letter (classes).
ALLOWED = (
    "torch.nn.",
    "torch.optim.",
    "torch.utils.data.",
    "torch.nn.init.zeros_",
    "torch.nn.init.ones_",
    "torch.device",
    "torch.no_grad",
    "torch.inference_mode",
    "torch.Generator",
    "torch.manual_seed",
    "torch.zeros",
    "torch.ones",
    "torch.arange",
    "torch.tensor",
    "torch.as_tensor",
    "torch.cat",
    "torch.stack",
)
# Tensor methods that are maths whatever they are called on.
MATHS = frozenset(
    (
        *("softmax", "log_softmax", "logsumexp", "sigmoid", "tanh", "relu", "exp", "expm1", "log", "log1p", "log2"),
        *("pow", "sqrt", "rsqrt", "square", "erf", "sin", "cos", "norm", "var", "std", "cosine_similarity"),
        *("matmul", "mm", "bmm", "einsum", "cumsum", "logcumsumexp"),
    )
)


def formulas(source: str) -> list[str]:
    """Return what breaks the rule, one ``line: what`` each."""
    tree = ast.parse(source)
    return sorted(set(_Scope(_aliases(tree)).check(tree)), key=lambda found: int(found.partition(":")[0]))


def _aliases(tree: ast.AST) -> dict[str, str]:
    """Local names of torch and its parts, by what they stand for."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "torch":
                    names[alias.asname or "torch"] = alias.name if alias.asname else "torch"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "torch":
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _allowed(name: str) -> bool:
    if name in ALLOWED:
        return True
    package, _, last = name.rpartition(".")
    return last[:1].isupper() and any(prefix.endswith(".") and f"{package}.".startswith(prefix) for prefix in ALLOWED)


class _Scope:
    """One function (or a module's top): which of its names hold what torch returned."""

    def __init__(self, aliases: dict[str, str], made: frozenset[str] = frozenset()) -> None:
        self.aliases, self.made = aliases, set(made)

    def check(self, node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                yield from _Scope(self.aliases, frozenset(self.made)).check(child)
                continue
            yield from self._found(child)
            yield from self.check(child)
            self._remember(child)

    def _found(self, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Call):
            name = self._dotted(node.func)
            if name and not _allowed(name):
                yield f"{node.lineno}: calls {name}"
            elif not name and isinstance(node.func, ast.Attribute) and self._maths(node.func):
                yield f"{node.lineno}: calls .{node.func.attr}() on a value"
        elif isinstance(node, (ast.BinOp, ast.AugAssign, ast.UnaryOp)):
            if isinstance(node.op, ast.MatMult):
                yield f"{node.lineno}: a matrix product"
            elif not isinstance(node.op, ast.Not) and any(map(self._tensor, ast.iter_child_nodes(node))):
                yield f"{node.lineno}: arithmetic on a tensor"

    def _maths(self, function: ast.Attribute) -> bool:
        number = isinstance(function.value, ast.Name) and function.value.id == "math"
        return function.attr in MATHS and not number

    def _remember(self, node: ast.AST) -> None:
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.NamedExpr)) and node.value and self._tensor(node.value):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            self.made |= {name.id for t in targets for name in ast.walk(t) if isinstance(name, ast.Name)}

    def _tensor(self, node: ast.AST) -> bool:
        """Whether an expression is what torch (not a class of it) returned, a name for it, or a part of either."""
        if isinstance(node, ast.Call):
            name = self._dotted(node.func)
            if name:
                return not name.rpartition(".")[2][:1].isupper()
            return isinstance(node.func, ast.Attribute) and self._tensor(node.func.value)
        if isinstance(node, ast.Name):
            return node.id in self.made
        if isinstance(node, (ast.Subscript, ast.Attribute)):
            return self._tensor(node.value)
        if isinstance(node, ast.BinOp):
            return self._tensor(node.left) or self._tensor(node.right)
        return False

    def _dotted(self, node: ast.AST) -> str:
        """The full name of a part of torch; nothing for anything else."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name) and node.id in self.aliases:
            return ".".join([self.aliases[node.id], *reversed(parts)])
        return ""
