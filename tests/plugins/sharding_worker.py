"""What `specnorm_jax.spread` does on eight devices: run by test_sharding.py in a process of its own; writes JSON."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import specnorm_jax
from jax.sharding import NamedSharding

import specnorm

Function = Callable[[Any], Any]

FUNCTIONS: dict[str, Function] = {
    "grid": lambda kernel: specnorm.grid_bound(kernel, n=9),
    "gram": lambda kernel: specnorm.gram_bound(kernel, (13, 13)),
    "fft": lambda kernel: specnorm.conv_norm(kernel, (13, 13)),
}
"""45, 91 and 91 frequencies: none divides by eight."""
OPERATION = re.compile(r"= (.*?) (all-gather|all-to-all|collective-permute|all-reduce|custom-call)\(.*")
SHAPE = re.compile(r"\w+\[([\d,]*)\]")


def inside(function: Function, mesh: Any, axis: Any = None) -> Function:
    def spread(kernel: Any) -> Any:
        with specnorm_jax.spread(mesh, axis):
            return function(kernel)

    return spread


def compiled(function: Function, kernel: Any) -> dict[str, Any]:
    """Value and gradient of a function, and what its compiled program does on each device."""
    program = jax.jit(jax.value_and_grad(function)).lower(kernel).compile()
    moved, factorised = list[int](), set[int]()
    for line in (program.as_text() or "").splitlines():
        operation = OPERATION.search(line)
        if operation is None:
            continue
        shapes = [tuple(int(n) for n in dims.split(",") if n) for dims in SHAPE.findall(operation[1])]
        if operation[2] != "custom-call":
            moved += map(math.prod, shapes)
        elif "lapack_" in line:
            factorised.add(math.prod(shapes[0][:-2]))
    memory: Any = program.memory_analysis()
    value, gradient = program(kernel)
    return {
        "value": float(value),
        "gradient": np.asarray(gradient).ravel().tolist(),
        "moved": max(moved, default=0),
        "factorised": max(factorised, default=0),
        "temporary": int(memory.temp_size_in_bytes),
    }


def main() -> None:
    devices = np.asarray(jax.devices())
    mesh = jax.make_mesh((8,), ("f",))
    grid = jax.sharding.Mesh(devices.reshape(2, 4), ("rest", "f"))
    rows: Any = jax.sharding.PartitionSpec
    kernel = jnp.asarray(np.random.RandomState(0).standard_normal((16, 12, 3, 3)))
    found: dict[str, Any] = {"devices": len(devices)}
    for name, function in FUNCTIONS.items():
        found[name] = {
            "one": compiled(function, kernel),
            "eight": compiled(inside(function, mesh), kernel),
        }
    gram = FUNCTIONS["gram"]
    found["gram"]["four"] = compiled(jax.jit(inside(gram, grid, "f")), kernel)
    with specnorm_jax.spread(mesh):
        found["around"] = float(jax.grad(gram)(kernel)[0, 0, 0, 0])
        found["by hand"] = float(specnorm.value_and_grad(kernel, specnorm.Gram(), input_shape=(13, 13))[0])
        found["searched"] = float(specnorm.enclose(kernel).upper)
        found["placed"] = [
            float(gram(jax.device_put(kernel, NamedSharding(mesh, rows())))),
            float(gram(jax.device_put(kernel, NamedSharding(mesh, rows("f"))))),
            float(gram(jax.device_put(kernel, devices[3]))),
        ]
    found["searched alone"] = float(specnorm.enclose(kernel).upper)
    found["after"] = len(gram(kernel).devices())
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
