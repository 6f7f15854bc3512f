"""Programs with a training state, which is moved by a sweep or two in each training step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from specnorm.backends import arrays
from specnorm.backends.registry import called_while_tracing
from specnorm.errors import MethodError
from specnorm.proofs import arithmetic, rounding
from specnorm.running.base import Stepped
from specnorm.running.program import Program, check_values, program, program_for

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import AnyArray, ArrayOps, Backend
    from specnorm.running.base import Method


_FOR_EVERY_SIZE = (
    "Constraints, penalties and track use one of these: SymbolNorm() (the default of constraints) or TensorNorm(), "
    "which are estimates, or Gram(), which is an upper bound. For weights that are proven to be within the bound at "
    "every step, train with the ball: SpectralBall (torch, Keras), spectral_ball (JAX)."
)
"""The methods that are stepped without an input size."""


@dataclass(frozen=True)
class SteppedProgram(Program):
    """A program whose method is `Stepped`."""

    @property
    def stepped(self) -> Stepped:
        """The method, with its type known to be `Stepped`."""
        return cast(Stepped, self.plan)

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the state's arrays for one kernel; their first axis is that of its groups."""
        blocks_of_layer = self.spec.groups if self.needs.blocks else 1
        return {name: (blocks_of_layer, *shape) for name, shape in self.stepped.state_shapes(self.spec).items()}

    def init(self, kernels: AnyArray, *, backend: Backend) -> tuple[AnyArray, ...]:
        """The first state for kernels (*batch, *shape): the arrays of `state_shapes`, with leading axes batch."""
        run = self.execution(kernels, backend=backend, training=True)
        if run.in_numpy:
            host_state = self.init(backend.to_numpy(kernels), backend=backend.host())
            return tuple(backend.from_numpy(x, kernels) for x in host_state)
        xp = run.xp
        batch = kernels.shape[: kernels.ndim - len(self.shape)]
        with arithmetic.exact(kernels, backend=backend):
            if not run.traced:
                check_values(kernels, self.shape, backend=backend)
            blocks, _ = self._scaled_blocks(kernels, run)
            block_states = self.stepped.start(blocks, self.spec, ops=run)
            dtype = getattr(xp, self.result_dtype)
            shapes = self.state_shapes().values()
            return tuple(
                xp.reshape(xp.astype(x, dtype), (*batch, *shape)) for x, shape in zip(block_states, shapes, strict=True)
            )

    def step(
        self, kernels: AnyArray, state: tuple[AnyArray, ...], *, sweeps: int, backend: Backend
    ) -> tuple[AnyArray, AnyArray, tuple[AnyArray, ...]]:
        """Move the state by a few sweeps, and evaluate the method at the new state.

        Kernels are not checked: a non-finite one has the value NaN.

        Parameters
        ----------
        kernels : array, shape (*batch, *shape)
        state : tuple of arrays
            From `init` or the step before.

        Returns
        -------
        value : array, shape batch
        gradient : array, shape (*batch, *shape)
            Gradient of the value for a constant state, in the result's dtype.
        state : tuple of arrays
            In the shapes and dtypes of the given state.
        """
        run = self.execution(kernels, backend=backend, training=True)
        xp = run.xp
        if run.in_numpy:
            return self._step_on_host(kernels, state, sweeps, run)
        batch = kernels.shape[: kernels.ndim - len(self.shape)]
        with arithmetic.exact(kernels, backend=backend):
            blocks, exponent = self._scaled_blocks(kernels, run)
            block_states = tuple(
                xp.astype(xp.reshape(x, (-1, *x.shape[len(batch) + 1 :])), blocks.dtype) for x in state
            )
            evaluation, new_block_states = self.stepped.advance(blocks, block_states, self.spec, sweeps=sweeps, ops=run)
            # The gradient is as large as the blocks: free their memory.
            del blocks
            by_group = xp.reshape(evaluation.value, (math.prod(batch), self.answers_per_layer))
            value, chosen = self.plan.over_groups(by_group, xp=xp)
            value = arrays.unscale(value, exponent, xp=xp)
            dtype = getattr(xp, self.result_dtype)
            if self.stepped.promise == "upper":
                if self.factor > 1:
                    value = rounding.padded_up(value, self.spec.padding_gain_sq, xp=xp)
                value = rounding.to_dtype(value, dtype, "up", xp=xp)
            else:
                value = xp.astype(value * self.factor, dtype)
            value = xp.reshape(value, batch)
            ones = xp.ones_like(value)
            residuals = (*evaluation.residuals, chosen)
            gradient = self._pullback(residuals, ones, self.result_dtype, xp=xp)
            new_state = tuple(
                xp.astype(xp.reshape(new, old.shape), old.dtype)
                for new, old in zip(new_block_states, state, strict=True)
            )
            return value, gradient, new_state

    def _step_on_host(
        self, kernels: AnyArray, state: tuple[AnyArray, ...], sweeps: int, run: ArrayOps
    ) -> tuple[AnyArray, AnyArray, tuple[AnyArray, ...]]:
        """`step` in NumPy; the results are arrays of the kernels' library."""
        backend = run.backend
        host_kernels = backend.to_numpy(kernels)
        host_state = tuple(map(backend.to_numpy, state))
        value, gradient, new_host_state = self.step(host_kernels, host_state, sweeps=sweeps, backend=backend.host())
        new_state = tuple(
            run.xp.astype(backend.share_numpy(new, kernels), old.dtype, copy=False)
            for new, old in zip(new_host_state, state, strict=True)
        )
        return backend.share_numpy(value, kernels), backend.share_numpy(gradient, kernels), new_state

    def attached(self, kernels: AnyArray, value: AnyArray, gradient: AnyArray, *, backend: Backend) -> AnyArray:
        """Return the value, with ``gradient`` as its derivative for the library's automatic differentiation.

        The inner product of kernels and constant gradient is added and, as a constant, subtracted.
        """
        xp = backend.namespace(kernels)
        with arithmetic.exact(kernels, backend=backend):
            size = math.prod(self.shape)
            flat = xp.reshape(xp.astype(kernels, gradient.dtype), (*value.shape, 1, size))
            linear_part = xp.matmul(flat, xp.reshape(gradient, (*value.shape, size, 1)))[..., 0, 0]
            # Zero with a derivative, but for a product that overflows, whose difference is NaN.
            difference = linear_part - backend.detach(linear_part)
            return value + xp.where(xp.isfinite(difference), difference, xp.zeros_like(difference))

    def _scaled_blocks(self, kernels: Array, run: ArrayOps) -> tuple[Array, Array]:
        """Blocks of a batch in the kernels' dtype, each layer scaled by ``2**-exponent``, and exponents (count,)."""
        xp = run.xp
        count = math.prod(kernels.shape[: kernels.ndim - len(self.shape)])
        blocks = self._blocks(xp.reshape(kernels, (count, *self.shape)), run.own_dtype, run)
        if not self.needs.scaled:
            return blocks, xp.zeros(count, dtype=blocks.dtype, device=run.device(blocks))
        layers = xp.reshape(blocks, (count, -1))
        if run.concrete and not run.asynchronous:
            # Layers whose norms are between 2**-16 and 2**16 are not scaled, which saves a copy.
            squares = xp.vecdot(layers, layers)
            if xp.all((squares * 2.0**32 > 1) & (squares < 2.0**32)):
                return blocks, xp.zeros_like(squares)
        layers, exponent = arrays.scale(layers, xp=xp)
        return xp.reshape(layers, blocks.shape), exponent


def stepped_program(
    method: Method, shape: tuple[int, ...], dtype: str, geometry: tuple[tuple[str, Any], ...]
) -> SteppedProgram:
    """`program_for` a method with a training state.

    Raises
    ------
    KernelError, GeometryError
        As `program_for`.
    MethodError
        If the method cannot be stepped, in general or on this geometry.
    """
    if not isinstance(method, Stepped):
        raise MethodError(f"method={method!r} cannot follow a norm step by step. {_FOR_EVERY_SIZE}")
    if method.steps_at_a_size and dict(geometry).get("input_shape") is None:
        raise MethodError(
            f"method={method!r} follows the norm at one input size, and there is no input_shape. {_FOR_EVERY_SIZE} "
            f"(init_tracking and track take input_shape, and step {method!r} then.)"
        )
    return cast(SteppedProgram, program_for(method, shape, dtype, geometry, SteppedProgram))


def first_sweeps(passes: Any) -> Any:
    """Least number of sweeps in a forward pass, after a number of passes: 5, 4, 3 and 2 in 16 passes each, then less.

    An optimiser's first steps change all weights in one direction, and one sweep a pass would lag.

    Parameters
    ----------
    passes : int or integer array
    """
    return 5 - passes // 16


@called_while_tracing
def state_shapes(key: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """`SteppedProgram.state_shapes` of the program behind a key, as plain values."""
    return tuple(cast(SteppedProgram, program(key)).state_shapes().items())
