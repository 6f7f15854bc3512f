"""What a user does first: ``python smoke.py EXTRA``, where only the wheel and that extra are installed."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import specnorm
from specnorm.methods import Grid

KERNEL = np.ones((2, 2, 2, 2), dtype=np.float32)
NORM = 8.0
"""Of the supremum: two channels to each of two, four taps, all ones."""


def check(value: object) -> None:
    """An upper bound of `NORM`, and not far above it."""
    number = float(value)  # type: ignore[arg-type]
    assert NORM <= number < 1.01 * NORM, number


def core() -> None:
    """Layers in NumPy."""
    for bound in (specnorm.f4_bound, specnorm.tn_bound, specnorm.completion_bound):
        check(bound(KERNEL))
    check(specnorm.enclose(KERNEL).upper)
    check(specnorm.measure(KERNEL, Grid(n=200)).value)
    assert specnorm.certify(KERNEL, 8.1)


def numpy() -> None:
    """NumPy alone, and an audit of arrays."""
    core()
    (row,) = specnorm.audit({"weight": KERNEL}).layers
    check(row.upper)
    assert specnorm.__version__


def command(*arguments: str, **environment: str) -> str:
    """What ``specnorm`` prints; its exit code must be 0."""
    program = Path(sys.executable).with_name("specnorm")
    done = subprocess.run(
        [str(program), *arguments], capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def cli() -> None:
    """The command, as a program and as a module, on a file."""
    np.savez("model.npz", weight=KERNEL)
    assert "weight" in command("audit", "model.npz", "--fail-above", "8.1")
    checkpoint = Path(__file__).parents[1] / "data" / "dncnn25" / "dncnn_25.pth"
    assert "dncnn_25" in command("audit", str(checkpoint), "--layers", "*model.0.*")
    assert find_spec("torch") is None
    assert "numpy" in command("backends")
    assert "Exit codes:" in command("audit", "--help")
    assert "specnorm" in command(_SPECNORM_COMPLETE="bash_source")
    module = subprocess.run(
        [sys.executable, "-m", "specnorm", "--version"], capture_output=True, text=True, check=True, timeout=300
    )
    assert specnorm.__version__ in module.stdout == command("--version")


def torch() -> None:
    """Tensors, gradients, a module, and a state dict's audit."""
    import specnorm_torch
    import torch

    layer = torch.nn.Conv2d(2, 2, 2, bias=False)
    torch.nn.init.ones_(layer.weight)
    bound = specnorm.f4_bound(layer.weight, **specnorm_torch.geometry_of(layer))
    check(bound.detach())
    bound.backward()  # type: ignore[no-untyped-call]
    assert layer.weight.grad is not None
    torch.save(layer.state_dict(), "model.pt")
    check(specnorm.audit("model.pt").layers[0].upper)


def jax() -> None:
    """Arrays, ``jit``, a gradient, and the trees of parameters."""
    import jax
    import jax.numpy as jnp
    from specnorm_jax.training import kernels

    check(jax.jit(specnorm.f4_bound)(jnp.asarray(KERNEL)))
    assert jax.grad(specnorm.f4_bound)(jnp.asarray(KERNEL)).shape == KERNEL.shape
    assert kernels({"Conv_0": {"kernel": jnp.asarray(KERNEL)}})


def cupy() -> None:
    """Arrays on a GPU."""
    import cupy

    check(specnorm.f4_bound(cupy.asarray(KERNEL)))


def onnx() -> None:
    """A model of one convolution."""
    from onnx import TensorProto, helper, numpy_helper, save

    node = helper.make_node("Conv", ["x", "weight"], ["y"], pads=[0, 0, 1, 1])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 8, 8]) for name in ("x", "y")]
    graph = helper.make_graph([node], "one", values[:1], values[1:], [numpy_helper.from_array(KERNEL, "weight")])
    save(helper.make_model(graph), "model.onnx")
    check(specnorm.audit("model.onnx").layers[0].upper)


def keras() -> None:
    """Weights as Keras lays them out in HDF5."""
    import h5py

    with h5py.File("model.weights.h5", "w") as file:
        file["layers/conv2d/vars/0"] = KERNEL.transpose(2, 3, 1, 0)
    check(specnorm.audit("model.weights.h5").layers[0].upper)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    print(f"{sys.argv[1]}: works")
