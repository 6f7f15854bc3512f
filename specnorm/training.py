"""Norms along a training run: a state of vectors that follows the kernel, moved by a sweep or two a step.

`init_tracking` finds the maximisers once, `track` follows them: pure functions of arrays, so that the state goes into a
checkpoint, through a compiler and to other devices like any other array. What a step returns is an estimate (for `Gram`
and `Completion` a bound): a certificate is `specnorm.certify` or `specnorm.rescale`, once, at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, Unpack

from specnorm.array_types import ArrayObject
from specnorm.backends import Backend, backend_for
from specnorm.errors import MethodError
from specnorm.layers import takes_layers
from specnorm.measuring import check_method, measure
from specnorm.methods import Method
from specnorm.methods.base import check_count
from specnorm.problem.spec import Geometry
from specnorm.runtime.stepping import SteppedProgram, state_shapes, stepped_program
from specnorm.runtime.zero_channels import batches, moved, padded
from specnorm.types import AnyArray, ArrayT

State: TypeAlias = dict[str, Any]
"""Arrays by name. Which, and of what shape, the method and the geometry tell; `Gram` keeps none."""


@takes_layers
def init_tracking(kernel: ArrayObject, method: Method, **geometry: Unpack[Geometry]) -> State:
    """Find the vectors that `track` follows: the whole maximisation, once.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    method : Method
        `SymbolNorm`, `Completion`, `TensorNorm`, `FantasticFour`, `Power` (at an input size), or `Gram`, which keeps
        nothing.
    **geometry
        ``input_shape``, ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``,
        ``padding``: see `specnorm.Geometry`.

    Returns
    -------
    dict of str to array
        Real arrays of the kernel's library and device, in float32 or float64: a small part of the kernel; of
        `SymbolNorm` some 150 complex vectors of the fewer channels for 3x3 taps, as pairs; of `Completion` some 6 times
        the kernel.

    Raises
    ------
    KernelError, GeometryError, BackendError
    MethodError
        If the method cannot be stepped.
    """
    return _init(kernel, *_plan(kernel, method, geometry))


@takes_layers
def track(
    kernel: ArrayT,
    method: Method,
    state: Mapping[str, ArrayObject],
    *,
    sweeps: int = 1,
    **geometry: Unpack[Geometry],
) -> tuple[ArrayT, State]:
    """Follow the maximisers of a kernel that has moved a little, and take the value there.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    method : Method
        The one given to `init_tracking`.
    state : dict of str to array
        From `init_tracking` or the step before; not changed.
    sweeps : int, default 1
        How far to follow; each is two or three products with the kernel. 0: the value where the state stands.
    **geometry
        ``input_shape``, ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``,
        ``padding``: as in `init_tracking`.

    Returns
    -------
    value : 0-d array
        An *estimate*, converging from below to what the method stands for (the norm itself, TN, the smallest unfolding
        bound, the layer's norm at its size), no upper bound; with `Gram` and `Completion` an upper bound, however stale
        the state. Differentiable where the library is, the vectors held constant (the envelope theorem); zero, with
        zero gradient, for a zero kernel, and NaN for a non-finite one.
    state : dict of str to array
        For the next step; shapes and dtypes as given.

    Raises
    ------
    KernelError, GeometryError, BackendError
    MethodError
        If the method cannot be stepped, or the state is another method's or geometry's.
    """
    backend, plan = _plan(kernel, method, geometry)
    check_count("sweeps", sweeps)
    shapes = _checked(plan, state)
    if not shapes:
        value: ArrayT = measure(kernel, method, **geometry).value
        return value, {}
    value, after = backend.step(plan, kernel, tuple(state[name] for name in shapes), sweeps)
    return value, dict(zip(shapes, after, strict=True))


def track_many(
    kernels: Sequence[ArrayT],
    method: Method,
    states: Sequence[Mapping[str, ArrayObject]],
    *,
    geometries: Sequence[Mapping[str, Any]] | None = None,
    sweeps: int = 1,
) -> tuple[list[ArrayT], list[State]]:
    """`track` for all layers of a network; those of one shape, dtype, device and geometry are stepped as one batch.

    Parameters
    ----------
    kernels : sequence of arrays
    method : Method
    states : sequence of dict
        One a kernel, each from `init_tracking`.
    geometries : sequence of mapping, optional
        Keywords of each layer, see `specnorm.problem.spec.Geometry`; None: none has any.
    sweeps : int, default 1

    Returns
    -------
    values : list of 0-d arrays
    states : list of dict

    Raises
    ------
    As `track`; also MethodError if the sequences differ in length.
    """
    layers = [{} for _ in kernels] if geometries is None else list(geometries)
    if not len(kernels) == len(states) == len(layers):
        raise MethodError(f"{len(kernels)} kernels, {len(states)} states and {len(layers)} geometries: give one each.")
    values: list[Any] = [None] * len(kernels)
    after: list[State] = [{} for _ in kernels]
    plans = [_plan(kernel, method, geometry) for kernel, geometry in zip(kernels, layers, strict=True)]
    names = [list(_checked(plan, state)) for (_, plan), state in zip(plans, states, strict=True)]
    devices = [f"{backend.name} {backend.device(kernel)}" for (backend, _), kernel in zip(plans, kernels, strict=True)]
    merge = any(backend.static_shapes for backend, _ in plans)
    for members, wide in batches([plan for _, plan in plans], layers, devices, merge=merge):
        backend = plans[members[0]][0]
        xp: Any = backend.namespace(kernels[members[0]])
        stack = xp.stack([padded(kernels[j], wide.shape, xp=xp) for j in members])
        inside = [moved(tuple(states[j][name] for name in names[j]), plans[j][1], wide, xp=xp) for j in members]
        found, reached = _step_stack(backend, wide, stack, tuple(map(xp.stack, zip(*inside, strict=True))), sweeps)
        for place, j in enumerate(members):
            values[j] = found[place, ...]
            own = moved(tuple(x[place, ...] for x in reached), wide, plans[j][1], xp=xp)
            after[j] = dict(zip(names[j], own, strict=True))
    return values, after


def init_stack(kernels: ArrayObject, method: Method, **geometry: Unpack[Geometry]) -> State:
    """`init_tracking` for kernels of one shape and geometry, (n, *shape): the state of all of them, leading axis n."""
    return _init(kernels, *_plan(kernels, method, geometry, stacked=True))


def step_stack(
    kernels: ArrayObject,
    method: Method,
    state: Mapping[str, ArrayObject],
    *,
    sweeps: int = 1,
    **geometry: Unpack[Geometry],
) -> tuple[AnyArray, State]:
    """`track` for kernels of one shape and geometry, (n, *shape), and a state of `init_stack`: values (n,), state."""
    backend, plan = _plan(kernels, method, geometry, stacked=True)
    check_count("sweeps", sweeps)
    shapes = _checked(plan, state, (kernels.shape[0],))
    value, after = _step_stack(backend, plan, kernels, tuple(state[name] for name in shapes), sweeps)
    return value, dict(zip(shapes, after, strict=True))


def _init(kernels: Any, backend: Backend, plan: SteppedProgram) -> State:
    names = [name for name, _ in state_shapes(plan.key)]
    return dict(zip(names, backend.init(plan, kernels), strict=True)) if names else {}


def _step_stack(
    backend: Backend,
    plan: SteppedProgram,
    kernels: Any,
    state: tuple[Any, ...],
    sweeps: int,
) -> tuple[Any, tuple[Any, ...]]:
    if state:
        return backend.step(plan, kernels, state, sweeps)
    each = [backend.apply(plan, kernels[j, ...]).value for j in range(kernels.shape[0])]
    return backend.namespace(kernels).stack(each), ()


def _plan(
    kernel: Any,
    method: Method,
    geometry: Mapping[str, Any],
    *,
    stacked: bool = False,
) -> tuple[Backend, SteppedProgram]:
    check_method(method)
    backend = backend_for(kernel)
    return backend, stepped_program(method, tuple(kernel.shape)[stacked:], str(kernel.dtype), tuple(geometry.items()))


def _checked(
    plan: SteppedProgram,
    state: Mapping[str, ArrayObject],
    batch: tuple[int, ...] = (),
) -> dict[str, tuple[int, ...]]:
    """Names and shapes that the state must have, and has."""
    shapes = {name: (*batch, *shape) for name, shape in state_shapes(plan.key)}
    given = {name: tuple(x.shape) for name, x in state.items()}
    if given != shapes:
        raise MethodError(
            f"the state holds {given}; {plan.method.name} on this layer keeps {shapes}. Give the state that init or "
            "the step before returned for the same method, kernel shape and geometry."
        )
    return shapes
