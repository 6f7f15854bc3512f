"""Mistakes that are planted in functions, in place while checks look: what kinds there are, where they can be made.

A kind of mistake changes one place of a function's syntax tree. The function's code object is exchanged, so that
whoever has imported it runs the mistake, too. `mistakes` lists those of some kinds in some functions, and `noticed_by`
plants one and names the first of some checks that finds something wrong. A `Written` mistake is written by hand.

Kinds: of arithmetic (the largest for the product, an axis forgotten, the wrong end of several numbers, a number on the
wrong side by what rounding could make of it, here visibly, by a thousandth, an epsilon left out); of hypotheses, which
are the conditions of refusals and what predicates answer (a term left out, a comparison weaker by one, any for all); of
claims (one that is too sharp); of roundings (none counted).
"""

from __future__ import annotations

import ast
import copy
import functools
import gc
import importlib
import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import CodeType, FunctionType
from typing import Any

import pytest
from _pytest.mark import ParameterSet
from test_house import ROOT, module_of

Change = Callable[[ast.AST], None]
"""Of a function's own tree, in place."""
Check = Callable[[], Iterator[str]]
"""What is wrong, found one by one."""
VISIBLE = 1e-3


@dataclass(frozen=True)
class Function:
    """A function or method by its module's file and its name there."""

    path: Path
    name: str

    def __str__(self) -> str:
        package, _, place = self.module.partition(".")
        return f"{place if package == 'specnorm' else package.removeprefix('specnorm_')}: {self.name}"

    @property
    def module(self) -> str:
        return module_of(self.path)

    def tree(self) -> ast.FunctionDef:
        """Not to be changed."""
        return _functions(self.path)[self.name]


@functools.cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@functools.cache
def _functions(path: Path) -> dict[str, ast.FunctionDef]:
    return dict(functions_of(_parsed(path)))


def functions_of(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions of a module and methods of its classes, by their names; not what is defined in functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield inside + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from functions_of(node, f"{inside}{node.name}.")


def functions_in(path: Path) -> list[Function]:
    return [Function(path, name) for name in _functions(path)]


def _object(function: Function) -> FunctionType:
    found: Any = importlib.import_module(function.module)
    for part in function.name.split("."):
        found = inspect.getattr_static(found, part)
        for inner in ("fget", "func", "__func__", "__wrapped__"):
            found = getattr(found, inner, found)
    assert isinstance(found, FunctionType), function
    return found


def _code(tree: ast.Module, path: Path, name: str) -> CodeType:
    waiting: list[Any] = [compile(tree, str(path), "exec")]
    for code in waiting:
        if code.co_qualname == name:
            found: CodeType = code
            return found
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    raise LookupError(name)


@functools.cache
def caches() -> list[Any]:
    # By the exact type: `isinstance` asks a weak reference's dead object for its class, which raises.
    things = (x for x in gc.get_objects() if type(x) is functools._lru_cache_wrapper)
    return [x for x in things if x.__module__.startswith("specnorm")]


def forget() -> None:
    for cache in caches():
        cache.cache_clear()


@contextmanager
def _planted(function: Function, tree: ast.Module) -> Iterator[None]:
    there = _object(function)
    before = there.__code__
    there.__code__ = _code(ast.fix_missing_locations(tree), function.path, function.name)
    forget()
    try:
        yield
    finally:
        there.__code__ = before
        forget()


@contextmanager
def mutated(function: Function, change: Change) -> Iterator[None]:
    """The function with a change, which is given a copy of its tree."""
    tree = copy.deepcopy(_parsed(function.path))
    change(dict(functions_of(tree))[function.name])
    with _planted(function, tree):
        yield


@contextmanager
def rewritten(folder: Path, right: str, wrong: str) -> Iterator[None]:
    """The function that has a text, in one place of a file or of a folder's files, with another one there."""
    paths = folder.rglob("*.py") if folder.is_dir() else [folder]
    (path,) = (path for path in paths if right in path.read_text(encoding="utf-8"))
    before, after = path.read_text(encoding="utf-8").split(right)
    line = (before + right).rstrip().count("\n") + 1
    (name,) = (name for name, node in _functions(path).items() if node.lineno <= line <= (node.end_lineno or 0))
    with _planted(Function(path, name), ast.parse(before + wrong + after)):
        yield


# -- kinds: arithmetic -------------------------------------------------------------------------------------------------
Sites = Iterator[tuple[ast.AST, ast.AST]]
"""Nodes of a function, each with what a mistake makes of it."""


def everywhere(change: Callable[[Any], ast.expr | None]) -> Callable[[ast.AST], Sites]:
    """A kind that changes expressions wherever they stand."""

    def sites(tree: ast.AST) -> Sites:
        for node in ast.walk(tree):
            if isinstance(node, ast.expr) and (other := change(node)) is not None:
                yield node, other

    return sites


def expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def called(node: ast.AST) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def largest_for_product(node: ast.Call) -> ast.expr | None:
    if called(node) in ("math.prod", "np.prod"):
        return expression(f"max({ast.unparse(node.args[0])}, default=1)")
    return None


def axis_forgotten(node: ast.Call) -> ast.expr | None:
    if called(node) in ("math.prod", "np.prod"):
        return expression(f"math.prod(tuple({ast.unparse(node.args[0])})[1:])")
    return None


OTHER_END = {
    "max": "min", "min": "max", "xp.max": "xp.min", "xp.min": "xp.max", "np.max": "np.min",
    "xp.maximum": "xp.minimum", "xp.minimum": "xp.maximum", "np.maximum": "np.minimum", "np.minimum": "np.maximum",
}  # fmt: skip


def other_end(node: ast.Call) -> ast.expr | None:
    if called(node) in OTHER_END:
        keywords = [k for k in node.keywords if k.arg != "default" or called(node) == "max"]
        return ast.Call(expression(OTHER_END[called(node)]), node.args, keywords)
    return None


def rounded_inward(node: ast.Call) -> ast.expr | None:
    name = called(node)
    if name in ("rounding.up", "rounding.down"):
        return ast.BinOp(node.args[0], ast.Mult(), ast.Constant(1 - VISIBLE if name.endswith("up") else 1 + VISIBLE))
    if name.startswith("host.") and name.rpartition("_")[2] in ("up", "down"):
        return ast.BinOp(node, ast.Mult(), ast.Constant(1 - VISIBLE if name.endswith("up") else 1 + VISIBLE))
    if name == "host.inflate":
        return ast.BinOp(node.args[0], ast.Mult(), ast.Constant(1 - VISIBLE))
    return None


def term_left_out(node: ast.Call) -> ast.expr | None:
    """The last term of an outward sum or difference."""
    if called(node) in ("host.add_up", "host.sub_down") and len(node.args) > 1:
        return node.args[0]
    return None


EPSILON = re.compile("error|lost|loss|tiny|underflow|rounded|truncation")


def epsilon_left_out(node: ast.expr) -> ast.expr | None:
    """What a sum or a difference has beside what allows for errors."""
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub)):
        return None
    if EPSILON.search(ast.unparse(node.right)):
        return node.left
    return node.right if isinstance(node.op, ast.Add) and EPSILON.search(ast.unparse(node.left)) else None


# -- kinds: hypotheses -------------------------------------------------------------------------------------------------
Conditions = Iterator[tuple[ast.expr, bool]]
"""Conditions, each with the value that claims more."""


def conditions(tree: ast.AST) -> Conditions:
    """On what a function refuses, ``if ...: raise HypothesisError(...)`` or ``require(...)``; a predicate's answers."""
    answers = ast.unparse(getattr(tree, "returns", None) or ast.Constant(None)) == "bool"
    for node in ast.walk(tree):
        if called(node) == "require":
            yield node.args[0], True  # type: ignore[attr-defined]
        first = node.body[0] if isinstance(node, ast.If) else None
        if isinstance(first, ast.Raise) and "HypothesisError" in ast.unparse(first):
            yield node.test, False  # type: ignore[attr-defined]
        elif answers and isinstance(first, ast.Return) and isinstance(first.value, ast.Constant):
            yield node.test, bool(first.value.value)  # type: ignore[attr-defined]
        elif answers and isinstance(node, ast.Return) and not isinstance(node.value, ast.Constant | None):
            yield node.value, True


def terms(tree: ast.AST) -> Conditions:
    """Conditions and what they are made of, also where names stand for it; first a whole, then its parts."""
    named: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            named.setdefault(node.targets[0].id, []).append(node.value)
    seen: set[tuple[ast.expr, bool]] = set()

    def parts(node: ast.expr, more: bool) -> Conditions:
        if (node, more) in seen:
            return
        seen.add((node, more))
        yield node, more
        inside: list[ast.expr] = []
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inside, more = [node.operand], not more
        elif isinstance(node, ast.BoolOp):
            inside = node.values
        elif isinstance(node, ast.Name):
            inside = named.get(node.id, [])
        elif isinstance(node, ast.IfExp):
            inside = [node.body, node.orelse]
        elif isinstance(node, ast.Call) and called(node).rpartition(".")[2] in ("bool", "all", "any"):
            of = node.args or [node.func.value]  # type: ignore[attr-defined]
            inside = [of[0].elt if isinstance(of[0], ast.GeneratorExp) else of[0]]
        for each in inside:
            yield from parts(each, more)

    for condition in conditions(tree):
        yield from parts(*condition)


def condition_left_out(tree: ast.AST) -> Sites:
    """A term that is not asked: of several that all must hold, or of a comparison with several links, each."""
    whole = {node for node, _ in conditions(tree)}
    for node, more in terms(tree):
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And) is more:
            yield from ((each, ast.Constant(more)) for each in node.values)
        elif isinstance(node, ast.Compare) and len(node.ops) > 1 and more:
            values = [node.left, *node.comparators]
            links = [ast.Compare(values[at], [op], [values[at + 1]]) for at, op in enumerate(node.ops)]
            for at in range(len(links)):
                yield node, ast.BoolOp(ast.And(), [*links[:at], *links[at + 1 :], ast.Constant(True)])
        elif node in whole and not isinstance(node, ast.BoolOp):
            yield node, ast.Constant(more)


def weaker_by_one(tree: ast.AST) -> Sites:
    """A comparison that holds one step too early, of whole numbers: of others at its border, or far beyond."""
    other = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
    for node, more in terms(tree):
        if isinstance(node, ast.Compare):
            values = [node.left, *node.comparators]
            for at, op in enumerate(node.ops):
                strict, up = isinstance(op, ast.Lt | ast.Gt), isinstance(op, ast.Gt | ast.GtE)
                if not strict and not isinstance(op, ast.LtE | ast.GtE):
                    continue
                ops, numbers = list(node.ops), list(values)
                if strict is more:
                    ops[at] = other[type(op)]()
                else:  # ``a <= b`` becomes ``a <= b + 1``; where it refuses, ``a < b`` becomes ``a + 1 < b``
                    side = at + 1 if up is not more else at
                    numbers[side] = ast.BinOp(numbers[side], ast.Add(), ast.Constant(1))
                yield node, ast.Compare(numbers[0], ops, numbers[1:])


def any_for_all(tree: ast.AST) -> Sites:
    for node, more in terms(tree):
        word, instead = ("all", "any") if more else ("any", "all")
        before, dot, name = called(node).rpartition(".")
        if name == word:
            yield node, ast.Call(expression(before + dot + instead), node.args, node.keywords)  # type: ignore[attr-defined]


# -- kinds: claims and roundings ---------------------------------------------------------------------------------------
MAKERS = {
    "Upper._by_rule": "({}) / 2", "make_upper": "({}) / 2", "Uppers._by_rule": "({}) / 2",
    "Lower._by_rule": "({}) * 2 + 1e-3", "make_lower": "({}) * 2 + 1e-3",
    "Upper._largest": "sorted({}, key=float)[:-1]",
}  # fmt: skip
"""Constructors of claims, and what makes the claim of a number too sharp, or forgets the largest part."""


def claim_too_sharp(node: ast.Call) -> ast.expr | None:
    if called(node) not in MAKERS or ast.unparse(node.args[0]) == "0.0":  # half of nothing is nothing
        return None
    value = expression(MAKERS[called(node)].format(ast.unparse(node.args[0])))
    return ast.Call(node.func, [value, *node.args[1:]], node.keywords)


ALLOWANCES = {"gamma", "product_error", "phase_error"}


def rounding_uncounted(tree: ast.AST) -> Sites:
    """All calls of allowances in a function are 0: either may cover usual errors of another."""
    calls = (called(node).rpartition(".")[2] for node in ast.walk(tree) if isinstance(node, ast.Call))
    if ALLOWANCES.isdisjoint(calls):
        return
    other = copy.deepcopy(tree)

    class Uncounted(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.AST:
            return ast.Constant(0.0) if called(node).rpartition(".")[2] in ALLOWANCES else self.generic_visit(node)

    Uncounted().visit(other)
    yield tree, other


ARITHMETIC: dict[str, Callable[[ast.AST], Sites]] = {
    "the largest for the product": everywhere(largest_for_product), "an axis forgotten": everywhere(axis_forgotten),
    "the other end": everywhere(other_end), "on the wrong side": everywhere(rounded_inward),
    "a term left out": everywhere(term_left_out), "an epsilon left out": everywhere(epsilon_left_out),
}  # fmt: skip
HYPOTHESES: dict[str, Callable[[ast.AST], Sites]] = {
    "not asked": condition_left_out, "weaker by one": weaker_by_one, "any for all": any_for_all,
}  # fmt: skip
CLAIMS = {"too sharp": everywhere(claim_too_sharp)}
ROUNDINGS = {"uncounted": rounding_uncounted}
KINDS = ARITHMETIC | HYPOTHESES | CLAIMS | ROUNDINGS


# -- mistakes ----------------------------------------------------------------------------------------------------------
@functools.cache
def places(function: Function, kind: str) -> tuple[tuple[str, str], ...]:
    """What a kind can change in a function, and what it makes of it."""
    return tuple((ast.unparse(node), ast.unparse(other)) for node, other in KINDS[kind](function.tree()))


@dataclass(frozen=True)
class Mistake:
    """One place of a function, changed: the one with a number among those that its kind can change."""

    function: Function
    kind: str
    number: int

    @property
    def site(self) -> str:
        return "" if self.kind in ROUNDINGS else places(self.function, self.kind)[self.number][0]

    def __str__(self) -> str:
        return f"{self.function} | {self.kind} | {self.site}"

    def __repr__(self) -> str:
        return f"{self.function}: {self.kind} {self.number}"

    def change(self, tree: ast.AST) -> None:
        target, other = list(KINDS[self.kind](tree))[self.number]
        exchange(tree, target, other)

    def planted(self) -> AbstractContextManager[None]:
        return mutated(self.function, self.change)


def exchange(tree: ast.AST, target: ast.AST, other: ast.AST) -> None:
    class Changed(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> Any:
            return other if node is target else self.generic_visit(node)

    if target is tree:
        tree.body = other.body  # type: ignore[attr-defined]
    else:
        Changed().visit(tree)


def mistakes(functions: Iterable[Function], kinds: Iterable[str]) -> list[Mistake]:
    kinds = tuple(kinds)
    return [Mistake(f, kind, number) for f in functions for kind in kinds for number in range(len(places(f, kind)))]


@dataclass(frozen=True)
class Written:
    """A mistake that is written by hand: what is there, each followed by what is there in its place.

    Either is a text that one file of ``folder`` has once, or the first names a function, ``path.py: name``, and the
    second is what it returns.
    """

    name: str
    folder: str
    texts: tuple[str, ...]

    def __repr__(self) -> str:
        return self.name

    @contextmanager
    def planted(self) -> Iterator[None]:
        with ExitStack() as each:
            for right, wrong in zip(self.texts[::2], self.texts[1::2], strict=True):
                path, is_function, name = right.partition(".py: ")
                if is_function:
                    function = Function(ROOT / self.folder / f"{path}.py", name)
                    each.enter_context(mutated(function, functools.partial(_return, wrong)))
                else:
                    each.enter_context(rewritten(ROOT / self.folder, right, wrong))
            yield


def _return(value: str, tree: Any) -> None:
    tree.body = [ast.Return(expression(value))]


# -- checks ------------------------------------------------------------------------------------------------------------
def noticed_by(mistake: Mistake | Written, checks: Mapping[str, Check]) -> str:
    """The first check that finds something wrong, or ends in an error; or nothing."""
    with mistake.planted():
        for name, check in checks.items():
            try:
                if next(check(), None):
                    return name
            except Exception:
                return name  # a wrong number may end in an error
    return ""


def check_named(name: str) -> Check:
    """A check, or whether a test fails in any of its cases: ``module:function``.

    ``module:function[text]``: the check of an argument, or the test's cases with a text in them.
    """
    module, _, function = name.partition(":")
    function, _, text = function.rstrip("]").partition("[")
    test: Any = getattr(importlib.import_module(module), function)
    if inspect.isgeneratorfunction(test):
        return functools.partial(test, *[text] * bool(text))

    def check() -> Iterator[str]:
        for case in _cases(test):
            if text not in str(case):
                continue
            with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder, suppress(pytest.skip.Exception):
                fixtures = {"monkeypatch": patch, "tmp_path": Path(folder)}
                given = {name: x for name, x in fixtures.items() if name in inspect.signature(test).parameters}
                try:
                    test(**case, **given)
                except (Exception, pytest.fail.Exception) as error:
                    yield f"{case}: {error}"

    return check


def _cases(test: Any) -> Iterator[dict[str, Any]]:
    """Arguments of a test that pytest would give it."""
    choices: list[list[dict[str, Any]]] = []
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "parametrize":
            names, values = mark.args[:2]
            names = [x.strip() for x in names.split(",")] if isinstance(names, str) else names
            rows = [x.values if isinstance(x, ParameterSet) else x if len(names) > 1 else (x,) for x in values]
            choices.append([dict(zip(names, row, strict=True)) for row in rows])
    for parts in itertools.product(*choices):
        yield {name: value for part in parts for name, value in part.items()}
