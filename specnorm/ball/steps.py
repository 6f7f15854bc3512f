"""Steps inside the ball of all kernels with a norm of at most a bound, by matrix products; equal layers in a stack.

The ball is convex: ``(1 - a) K + a D`` is in it if K and D are, for every ``a`` from 0 to 1. So an optimizer that moves
towards kernels D whose norm is proven to be at most the bound never leaves the ball, and never computes a norm. `lmo`
chooses D for a gradient; `specnorm.ball.proofs.directions` bounds its norm.

References
----------
.. [1] Frank, Wolfe, "An algorithm for quadratic programming", Naval Research Logistics Quarterly 3, 1956.
.. [2] Pokutta, Spiegel, Zimmer, "Deep Neural Network Training with Frank-Wolfe", arXiv:2010.07243, 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from specnorm.backends import backend_for
from specnorm.backends.types import AnyArray
from specnorm.ball.oracle import program_of
from specnorm.errors import GeometryError, MethodError
from specnorm.geometry.spec import ConvSpec
from specnorm.running import checks


def check_momentum(momentum: object, nesterov: object) -> None:
    """Refuse a momentum that is not from 0 to below 1, and a ``nesterov`` that is not True or False."""
    if not 0 <= checks.number("momentum", momentum) < 1:
        raise MethodError(f"momentum={momentum!r} is not from 0 to below 1.")
    checks.flag("nesterov", nesterov)


def lmo_many(gradients: Sequence[Any], *, bound: float, geometries: Sequence[Mapping[str, Any]]) -> list[Any]:
    """`lmo` of many detached gradients; those of equal shape, dtype, device and geometry are computed in one stack.

    A gradient with NaN or infinity has a direction of NaN.
    """
    return _in_stacks(lambda directions, _spec: directions, gradients, (), bound, geometries)


def updates_in_ball(
    kernels: Sequence[Any],
    gradients: Sequence[Any],
    rate: Any,
    *,
    bound: float,
    geometries: Sequence[Mapping[str, Any]],
) -> list[Any]:
    """Return what to add to kernels in the ball: each moves towards `lmo` of the negative gradient, and stays inside.

    Parameters
    ----------
    kernels : sequence of array
        In float32 or float64, with layers whose norms are at most the bound.
    gradients : sequence of array
        Detached. A kernel whose gradient is zero stays where it is.
    rate : float or 0-d array
        Part of the way; cut off at 0 and 1.
    bound : float
    geometries : sequence of mapping
        Keywords of each layer, see `specnorm.Geometry`.

    Raises
    ------
    GeometryError
        If ``input_shape`` is so small that no output reads a different pixel by each tap.
    """

    def updates(directions: Any, spec: ConvSpec, stack: Any) -> Any:
        xp: Any = backend_for(stack).namespace(stack)
        is_moved = xp.any(directions != 0, axis=tuple(range(1, stack.ndim)), keepdims=True)
        towards = xp.clip(xp.asarray(rate, dtype=stack.dtype), 0.0, 1.0)
        shrinkage = shrinkage_of_step(towards, spec, float(xp.finfo(stack.dtype).eps) / 2)
        towards = xp.minimum(towards, 1 - shrinkage)
        update = (towards + shrinkage) * stack + towards * directions
        return xp.where(is_moved & (towards > 0), -update, xp.zeros_like(update))

    return _in_stacks(updates, gradients, (kernels,), bound, geometries)


def shrinkage_of_step(rate: AnyArray, spec: ConvSpec, unit: float) -> AnyArray:
    """Return the part by which a kernel is to be shrunk in a step, so that rounding does not take it out of the ball.

    Let K and D be kernels whose layers' norms are at most the bound, a the rate, u the unit roundoff, and s what is
    returned, with ``a + s <= 1``. The sum K' of K and the update ``-((a + s) K + a D)`` is off by at most
    ``u (|K'| + 3 (a + s) |K| + 2 a |D|)`` in each entry, up to terms with u**2: three roundings of the product with K
    and two of that with D, with the sum of both, and one of K'. The norm of the layer of ``|K|`` is at most q times
    the bound, with ``q = sqrt(taps * rank * gain)``, so the errors are at most ``u q (1 + 5 a + 3 s)`` times the bound.
    A tenth more is below s, and ``(1 - a - s) K - a D`` as rounded is within the bound.

    q: the norm of the symbols of ``|K|`` is at most the root of the taps times the Frobenius norm of K, and that is at
    most the root of the rank times the norm of the reshaped kernel, which is at most the layer's. Padding that repeats
    pixels multiplies the norm of symbols by up to the root of ``gain`` (`ConvSpec.padding_gain_sq`).

    Parameters
    ----------
    rate : float or 0-d array
        From 0 to 1.
    spec : ConvSpec
    unit : float
        Unit roundoff of the kernel's dtype.

    Raises
    ------
    GeometryError
        If the norm of the reshaped kernel may be above the layer's.
    """
    if not spec.uses_every_tap_at_once:
        raise GeometryError(
            f"input_shape={spec.input_shape} is too small for a kernel of taps {spec.kernel_shape}: the rounding of a "
            "step cannot be bounded by the norm at that size. Leave input_shape out, so that the bound holds at every "
            "size."
        )
    taps = math.prod(spec.kernel_shape)
    rows, channels = spec.group_channels
    largest_ratio = math.sqrt(taps * min(rows, channels * taps) * spec.padding_gain_sq)
    return 1.1 * unit * largest_ratio * (1 + 5 * rate)


def _in_stacks(
    compute: Callable[..., Any],
    gradients: Sequence[Any],
    others: Sequence[Sequence[Any]],
    bound: float,
    geometries: Sequence[Mapping[str, Any]],
) -> list[Any]:
    """Apply ``compute(directions, spec, *others)`` to stacks (n, *shape) of equal layers; return the arrays of all."""
    programs = [program_of(x, bound, geometry) for x, geometry in zip(gradients, geometries, strict=True)]
    stacks: dict[tuple[str, str], list[int]] = {}
    for j, (x, program) in enumerate(zip(gradients, programs, strict=True)):
        stacks.setdefault((program.key, str(backend_for(x).device(x))), []).append(j)
    results: list[Any] = [None] * len(programs)
    for members in stacks.values():
        backend = backend_for(gradients[members[0]])
        xp: Any = backend.namespace(gradients[members[0]])
        stack, *stacked_others = (xp.stack([arrays[j] for j in members]) for arrays in (gradients, *others))
        program = programs[members[0]]
        computed = compute(backend.apply(program, stack).value, program.spec, *stacked_others)
        for index, j in enumerate(members):
            results[j] = computed[index, ...]
    return results
