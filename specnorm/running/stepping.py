"""Programs with a training state, which is moved in each training step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from specnorm.backends import arrays
from specnorm.backends.registry import called_while_tracing
from specnorm.errors import MethodError
from specnorm.geometry import polyphase
from specnorm.proofs import arithmetic
from specnorm.running import checks
from specnorm.running.base import Followed, Stepped
from specnorm.running.program import Program, program, program_for
from specnorm.running.proofs import scaling

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import AnyArray, ArrayOps, Backend
    from specnorm.running.base import Method


_FOR_EVERY_SIZE = (
    "Constraints, penalties and track use one of these: SymbolNorm() (the default of constraints) or TensorNorm(), "
    "which are estimates, or Gram(), which is an upper bound. For weights that are proven to be within the bound at "
    "every step, train with the ball: SpectralBall (torch, Keras), spectral_ball (JAX)."
)
"""The methods that are stepped without an input size."""


class SteppedProgram(Program):
    """A program whose method is `Stepped`."""

    @property
    def stepped(self) -> Stepped:
        """The method, with its type known to be `Stepped`."""
        return cast(Stepped, self.plan)

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the state's arrays for one kernel; their first axis is that of its groups."""
        return dict(_state_shapes(self.key))

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
                checks.values(kernels, self.shape, backend=backend)
            blocks, _ = self._scaled_blocks(kernels, run)
            block_states = self.stepped.start(blocks, self.spec, ops=run)
            dtype = getattr(xp, self.result_dtype)
            shapes = self.state_shapes().values()
            return tuple(
                xp.reshape(xp.astype(x, dtype), (*batch, *shape)) for x, shape in zip(block_states, shapes, strict=True)
            )

    def step(
        self, kernels: AnyArray, state: tuple[AnyArray, ...], *, sweeps: int | None, backend: Backend
    ) -> tuple[AnyArray, AnyArray, tuple[AnyArray, ...]]:
        """Move the state by a few sweeps, and evaluate the method at the new state.

        Kernels are not checked: a non-finite one has the value NaN.

        Parameters
        ----------
        kernels : array, shape (*batch, *shape)
        state : tuple of arrays
            From `init` or the step before.
        sweeps : int or None
            None: as many as the change of the kernels needs, by a method that follows the norm (`Stepped.follows`);
            else 1. 0: the value at the given state, which is returned; a method that follows takes a sweep for it.

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
        if self.stepped.follows:
            return self._step_by_factors(kernels, state, sweeps, run)
        sweeps = 1 if sweeps is None else sweeps
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
            rounds: scaling.Rounds = "up" if self.stepped.promise == "upper" else "nearest"
            dtype = getattr(xp, self.result_dtype)
            value = scaling.for_caller(value, exponent, rounds, dtype, gain_sq=self.gain_sq, xp=xp)
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
        self, kernels: AnyArray, state: tuple[AnyArray, ...], sweeps: int | None, run: ArrayOps
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

    # -- methods that follow the norm ----------------------------------------------------------------------------------
    def follow(
        self, kernels: AnyArray, state: tuple[AnyArray, ...], *, sweeps: int | None, backend: Backend
    ) -> Followed:
        """`step` of a method that follows the norm, with the gradients in factors.

        Parameters
        ----------
        kernels : array, shape (layers, *shape)
        state : tuple of arrays
            With leading axis layers.
        sweeps : int or None
            0: a fixed number of steps, the least. None: as many as the change of each kernel needs.

        Returns
        -------
        Followed
            With leading axis layers. ``left`` (layers, rows, r) times ``right`` (layers, r, n) is the gradient as a
            matrix, of all groups, as of `polyphase.to_rows`. Several programs at once: `follow_all`.
        """
        (followed,) = follow_all([self], [kernels], [state], [sweeps], backend=backend)
        return followed

    def _followed(self, kernels: Any, state: tuple[AnyArray, ...], sweeps: int | None, run: ArrayOps) -> Followed:
        """`follow` where the context of `arithmetic.exact` is entered already."""
        xp = run.xp
        kernels = _as_dtype(kernels, getattr(xp, run.own_dtype), xp=xp)
        rows = polyphase.to_rows(kernels, self.spec, xp=xp)
        block_state = tuple(_as_dtype(xp.reshape(x, (-1, *x.shape[2:])), kernels.dtype, xp=xp) for x in state)
        followed = self.stepped.follow(rows, block_state, self.spec, sweeps=sweeps, ops=run)
        return self._by_layers(followed, kernels, state, xp=xp)

    def _by_layers(self, followed: Followed, kernels: Any, state: tuple[AnyArray, ...], *, xp: Any) -> Followed:
        """The norm of the highest group of each layer, its factors, and the state in the shapes of the given one."""
        layers, groups = kernels.shape[0], self.answers_per_layer
        value, left, right = followed.value, followed.left, followed.right
        if groups > 1:
            by_group = [xp.reshape(x, (layers, groups, *x.shape[1:])) for x in (value, left, right)]
            value, chosen = self.plan.over_groups(by_group[0], xp=xp)
            left, right = (arrays.pick(x, chosen, xp=xp) for x in by_group[1:])
            left = arrays.one_hot(left, chosen, groups, xp=xp)
        if self.spec.groups > 1:
            left = xp.reshape(left, (layers, -1, right.shape[1]))
        dtype = getattr(xp, self.result_dtype)
        value, left, right = (_as_dtype(x, dtype, xp=xp) for x in (value, left, right))
        new_state = tuple(
            _as_dtype(xp.reshape(new, old.shape), old.dtype, xp=xp)
            for new, old in zip(followed.state, state, strict=True)
        )
        return Followed(value, left, right, new_state)

    def gradients(self, left: AnyArray, right: AnyArray, *, xp: Any) -> AnyArray:
        """The gradients (layers, *shape) of norms by layer, from the factors that `follow` returns."""
        gradients = polyphase.outer_products(left, right, self.spec, xp=xp)
        return xp.reshape(gradients, (-1, *self.shape))

    def _step_by_factors(
        self, kernels: AnyArray, state: tuple[AnyArray, ...], sweeps: int | None, run: ArrayOps
    ) -> tuple[AnyArray, AnyArray, tuple[AnyArray, ...]]:
        """`step` of a method that follows the norm. Where reading values would wait for a device, one sweep."""
        xp = run.xp
        batch = kernels.shape[: kernels.ndim - len(self.shape)]
        axes = len(batch)
        flat_state = tuple(xp.reshape(x, (-1, *x.shape[axes:])) for x in state)
        flat = xp.reshape(kernels, (-1, *self.shape))
        moves = sweeps != 0
        if sweeps is None and run.concrete and run.asynchronous:
            sweeps = 1
        followed = self.follow(flat, flat_state, sweeps=1 if sweeps == 0 else sweeps, backend=run.backend)
        gradient = xp.reshape(self.gradients(followed.left, followed.right, xp=xp), (*batch, *self.shape))
        new_state = tuple(xp.reshape(new, old.shape) for new, old in zip(followed.state, state, strict=True))
        return xp.reshape(followed.value, batch), gradient, new_state if moves else state

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
            if all(2.0**-32 < x < 2.0**32 for x in run.to_numpy(squares).tolist()):
                return blocks, xp.zeros_like(squares)
        layers, exponent = arrays.scale(layers, xp=xp)
        return xp.reshape(layers, blocks.shape), exponent


def follow_all(
    programs: Sequence[SteppedProgram],
    kernels: Sequence[AnyArray],
    states: Sequence[tuple[AnyArray, ...]],
    sweeps: Sequence[int | None],
    *,
    backend: Backend,
) -> list[Followed]:
    """`SteppedProgram.follow` of layers of several programs, whose arithmetic is prepared once."""
    runs = [x.execution(y, backend=backend, training=True) for x, y in zip(programs, kernels, strict=True)]
    largest = max(kernels, key=lambda x: math.prod(x.shape))
    with arithmetic.exact(largest, backend=backend):
        layers = zip(programs, kernels, states, sweeps, runs, strict=True)
        return [program._followed(x, state, count, run) for program, x, state, count, run in layers]


def _as_dtype(x: Array, dtype: Any, *, xp: Namespace) -> Array:
    """`astype`, which takes a microsecond in NumPy where nothing is converted."""
    return x if x.dtype == dtype else xp.astype(x, dtype)


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


@called_while_tracing
def _state_shapes(key: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """`SteppedProgram.state_shapes` of the program behind a key, as plain values."""
    found = cast(SteppedProgram, program(key))
    blocks_of_layer = found.spec.groups if found.needs.blocks else 1
    return tuple((name, (blocks_of_layer, *shape)) for name, shape in found.stepped.state_shapes(found.spec).items())
