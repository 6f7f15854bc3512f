"""Training steps of a program: a state of vectors beside the kernels, moved by a sweep or two."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from specnorm import arrays
from specnorm.certified import arithmetic, rounding
from specnorm.errors import MethodError
from specnorm.methods.base import Stepped
from specnorm.runtime.program import Program, check_values, program, program_for

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.methods import Method
    from specnorm.types import AnyArray, ArrayOps, Backend


@dataclass(frozen=True)
class SteppedProgram(Program):
    """A program whose method is `Stepped`."""

    @property
    def stepped(self) -> Stepped:
        """The method."""
        return cast(Stepped, self.method)

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of the arrays that a step keeps for one kernel; the first axis is its groups'."""
        lead = self.spec.groups if self.needs.blocks else 1
        return {name: (lead, *shape) for name, shape in self.stepped.state_shapes(self.spec).items()}

    def init(self, kernels: AnyArray, *, backend: Backend) -> tuple[AnyArray, ...]:
        """Training state of a batch of kernels (*batch, *shape): the arrays of `state_shapes`, leading axes batch."""
        run = self.execution(kernels, backend=backend, training=True)
        if run.in_numpy:
            found = self.init(backend.to_numpy(kernels), backend=backend.host())
            return tuple(backend.from_numpy(x, kernels) for x in found)
        xp = run.xp
        batch = kernels.shape[: kernels.ndim - len(self.shape)]
        with arithmetic.exact(kernels, backend=backend):
            if not run.traced:
                check_values(kernels, self.shape, backend=backend)
            blocks, _ = self._scaled_blocks(kernels, run)
            found = self.stepped.start(blocks, self.spec, ops=run)
            dtype = getattr(xp, self.result_dtype)
            shapes = self.state_shapes().values()
            return tuple(xp.reshape(xp.astype(x, dtype), (*batch, *n)) for x, n in zip(found, shapes, strict=True))

    def step(
        self, kernels: AnyArray, state: tuple[AnyArray, ...], *, sweeps: int, backend: Backend
    ) -> tuple[AnyArray, AnyArray, tuple[AnyArray, ...]]:
        """Move the state by a few sweeps; values are not looked at, and a non-finite kernel has the value NaN.

        Parameters
        ----------
        kernels : array, shape (*batch, *shape)
        state : tuple of arrays
            From `init` or the step before.

        Returns
        -------
        value : array, shape batch
        gradient : array, shape (*batch, *shape)
            In the result's dtype, the vectors held constant.
        state : tuple of arrays
            Shapes and dtypes as given.
        """
        run = self.execution(kernels, backend=backend, training=True)
        xp = run.xp
        if run.in_numpy:
            there = tuple(map(backend.to_numpy, state))
            value, gradient, after = self.step(backend.to_numpy(kernels), there, sweeps=sweeps, backend=backend.host())
            moved = tuple(
                xp.astype(backend.share_numpy(new, kernels), old.dtype, copy=False)
                for new, old in zip(after, state, strict=True)
            )
            return backend.share_numpy(value, kernels), backend.share_numpy(gradient, kernels), moved
        batch = kernels.shape[: kernels.ndim - len(self.shape)]
        with arithmetic.exact(kernels, backend=backend):
            blocks, exponent = self._scaled_blocks(kernels, run)
            inside = tuple(xp.astype(xp.reshape(x, (-1, *x.shape[len(batch) + 1 :])), blocks.dtype) for x in state)
            found, after = self.stepped.advance(blocks, inside, self.spec, sweeps=sweeps, ops=run)
            del blocks  # the gradient is as large
            per_group = xp.reshape(found.value, (math.prod(batch), self.parts))
            value, chosen = self.method.over_groups(per_group, xp=xp)
            value, dtype = arrays.unscale(value, exponent, xp=xp), getattr(xp, self.result_dtype)
            if self.stepped.bounds_at_every_step:
                if self.factor > 1:
                    value = rounding.padded_up(value, self.spec.padding_gain_sq, xp=xp)
                value = rounding.to_dtype(value, dtype, "up", xp=xp)
            else:
                value = xp.astype(value * self.factor, dtype)
            value = xp.reshape(value, batch)
            ones = xp.ones_like(value)
            gradient = self.pullback((*found.residuals, chosen), ones, dtype=self.result_dtype, backend=backend)
            moved = tuple(
                xp.astype(xp.reshape(new, old.shape), old.dtype) for new, old in zip(after, state, strict=True)
            )
            return value, gradient, moved

    def attached(self, kernels: AnyArray, value: AnyArray, gradient: AnyArray, *, backend: Backend) -> AnyArray:
        """Return the value with its gradient, as the plain product that every library can differentiate."""
        xp = backend.namespace(kernels)
        with arithmetic.exact(kernels, backend=backend):
            size = math.prod(self.shape)
            flat = xp.reshape(xp.astype(kernels, gradient.dtype), (*value.shape, 1, size))
            slope = xp.matmul(flat, xp.reshape(gradient, (*value.shape, size, 1)))[..., 0, 0]
            return value + (slope - backend.detach(slope))

    def _scaled_blocks(self, kernels: Array, run: ArrayOps) -> tuple[Array, Array]:
        """Blocks of a batch in the kernels' own precision, each layer scaled by a power of two, and its exponent."""
        xp = run.xp
        count = math.prod(kernels.shape[: kernels.ndim - len(self.shape)])
        blocks = self._blocks(xp.reshape(kernels, (count, *self.shape)), run.own_dtype, run)
        if not self.needs.scaled:
            return blocks, xp.zeros(count, dtype=blocks.dtype, device=run.device(blocks))
        layers = xp.reshape(blocks, (count, -1))
        if run.concrete and not run.asynchronous:
            # What is within 2**16 of 1 already is not copied.
            squares = xp.vecdot(layers, layers)
            if xp.all((squares * 2.0**32 > 1) & (squares < 2.0**32)):
                return blocks, xp.zeros_like(squares)
        layers, exponent = arrays.scale(layers, xp=xp)
        return xp.reshape(layers, blocks.shape), exponent


def stepped_program(
    method: Method, shape: tuple[int, ...], dtype: str, geometry: tuple[tuple[str, Any], ...]
) -> SteppedProgram:
    """`program_for` a method that is to be stepped.

    Raises
    ------
    KernelError, GeometryError
    MethodError
        If it cannot be.
    """
    if not isinstance(method, Stepped):
        raise MethodError(
            f"{method.name} has no training state. TensorNorm, FantasticFour and Power (at an input size) are "
            "stepped with the vectors they keep, Completion with its H; Gram keeps nothing. These two are "
            "bounds at every step."
        )
    return cast(SteppedProgram, program_for(method, shape, dtype, geometry, SteppedProgram))


def state_shapes(key: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """`SteppedProgram.state_shapes` of the program behind a key, as plain values."""
    return tuple(cast(SteppedProgram, program(key)).state_shapes().items())


state_shapes._dynamo_marked_constant = True  # type: ignore[attr-defined]
