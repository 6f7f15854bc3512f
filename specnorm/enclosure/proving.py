"""The public function `enclose`: two proven bounds of a layer's norm."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

import specnorm.above as above
from specnorm.backends import backend_for
from specnorm.enclosure.method import Enclose
from specnorm.geometry.layers import KernelOrLayer, takes_layers
from specnorm.geometry.spec import ConvSpec, Layer
from specnorm.proofs.found import BoundSource, Outcome
from specnorm.running.measuring import run_plan
from specnorm.running.result import Enclosure, Result, converged, dtype_of
from specnorm.running.search import Clock

if TYPE_CHECKING:
    from specnorm.backends.array_types import ArrayObject


@takes_layers
def enclose(
    kernel: KernelOrLayer[ArrayObject],
    input_shape: int | tuple[int, ...] | None = None,
    *,
    rtol: float = 1e-3,
    budget: float | None = Clock.BUDGET,
    **layer: Unpack[Layer],
) -> Enclosure:
    """Prove lower and upper bounds on the spectral norm of a layer, rounding included.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        The layer's kernel, in torch's order of axes; or a convolution or linear layer of a framework.
    input_shape : int or tuple of int, optional
        The layer's spatial input sizes. None: bound the supremum over all sizes. For a circular layer with a stride,
        these are the sizes that the stride divides.
    rtol : float, default 1e-3
        Relative distance of the bounds at which the search stops. At one size, unless the padding is circular
        ``"same"``, the bounds may stay farther apart: see Notes.
    budget : float or None, default 60
        Time limit in seconds. When it is reached, no further proof is begun; the bounds are farther apart, but still
        proven. None: no limit.
    **layer
        ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``, ``padding``:
        see `specnorm.Geometry`.

    Returns
    -------
    Enclosure
        ``lower, upper = enclose(kernel)`` unpacks it. ``status`` says whether ``rtol`` was reached, and ``explain()``
        returns the proof as text. The bounds of a torch tensor have no gradient; ``measure(kernel, Enclose()).value``
        has one.

    Raises
    ------
    MethodError
        Under a tracer.

    Notes
    -----
    The method is branch and bound over the frequencies. Local maximization finds a lower bound, and the frequencies are
    divided into cells. A cell is excluded if the symbol's norm in it is proven to be at most ``lower * (1 + rtol)``;
    the other cells are divided further. If a larger norm is found, the lower bound is raised. A Cholesky factorization
    proves a bound at the center of a cell [1]_, and an inequality of Bernstein and Szego extends it to the cell; the
    docstring of ``specnorm/supremum/proof.py`` has the lemmas. Trained kernels stretch a few combinations of the input
    channels much more than the others. Only the block of ``G*G`` on these combinations is factorized in each cell; the
    rest is bounded once for all frequencies. Factorizations use float32 if the threshold leaves room for their
    rounding, and float64 otherwise.

    **Cost.** Each cell takes one factorization of at most ``min(cout, cin)`` rows. Trained 3x3 kernels need about 100
    cells at ``rtol=1e-3``, for any number of channels. Kernels with three spatial axes need many more, and so do
    kernels whose symbol has nearly the same norm at many frequencies. Matrices (linear layers, 1x1 convolutions,
    patches that do not overlap) need one factorization. Small circular layers at a size, such as 16 channels at 64x64
    pixels, need no search: every frequency is visited, and the bounds differ only by rounding errors. ``measure(kernel,
    Enclose(max_cells=...))`` limits the number of cells.

    **At a size.** The lower bound is ``||A v|| / ||v||``, where v is a sum of plane waves near the best frequency or a
    vector from Lanczos iteration. A dilated layer with zero padding is first split into undilated layers, each on a
    fraction of the pixels. The upper bound is the smallest of the following, tried in order until one is within
    ``rtol`` of the lower bound:

    1. The supremum over all sizes. For trained 3x3 layers at 32 to 40 pixels per axis, it is 0.1 to 0.6 % above the
       norm.
    2. A circulant: a circular layer on a larger input, of which the zero-padded layer is a submatrix.
    3. The layer's own matrix, if it is small enough for a second or two of work: its Gram matrix is block-banded, and
       is factorized block by block. For larger ones, as of 64 channels at 14 pixels, bounds at fewer than 32 pixels may
       end 0.2 to 1.5 % apart.

    The proofs are in ``specnorm/at_size/proofs``. For padding that repeats pixels, only the first, times the factor of
    the padding, and the last apply. With ``rtol`` 3e-3 or 1e-2, the call can be several times faster than with the
    default.

    With JAX, the search runs on the host in float64; ``proof_dtype`` records this.

    References
    ----------
    .. [1] Rump, "Verification of positive definiteness", BIT 46, 2006.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> print(specnorm.enclose(kernel))
    31.1769 <= norm <= 31.1770 (converged: rtol=0.001)
    >>> print(specnorm.enclose(kernel, 8, padding_mode="zeros", stride=2, padding=1))
    15.6996 <= norm <= 15.7075 (converged: rtol=0.001, by the layer's own matrix)
    >>> found = specnorm.enclose(numpy.array([[[1.0, 2.0, 1.0]]]))  # norm 4, at frequency 0
    >>> print(found.explain())  # the rules that prove both bounds
    3.99999 <= norm <= 4.00001
    layer of 1 to 1 channels at every size <= 4.00001: no larger than its symbol
      sigma* <= 4.00001: norm of the sum of the taps' magnitudes
    symbol at (0) >= 3.99999: quotient of a vector
    >>> frequency, u, v = found.witness  # attains the lower bound
    """
    run = run_plan(kernel, Enclose(rtol=rtol, budget=budget), input_shape=input_shape, **layer)
    figures = run.stats
    upper = backend_for(kernel).as_proven(run.value)
    enclosure = Enclosure(
        lower=figures["lower"],
        upper=upper,
        witness=(figures["frequency"], figures["u"], figures["v"]),
        cells=int(figures["cells"]),
        levels=int(figures["levels"]),
        proof_dtype=figures["computed_in"],
        status=status_of(replace(run, value=upper)),
    )
    return enclosure.stated_by(partial(_certificate, kernel, run.spec)).proven_by(run.claims())


def _certificate(kernel: object, spec: ConvSpec, name: str) -> Any:
    """`Enclosure.certificate` for this kernel, by the package above the core that makes certificates."""
    return above.certificate_of(backend_for(kernel).to_numpy(kernel), spec, name)


def status_of(result: Result) -> str:
    """The text `Enclosure.status` for a result of `Enclose`: outcome and explanation."""
    spec = result.spec
    rtol = result.method.rtol
    source = BoundSource(int(result.stats["bound_source"]))
    is_own_search = not spec.symbols_suffice
    by_source = f", by {source.words}" if is_own_search else ""
    padding_factor = math.sqrt(spec.padding_gain_sq)
    lower = float(result.stats["lower"])
    upper = float(result.value)
    if bool(result.stats["converged"]):
        outcome, explanation = converged(lower, upper, rtol, dtype_of(result.value))
        explanation += by_source if outcome is Outcome.CONVERGED else ""
    elif padding_factor > 1 and source is BoundSource.SUPREMUM:
        outcome = Outcome.PADDING
        explanation = (
            f"upper includes the factor {padding_factor:.4g} of the padding, and may be as much too large; proven"
        )
    else:
        is_out_of_cells = bool(result.stats["out_of_cells"])
        outcome = Outcome.SIZE if is_own_search else Outcome.CELLS if is_out_of_cells else Outcome.BUDGET
        explanation = f"wider than rtol={rtol:g}{by_source}, and proven"
        explanation += f"; {outcome.advice}" if outcome is Outcome.CELLS else ""
    sizes = f"; {spec.sizes_in_words}" if spec.input_shape is None and spec.needs_divisible_sizes else ""
    matrix = f"; {spec.matrix_in_words}" if spec.matrix_in_words else ""
    if lower <= 1 < upper:
        explanation += "; 1 is not refuted, see certify"
    same = f"; {spec.same_in_words}" if spec.same_in_words else ""
    return f"{outcome.value}: {explanation}{sizes}{matrix}{same}"
