"""What it costs to begin training with JAX, in processor seconds: ``python -m bench.jax_start``."""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np
from specnorm_jax.training import SpectralPenalty

done: Any = jax.block_until_ready
forgotten: Any = jax.clear_caches
SHAPES = ((3, 3, 3, 16), (3, 3, 16, 16), (3, 3, 16, 32), (3, 3, 32, 32))
LIGHT = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}
"""What docs/training-jax.md names."""


def main() -> None:
    rng = np.random.default_rng(0)
    tree = {str(j): {"kernel": jax.numpy.asarray(rng.standard_normal(s), "float32")} for j, s in enumerate(SHAPES)}
    penalty = SpectralPenalty()
    begin = time.process_time()
    state = done(penalty.init(tree))
    print(f"init, {len(SHAPES)} kernels: {time.process_time() - begin:.1f} s")
    for options in (None, LIGHT):
        forgotten()
        begin = time.process_time()
        step = jax.jit(jax.value_and_grad(penalty, has_aux=True), compiler_options=options)
        (_, after), _ = done(step(tree, state))
        print(f"first step, compiler_options={options}: {time.process_time() - begin:.1f} s")
        begin = time.process_time()
        done(step(tree, after))
        print(f"second step: {1e3 * (time.process_time() - begin):.1f} ms")


if __name__ == "__main__":
    main()
