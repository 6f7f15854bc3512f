"""A user's program: never run by the tests, but read by type checkers against the installed wheel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import specnorm
from specnorm.backends import Backend
from specnorm.methods import METHODS, Gram, Kind, TensorNorm
from specnorm.testing import check_backend

Kernel = NDArray[np.float32]


def numbers(kernel: Kernel) -> list[float]:
    """Functions return what they are given: an array of the same library."""
    assert_type(specnorm.grid_bound(kernel, stride=2, padding_mode="zeros"), Kernel)
    assert_type(specnorm.tn_bound(kernel, proven=True), Kernel)
    assert_type(specnorm.rescale(kernel, 1.0), Kernel)
    assert_type(specnorm.certify(kernel, 1.0, groups=4), bool)
    assert_type(specnorm.enclose(kernel=kernel, input_shape=8), specnorm.Enclosure)
    assert_type(specnorm.lmo(gradient=kernel), Kernel)
    return [float(specnorm.conv_norm(kernel, (32, 32))), float(specnorm.power_norm(kernel, 32, padding=1))]


class Layer:
    """To a type checker a framework's layer: called, it returns arrays."""

    weight: Kernel

    def __call__(self, x: Kernel) -> Kernel:
        """Return the layer's output."""
        return x


def layers(layer: Layer, anything: Callable[..., Any]) -> None:
    """A layer in place of its kernel: functions return what the layer does, in torch and Keras Any."""
    assert_type(specnorm.enclose(layer), specnorm.Enclosure)
    assert_type(specnorm.rescale(kernel=layer), Kernel)
    assert_type(specnorm.tn_bound(layer), Kernel)
    assert_type(specnorm.conv_norm(layer, 32), Kernel)
    assert_type(specnorm.enclose(anything, 32), specnorm.Enclosure)
    assert_type(specnorm.tn_bound(anything), Any)


def answers(kernel: Kernel) -> str:
    """Results and enclosures have attributes with types."""
    result = specnorm.measure(kernel, Gram(n_iter=4), input_shape=16)
    assert_type(result, specnorm.Result)
    kind: Kind = result.kind
    found = specnorm.enclose(kernel, rtol=1e-2)
    assert_type(found.cells, int)
    assert_type(found.status, str)
    value, gradient = specnorm.value_and_grad(kernel, METHODS["grid"]())
    assert_type(gradient, Kernel)
    return f"{kind} {float(value)} {found.lower} {found.upper}"


def geometry(shape: tuple[int, ...]) -> specnorm.Geometry:
    """The keywords as a type."""
    layer: specnorm.Geometry = {"stride": (2, 2), "padding": 1, "layout": "HWIO"}
    assert_type(specnorm.ConvSpec.of(shape, **layer).kernel_shape, tuple[int, ...])
    return layer


def training(kernel: Kernel) -> None:
    """States are opaque dicts; steps give value and state."""
    method = TensorNorm(proven=False)
    state = specnorm.init_tracking(kernel, method)
    value, state = specnorm.track(kernel, method, state, sweeps=2)
    assert_type(value, Kernel)


def reports(path: str) -> list[str]:
    """An audit's rows."""
    report = specnorm.audit(path, input_shape=32, methods=("tn",))
    assert_type(report, specnorm.Report)
    try:
        return [f"{row.name} {row.lower} {row.upper}" for row in report.layers if row.status == "ok"]
    except specnorm.SpecnormError as error:
        return [str(error)]


class Mine(Backend):
    """A plugin."""

    name = "mine"
    api_version = 2


def checked() -> None:
    """What a plugin's test calls."""
    check_backend(Mine())


def mistakes(kernel: Kernel) -> None:
    """Each line must be refused: an ignore that nothing needs is an error."""
    specnorm.grid_bound(kernel, strides=2)  # type: ignore[call-arg]
    specnorm.grid_bound(kernel, padding_mode="zero")  # type: ignore[arg-type]
    specnorm.measure(kernel, "tn")  # type: ignore[arg-type]
    print(specnorm.enclose(kernel).high)  # type: ignore[attr-defined]
    specnorm.certify(kernel, "1")  # type: ignore[arg-type]
    specnorm.enclose("model.onnx")  # type: ignore[arg-type]
    specnorm.audit("model.onnx", size=32)  # type: ignore[call-arg]
