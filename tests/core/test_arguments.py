"""Arguments that mean something else than what was meant: an error in the caller's words, before any work."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from helpers.libraries import Lib

from specnorm.api.registered import GROUP
from specnorm.backends import registry
from specnorm.errors import (
    BackendConflict,
    BrokenBackend,
    EstimateWarning,
    GeometryError,
    MethodError,
    NoBackend,
    TracerError,
)
from specnorm.methods import METHODS, Evaluation, Grid, Method, Needs

specnorm: Any = importlib.import_module("specnorm")  # called with what its types refuse
KERNEL = np.cos(np.arange(54.0)).reshape(3, 2, 3, 3).astype(np.float32)


ARRAYS: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "a bound": (lambda k: specnorm.certify(k, k[0, ...]), MethodError, r"bound is an array of shape \(2, 3, 3\)"),
    "a size": (lambda k: specnorm.enclose(k, k[0, ...]), GeometryError, r"input_shape is an array of .*\(2, 3, 3\)"),
    "the second argument": (lambda k: specnorm.measure(Grid(), k), NoBackend, r"the kernel first.*\(kernel, Grid"),
    "a method": (lambda k: specnorm.init_tracking(k, k), MethodError, r"not a method.*the kernel comes first"),
}  # fmt: skip
"""Arrays in another argument's place; `test_messages` has arguments of other kinds."""


@pytest.mark.parametrize("given", ARRAYS)
def test_arguments_are_refused_by_name(xp: Lib, given: str) -> None:
    call, error, words = ARRAYS[given]
    with pytest.raises(error, match=words):
        call(xp.asarray(KERNEL))


def test_a_number_in_an_array_is_a_number(xp: Lib) -> None:
    kernel = xp.asarray(KERNEL)
    upper = specnorm.enclose(kernel).upper
    assert specnorm.certify(kernel, upper)
    assert specnorm.enclose(kernel, np.int64(4)).upper > 0


def test_tracers_name_static_argnums(jax: Any) -> None:
    kernel = jax.numpy.asarray(KERNEL)
    calls: tuple[Callable[[Any], Any], ...] = (
        lambda n: specnorm.gram_bound(kernel, n), lambda n: specnorm.gram_bound(kernel, (n, 8)),
        lambda bound: specnorm.certify(kernel, bound), lambda bound: specnorm.rescale(kernel, bound),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(specnorm.SpecnormError, match="static_argnums"):
            jax.jit(call)(8)


def test_a_search_under_a_tracer_names_the_function_that_was_called(jax: Any) -> None:
    """Not one that it calls, nor its method; and one that answers the same question there."""
    calls: dict[tuple[str, str], Callable[[Any], Any]] = {
        ("condition_number", "isometry_bound"): lambda k: specnorm.condition_number(k).upper,
        ("rescale", "gram_rescaling"): lambda k: specnorm.rescale(k, 1.0),
        ("is_isometry", "isometry_bound"): lambda k: specnorm.is_isometry(k, 0.1),
        ("tn_bound", "completion_bound"): lambda k: specnorm.tn_bound(k, proven=True),
    }
    for (name, other), call in calls.items():
        with pytest.raises(TracerError, match=rf"^{name} looks at values .* of them\. {other}"):
            jax.jit(call)(jax.numpy.asarray(KERNEL))


def test_singular_values_that_a_budget_ends_say_so() -> None:
    """They were zeros without a word."""
    kernel = np.random.default_rng(0).standard_normal((8, 8, 3, 3))
    with pytest.warns(EstimateWarning, match=r"budget=1e-09.*lower bounds"):
        found = specnorm.singular_values(kernel, 40, k=3, padding_mode="zeros", budget=1e-9)
    true = specnorm.singular_values(kernel, 40, k=3, padding_mode="zeros")
    assert np.all((0.1 * true < found) & (found < true))


AT_A_SIZE = sorted(
    name
    for name in specnorm.__all__
    if hasattr(getattr(specnorm, name), "__wrapped__")
    and "input_shape" in inspect.signature(getattr(specnorm, name).__wrapped__).parameters
)


@pytest.mark.parametrize("name", AT_A_SIZE)
def test_a_matrix_has_no_input_shape(name: str) -> None:
    """Nor a linear layer, which is one, also if it has a single value."""
    function = getattr(specnorm, name)
    matrix = np.asarray([[2.0, 1.0], [0.5, 3.0]])
    assert repr(function(matrix)) == repr(function(matrix, ()))
    if name != "slogdet":
        row: Any = function(np.ones((1, 4)))
        value = getattr(row, "upper", row)
        assert float(np.max(value)) == pytest.approx(1.0 if name == "condition_number" else 2.0)
    with pytest.raises(GeometryError, match="input_shape=7"):
        function(matrix, 7)


# -- methods of other distributions ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Stranger(Grid):
    name = "stranger"


def root_of_squares(_: Any, blocks: Any, __: Any, *, ops: Any) -> Evaluation:
    return Evaluation(ops.xp.sum(blocks**2, axis=(1, 2, 3, 4)) ** 0.5, (), ())


def written(wrong: Any = None, **members: Any) -> Any:
    """A method that a user writes: the Frobenius norm, with one member changed."""
    values: dict[str, Any] = {
        "name": "mine", "promise": "estimate", "forward": root_of_squares, "__module__": "stranger_methods",
    }  # fmt: skip
    cls = type("Mine", (Method,), {k: v for k, v in (values | members).items() if v is not None})
    return dataclass(frozen=True)(cls) if wrong is None else wrong(cls)


SCALAR: Any = np.ones(())
WRONG_METHODS: dict[str, tuple[Callable[[], Any], str]] = {
    "no name": (lambda: written(name=None), "Mine has no `name`"),
    "a name of specnorm's": (lambda: written(name="grid"), "the name 'grid' of specnorm's Grid"),
    "no dataclass": (lambda: written(lambda cls: cls), "Mine is not a frozen dataclass"),
    "no promise": (lambda: written(promise=None), "Mine.promise=None is none of 'exact', 'upper'"),
    "an unknown promise": (lambda: written(promise="uper"), "Mine.promise='uper' is none of 'exact', 'upper'"),
    "an unknown kind": (lambda: written(kind=lambda *_: "uper"), "kind of Mine='uper' is none of"),
    "a bound that is not rounded up": (lambda: written(promise="upper"), r"promises 'upper' and rounds 'nearest'"),
    "an unknown direction": (lambda: written(asks=Needs(rounds="upward")), "rounds='upward' is none of"),  # type: ignore[arg-type]
    "no forward": (lambda: written(forward=None), "Mine has no `forward`"),
    "an array": (lambda: written(forward=lambda *_, **__: np.ones(1)), "forward is to return an Evaluation"),
    "a scalar": (
        lambda: written(forward=lambda *_, **__: Evaluation(SCALAR, (), ())),
        "value is an array of 1 numbers",
    ),
    "no residuals": (lambda: written(), "Mine returned 0 residuals"),
}


@pytest.mark.parametrize("name", WRONG_METHODS)
def test_a_method_that_breaks_a_rule_is_refused(name: str) -> None:
    make, words = WRONG_METHODS[name]
    with pytest.raises(MethodError, match=words):
        specnorm.value_and_grad(KERNEL, make()())


def test_a_method_of_a_function_keeps_its_name() -> None:
    """specnorm's own methods may share one: `complete` runs a method of its own."""
    specnorm.complete(KERNEL)
    assert specnorm.measure(KERNEL, METHODS["completion"]()).kind == "upper"


def test_a_method_in_words_is_measured() -> None:
    assert specnorm.measure(KERNEL, written()()).value == pytest.approx(np.linalg.norm(KERNEL), rel=1e-6)


def entry(name: str, value: str) -> importlib.metadata.EntryPoint:
    return importlib.metadata.EntryPoint(name, value, GROUP)


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> Any:
    found: list[importlib.metadata.EntryPoint] = []
    real = registry.entry_points
    monkeypatch.setattr(registry, "entry_points", lambda *, group: found if group == GROUP else real(group=group))
    module: Any = types.ModuleType("stranger_methods")
    module.Stranger = Stranger
    monkeypatch.setitem(sys.modules, "stranger_methods", module)
    registry.refresh()
    yield found
    registry.refresh()


def test_a_method_is_found_by_its_entry_point(entries: Any) -> None:
    entries.append(entry("stranger", "stranger_methods:Stranger"))
    assert list(METHODS)[-1] == "stranger"
    found = specnorm.compare(KERNEL)
    assert found["stranger"].value == found["grid"].value
    assert METHODS["grid"] is Grid


def test_a_broken_method_is_named(entries: Any) -> None:
    entries += [entry("gone", "module_that_went:Gone"), entry("other", "stranger_methods:Stranger")]
    with pytest.raises(BrokenBackend, match=r"method 'gone' of an unnamed .*cannot be imported"):
        METHODS["gone"]
    with pytest.raises(BrokenBackend, match=r"method 'other' .*whose `name` is 'other'"):
        METHODS["other"]
    entries.append(entry("gone", "elsewhere:Gone"))
    registry.refresh()
    with pytest.raises(BackendConflict, match="two distributions register a method 'gone'"):
        METHODS["gone"]
    with pytest.raises(KeyError):
        METHODS["nobody's"]


def test_a_registered_method_that_breaks_a_rule_is_named(entries: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    entries.append(entry("mine", "stranger_methods:Mine"))
    monkeypatch.setattr(sys.modules["stranger_methods"], "Mine", written(promise="uper"), raising=False)
    with pytest.raises(BrokenBackend, match=r"method 'mine' of an unnamed .*promise='uper'"):
        specnorm.compare(KERNEL)


def test_a_registered_name_of_specnorms_is_refused(entries: Any) -> None:
    entries.append(entry("grid", "stranger_methods:Stranger"))
    with pytest.raises(BackendConflict, match="'grid'"):
        METHODS["grid"]


@pytest.mark.parametrize(
    ("call", "what"),
    [(lambda: specnorm.audit({}), "audit"), (lambda: specnorm.enclose(KERNEL).certificate(), "certificate_of")],
)
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, call: Any, what: str) -> None:
    package = "specnorm_audit"

    class Hidden:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for module in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    for room in (specnorm, specnorm.above):  # where an earlier call has stored it
        monkeypatch.delitem(vars(room), what, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Hidden(), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match=rf"^{what} needs the package {package}, which is missing"):
        call()
