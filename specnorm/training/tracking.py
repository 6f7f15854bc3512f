"""Public functions that follow norms in training, with a state that each step moves by a sweep or two.

`init_tracking` computes the state once, and `track` moves it. Both are pure functions of arrays, so a state can be
saved in a checkpoint, compiled, and moved to other devices like other arrays. The value of a step is an estimate (for
`Gram` an upper bound). After training, `specnorm.certify` or `specnorm.rescale` proves a bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, Unpack

from specnorm.backends import Backend, backend_for, text
from specnorm.backends.array_types import ArrayObject
from specnorm.backends.types import ArrayT
from specnorm.errors import MethodError
from specnorm.geometry.layers import KernelOrLayer, takes_layers
from specnorm.geometry.spec import Geometry
from specnorm.running import checks
from specnorm.running.base import Method
from specnorm.running.measuring import measure
from specnorm.running.stacks import stacks, unstacked
from specnorm.running.stepping import SteppedProgram, stepped_program

State: TypeAlias = dict[str, Any]
"""A training state: arrays by name, whose names and shapes depend on method and geometry; empty for `Gram`."""


@takes_layers
def init_tracking(kernel: KernelOrLayer[ArrayObject], method: Method, **geometry: Unpack[Geometry]) -> State:
    """Compute the initial state for `track`, by running the method once from scratch.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    method : Method
        `SymbolNorm`, `TensorNorm`, `Power` (at an input size), or `Gram`, whose state is empty.
    **geometry
        ``input_shape``, ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``,
        ``padding``: see `specnorm.Geometry`.

    Returns
    -------
    dict of str to array
        Real arrays of the kernel's library and device, in float32 or float64. They are much smaller than the kernel,
        except with `SymbolNorm`: for 3x3 kernels, 160 to 330 complex vectors, as long as the output channels.

    Raises
    ------
    KernelError, GeometryError, BackendError
    MethodError
        If the method has no training state.
    """
    backend, plan = _plan(kernel, method, geometry)
    names = list(plan.state_shapes())
    return dict(zip(names, backend.init(plan, kernel), strict=True)) if names else {}


@takes_layers
def track(
    kernel: KernelOrLayer[ArrayT],
    method: Method,
    state: Mapping[str, ArrayObject],
    *,
    sweeps: int = 1,
    **geometry: Unpack[Geometry],
) -> tuple[ArrayT, State]:
    """Update the state for a kernel that has changed a little, and evaluate the method at the new state.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    method : Method
        The one given to `init_tracking`.
    state : dict of str to array
        From `init_tracking` or the previous step; not modified.
    sweeps : int, default 1
        Number of iterations, each of which costs two or three products with the kernel, with `SymbolNorm` eight. 0:
        evaluate at the given state.
    **geometry
        ``input_shape``, ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``,
        ``padding``: as in `init_tracking`.

    Returns
    -------
    value : 0-d array
        An *estimate*, not an upper bound: it converges from below to the method's value (the supremum of the norm, TN,
        or the layer's norm at its size). With `Gram`, it is an upper bound for every state. It is differentiable if the
        library is, with the state held constant (envelope theorem). For a zero kernel, value and gradient are 0. For a
        non-finite kernel, the value is NaN, and `Gram` raises a KernelError.
    state : dict of str to array
        The state for the next step, in the shapes and dtypes of the given one.

    Raises
    ------
    KernelError, GeometryError, BackendError
    MethodError
        If the method has no training state, or the state belongs to another method or geometry.
    """
    backend, plan = _plan(kernel, method, geometry)
    checks.count("sweeps", sweeps, most=checks.MOST_ROUNDS)
    shapes = _checked_shapes(plan, state)
    if not shapes and not plan.stepped.follows:
        value: ArrayT = measure(kernel, method, **geometry).value
        return value, {}
    backend_for(kernel, *state.values())
    value, new_arrays = backend.step(plan, kernel, tuple(state[name] for name in shapes), sweeps)
    return value, dict(zip(shapes, new_arrays, strict=True))


def track_many(
    kernels: Sequence[ArrayT],
    method: Method,
    states: Sequence[Mapping[str, ArrayObject]],
    *,
    geometries: Sequence[Mapping[str, Any]] | None = None,
    sweeps: int = 1,
) -> tuple[list[ArrayT], list[State]]:
    """`track` for all layers of a network. Layers of equal or similar shape are computed as one batch.

    Parameters
    ----------
    kernels : sequence of arrays
    method : Method
    states : sequence of dict
        One for each kernel, from `init_tracking` or the previous step.
    geometries : sequence of mapping, optional
        Keywords for each layer, see `specnorm.Geometry`. None: the defaults for all layers.
    sweeps : int, default 1

    Returns
    -------
    values : list of 0-d arrays
    states : list of dict

    Raises
    ------
    As `track`; also MethodError if the sequences differ in length.
    """
    checks.count("sweeps", sweeps, most=checks.MOST_ROUNDS)
    stated = {} if geometries is None else {"geometries": geometries}
    for name, given in {"kernels": kernels, "states": states, **stated}.items():
        if not hasattr(given, "__len__"):
            raise MethodError(f"{name} is of type {type(given).__name__}: give a list with one for each layer.")
    layers = [{} for _ in kernels] if geometries is None else list(geometries)
    if not len(kernels) == len(states) == len(layers):
        raise MethodError(
            f"{text.counted(len(kernels), 'kernel')}, {text.counted(len(states), 'state')} and "
            f"{text.counted(len(layers), 'geometry', 'geometries')}: give as many of each."
        )
    plugins: list[Backend] = []
    plans: list[SteppedProgram] = []
    devices: list[str] = []
    names: list[list[str]] = []
    for kernel, state, geometry in zip(kernels, states, layers, strict=True):
        backend, plan = _plan(kernel, method, geometry)
        plugins.append(backend)
        plans.append(plan)
        devices.append(f"{backend.name} {backend.device(kernel)}")
        names.append(list(_checked_shapes(plan, state)))
    values: list[Any] = [None] * len(kernels)
    new_states: list[State] = [{} for _ in kernels]
    by_device: dict[str, list[int]] = {}
    for j, device in enumerate(devices):
        by_device.setdefault(device, []).append(j)
    for places in by_device.values():
        asynchronous = plugins[places[0]].asynchronous(kernels[places[0]])
        for stack in stacks([plans[j] for j in places], asynchronous=asynchronous):
            members = [places[j] for j in stack.members]
            backend = plugins[members[0]]
            state_arrays = [[states[j][name] for name in names[j]] for j in members]
            kernel_stack, state_stack = stack.joined(
                [plans[j] for j in members], [kernels[j] for j in members], state_arrays, backend=backend
            )
            value_stack, new_stack = _step_stack(backend, stack.program, kernel_stack, state_stack, sweeps)
            for index, (j, value) in enumerate(zip(members, unstacked(value_stack, backend=backend), strict=True)):
                values[j] = value
                new_state = stack.state_out_of(plans[j], [x[index, ...] for x in new_stack])
                new_states[j] = dict(zip(names[j], new_state, strict=True))
    return values, new_states


def _step_stack(
    backend: Backend,
    plan: SteppedProgram,
    kernels: Any,
    state: tuple[Any, ...],
    sweeps: int,
) -> tuple[Any, tuple[Any, ...]]:
    """Step a stack of kernels; a method with an empty state is run on one kernel after another."""
    if state or plan.stepped.follows:
        return backend.step(plan, kernels, state, sweeps)
    values = [backend.apply(plan, kernels[j, ...]).value for j in range(kernels.shape[0])]
    return backend.namespace(kernels).stack(values), ()


def _plan(kernel: Any, method: Method, geometry: Mapping[str, Any]) -> tuple[Backend, SteppedProgram]:
    """The backend of a kernel, and the program for it."""
    checks.method(method)
    if not isinstance(geometry, Mapping):
        raise MethodError(f"a layer's geometry is {geometry!r}: give a dict of keywords, such as {{'stride': 2}}.")
    backend = backend_for(kernel)
    return backend, stepped_program(method, tuple(kernel.shape), str(kernel.dtype), tuple(geometry.items()))


def _checked_shapes(plan: SteppedProgram, state: Mapping[str, ArrayObject]) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the state's arrays for a plan; a state with others is refused."""
    expected_shapes = plan.state_shapes()
    if not isinstance(state, Mapping):
        raise MethodError(f"the state is of type {type(state).__name__}: give the dict that init_tracking returned.")
    shapes = {name: tuple(getattr(x, "shape", ())) for name, x in state.items()}
    if shapes != expected_shapes:
        raise MethodError(
            f"the state holds {shapes}; {plan.stepped.name} on this layer keeps {expected_shapes}. Give the state that "
            "init or the step before returned for the same method, kernel shape and geometry."
        )
    return expected_shapes
