"""Mutants of the decoding rules: small faults, each in one place of one module.

A mutant has a name that does not move with its line: file, function, what was done to what, and
which of several alike it is. The sample is fixed: of each file the names with the smallest hashes,
so that a change of one function leaves the choice elsewhere as it is.
"""

import ast
import copy
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOM = Path("mtad_jax/decode")
SHARE, LEAST = 0.06, 2  # of a file's mutants that are run, and the fewest
_SEED = "1"

_EDGE = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
_TURN = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE, ast.Eq: ast.NotEq,
         ast.NotEq: ast.Eq}  # fmt: skip
_SIGN = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}
_NAMES = {"minimum": "maximum", "maximum": "minimum", "min": "max", "max": "min",
          "argmax": "argmin", "any": "all", "all": "any"}  # fmt: skip
_TWINS = [("p", "q"), ("log_p", "log_q"), ("logp", "logq"), ("r", "q"), ("r_of", "q_of")]
# No behaviour hangs on these: shapes crash, pytree fields do not hash, `strict` only checks.
_IDLE_KEYWORDS = {"axis", "strict", "pytree_node", "kw_only", "keepdims", "mode", "dtype",
                  "default", "frozen", "reverse"}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One fault: its name, its module, the line, what stood there, what stands now, all text."""

    name: str
    path: Path
    line: int
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        return f"{self.name}\n  line {self.line}: {self.before}\n  becomes: {self.after}"


@dataclass
class _Edit:
    """A change of the tree: `apply` makes it on a copy of `node`, and returns what replaces it."""

    kind: str
    node: ast.AST
    apply: Callable[[ast.AST], ast.AST]


def _with(field: str, value) -> Callable[[ast.AST], ast.AST]:
    def apply(node: ast.AST) -> ast.AST:
        setattr(node, field, value)
        return node

    return apply


def _comparisons(node: ast.Compare) -> Iterator[_Edit]:
    for i, op in enumerate(node.ops):
        for kind, table in (("edge", _EDGE), ("turn", _TURN)):
            if type(op) in table:
                ops = [*node.ops[:i], table[type(op)](), *node.ops[i + 1 :]]
                yield _Edit(kind, node, _with("ops", ops))


def _sums(node: ast.BinOp) -> Iterator[_Edit]:
    if type(node.op) in _SIGN:
        yield _Edit("sign", node, _with("op", _SIGN[type(node.op)]()))
    if isinstance(node.op, ast.BitAnd | ast.BitOr):
        yield _Edit("left only", node, lambda n: n.left)
        yield _Edit("right only", node, lambda n: n.right)
    one = [isinstance(x, ast.Constant) and x.value == 1 for x in (node.left, node.right)]
    if isinstance(node.op, ast.Add | ast.Sub) and one[1]:
        yield _Edit("off by one", node, lambda n: n.left)
    elif isinstance(node.op, ast.Add) and one[0]:
        yield _Edit("off by one", node, lambda n: n.right)
    elif isinstance(node.op, ast.Sub):
        yield _Edit("swap", node, lambda n: ast.BinOp(n.right, n.op, n.left))


def _calls(node: ast.Call) -> Iterator[_Edit]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in _NAMES:
        field = "attr" if isinstance(node.func, ast.Attribute) else "id"

        def rename(n, field=field, new=_NAMES[name]):
            setattr(n.func, field, new)
            return n

        yield _Edit(f"to {_NAMES[name]}", node, rename)
    if name == "where" and len(node.args) == 3:
        yield _Edit("branches", node, lambda n: _with("args", [n.args[0], n.args[2], n.args[1]])(n))


def _values(node: ast.Constant) -> Iterator[_Edit]:
    if isinstance(node.value, bool):
        yield _Edit("not", node, _with("value", not node.value))
    elif isinstance(node.value, int | float) and node.value in (0, 1):
        yield _Edit("constant", node, _with("value", type(node.value)(1 - node.value)))


def _edits(node: ast.AST, names: set[str]) -> Iterator[_Edit]:
    """Return the edits of one node; `names` are those that its function binds."""
    if isinstance(node, ast.Compare):
        yield from _comparisons(node)
    elif isinstance(node, ast.BinOp):
        yield from _sums(node)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert | ast.Not):
        yield _Edit("not", node, lambda n: n.operand)
    elif isinstance(node, ast.AugAssign) and type(node.op) in _SIGN:
        yield _Edit("sign", node, _with("op", _SIGN[type(node.op)]()))
        if isinstance(node.op, ast.BitAnd | ast.BitOr):
            yield _Edit("drop", node, lambda n: ast.Pass())
    elif isinstance(node, ast.Call):
        yield from _calls(node)
    elif isinstance(node, ast.Constant):
        yield from _values(node)
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        for pair in _TWINS:
            if node.id in pair and set(pair) <= names:
                other = pair[1 - pair.index(node.id)]
                yield _Edit("twin", node, _with("id", other))
                break


def _places(tree: ast.Module) -> Iterator[tuple[str, set[str], ast.AST]]:
    """Yield every node where a fault would be one, with its function's name and names."""

    def visit(
        node: ast.AST, where: str, names: set[str]
    ) -> Iterator[tuple[str, set[str], ast.AST]]:
        if isinstance(node, ast.Raise | ast.Assert | ast.Import | ast.ImportFrom):
            return
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            where = f"{where}.{node.name}" if where else node.name
        if isinstance(node, ast.FunctionDef):
            if node.name == "__str__":
                return  # words
            inner = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            names = inner | {a.arg for a in ast.walk(node) if isinstance(a, ast.arg)}
            children: list[ast.AST] = list(node.body)
        elif isinstance(node, ast.AnnAssign):
            children = [node.value] if node.value else []
        elif isinstance(node, ast.ClassDef):
            children = list(node.body)
        else:
            children = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.keyword) and node.arg in _IDLE_KEYWORDS:
            return
        yield where or "module", names, node
        for child in children:
            yield from visit(child, where, names)

    return visit(tree, "", set())


def mutants_of(root: Path, path: Path) -> list[Mutant]:
    """Return all mutants of a module, in order."""
    source = (root / path).read_text(encoding="utf-8")
    tree = ast.parse(source)
    seen: Counter = Counter()
    found = []
    for where, names, node in _places(tree):
        for edit in _edits(node, names):
            before = ast.unparse(node)
            stem = f"{path.relative_to(ROOM)}:{where}:{edit.kind}:{_short(before)}"
            seen[stem] += 1
            name = stem if seen[stem] == 1 else f"{stem}:{seen[stem]}"
            after = edit.apply(copy.deepcopy(node))
            text = ast.unparse(_Replaced(node, after).visit(copy_with_marks(tree, node)))
            line = getattr(node, "lineno", 0)
            found.append(Mutant(name, path, line, before, ast.unparse(after), text))
    return found


def _short(text: str) -> str:
    """Return a source text that fits a name."""
    text = " ".join(text.split())
    return (
        text if len(text) <= 60 else f"{text[:40]}~{hashlib.sha256(text.encode()).hexdigest()[:6]}"
    )


def copy_with_marks(tree: ast.Module, node: ast.AST) -> ast.Module:
    """Return a copy of the tree in which the copy of `node` bears a mark."""
    node.marked = True  # type: ignore[attr-defined]
    other = copy.deepcopy(tree)
    del node.marked  # type: ignore[attr-defined]
    return other


class _Replaced(ast.NodeTransformer):
    """Puts another node in the place of the marked one."""

    def __init__(self, node: ast.AST, after: ast.AST):
        self.after = after

    def visit(self, node: ast.AST) -> ast.AST:
        return self.after if hasattr(node, "marked") else self.generic_visit(node)


def sample(root: Path) -> list[Mutant]:
    """Return the fixed sample of all modules of the room, by file and line."""
    chosen = []
    for path in sorted((root / ROOM).rglob("*.py")):
        every = mutants_of(root, path.relative_to(root))
        count = max(LEAST, round(SHARE * len(every)))
        best = sorted(every, key=lambda m: hashlib.sha256((_SEED + m.name).encode()).hexdigest())
        chosen += sorted(best[:count], key=lambda m: (m.line, m.name))
    return chosen + planted(root)


def planted(root: Path) -> list[Mutant]:
    """Return the two faults of the joint rule that were once planted by hand."""
    path = ROOM / "verifiers/joint.py"
    source = (root / path).read_text(encoding="utf-8")
    faults = {
        "near the threshold": (
            "joint - tree.reference > self.bound", "joint - tree.reference >= self.bound - 0.001",
        ),
        "first failure stops": (
            "jnp.max(jnp.where(passes, jnp.asarray(tree.depth), 0), axis=1)",
            "jnp.sum(jnp.cumprod(passes[:, 1:], axis=1), axis=1)",
        ),
    }  # fmt: skip
    found = []
    for name, (before, after) in faults.items():
        if source.count(before) != 1:
            raise ValueError(f"{path} holds {source.count(before)} times {before!r}, not once")
        line = source[: source.index(before)].count("\n") + 1
        text = source.replace(before, after)
        found.append(Mutant(f"verifiers/joint.py:planted:{name}", path, line, before, after, text))
    return found
