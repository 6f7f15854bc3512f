"""What a gradient takes, in kernels: ``python -m bench.memory [CHANNELS ...]`` prints a table in Markdown.

Bytes that NumPy allocates at most during a pullback, and those that the forward pass holds for it, over the bytes of a
float32 kernel; the gradient itself is one kernel.
"""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

from bench import facts, kernels, markdown
from specnorm import Gram, Grid, backends, methods
from specnorm.methods.channel_norms import ChannelNorms
from specnorm.methods.matrix_stacks import GramIteration, MatrixNorm, PowerIteration
from specnorm.runtime.table import program_for

CIRCULAR = (("input_shape", 32), ("padding_mode", "circular"))
ROWS: dict[str, tuple[methods.Method, tuple[tuple[str, Any], ...]]] = {
    "`f4_bound`": (methods.FantasticFour(), ()), "`unfolding_bounds`": (methods.Unfoldings(), ()),
    "`tn_bound`": (methods.TensorNorm(certified=False), ()), "`grid_bound`": (Grid(), ()),
    "`gram_bound`, n = 32": (Gram(), CIRCULAR), "`gram_bound`, every size": (Gram(), ()),
    "`conv_norm`, n = 32": (methods.ExactFFT(), CIRCULAR), "`power_norm`, n = 32": (methods.Power(n_iter=4), CIRCULAR),
    "channels' norms (`gram_rescaling`)": (ChannelNorms(), ()), "`matrix_norm`, a matrix": (MatrixNorm(), ()),
    "`power_iteration`, a matrix": (PowerIteration(), ()), "`gram_iteration`, a matrix": (GramIteration(), ()),
}  # fmt: skip


def peak(run: Callable[[], object]) -> int:
    """Bytes that a second call allocates at most."""
    run()
    tracemalloc.start()
    run()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def kernels_of_memory(
    method: methods.Method, kernel: np.ndarray, geometry: tuple[tuple[str, Any], ...] = ()
) -> tuple[float, float]:
    """Peak of the backward, and what is held for it, over the kernel's own size."""
    plan, backend = program_for(method, kernel.shape, str(kernel.dtype), geometry), backends.load("numpy")
    value, _, residuals = plan.forward(kernel, backend=backend)
    ones = np.ones_like(value)
    found = peak(lambda: plan.pullback(residuals, ones, backend=backend))
    return found / kernel.nbytes, sum(x.nbytes for x in residuals) / kernel.nbytes


def main(channels: list[int]) -> None:
    lines = []
    for name, (method, geometry) in ROWS.items():
        every = [kernels.flat(c) if "matrix" in name else kernels.like_trained((c, c, 3, 3)) for c in channels]
        given = [kernel[:, :, 0, 0] if "matrix" in name else kernel for kernel in every]
        figures = [kernels_of_memory(method, kernel.astype(np.float32), geometry) for kernel in given]
        lines.append([name, *(f"{x:.2f}" for pair in figures for x in pair)])
    names = [f"{c}x{c}x3x3{word}" for c in channels for word in (": backward", "held for it")]
    print(f"{markdown.measured([facts.about('numpy')])}\n\n{markdown.table(['', *names], lines)}")


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [64, 256])
