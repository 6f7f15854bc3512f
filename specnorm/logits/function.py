"""The public function `logit_bound`."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from specnorm.backends import backend_for
from specnorm.backends.types import ArrayT
from specnorm.errors import KernelError, MethodError
from specnorm.geometry.layers import unwrapped
from specnorm.geometry.spec import dtype_to_compute_in
from specnorm.logits.method import LogitBound
from specnorm.running import checks
from specnorm.running.program import program_for

if TYPE_CHECKING:
    from specnorm.backends.types import Backend

Rope: TypeAlias = "tuple[Any, int | Sequence[int] | None] | tuple[Any, int | Sequence[int] | None, str]"
"""Angles and offsets of rotary positions, and the layout of pairs."""
_LAYOUTS = ("half", "interleaved")


def logit_bound(
    query: ArrayT,
    key: ArrayT,
    *,
    heads: int,
    kv_heads: int | None = None,
    gain: ArrayT | tuple[ArrayT | None, ArrayT | None] | None = None,
    bias: tuple[ArrayT | None, ArrayT | None] | None = None,
    rope: Rope | None = None,
    scale: float | None = None,
) -> ArrayT:
    """Largest attention logit of each head, over all tokens that a norm layer can give: a proven upper bound.

    After an RMS norm, tokens are ``gain * z`` with ``|z| <= sqrt(d)``. The largest absolute logit is then d times
    ``scale`` times the spectral norm of ``diag(gain) Wq^T R Wk diag(gain)``, with the rotation R of two positions. Two
    tokens attain it. No data are needed, and none can exceed it.

    Parameters
    ----------
    query : array, shape (heads * d_head, d)
        Weight of the queries, as ``torch.nn.Linear`` stores it: the rows of a head are next to each other. For a matrix
        (d, heads * d_head), as of Flax and GPT-2, give its transpose.
    key : array, shape (kv_heads * d_head, d)
        Weight of the keys.
    heads : int
        Number of heads of queries.
    kv_heads : int, optional
        Number of heads of keys, if each is shared by ``heads / kv_heads`` heads of queries, in order.
    gain : array, shape (d,), or a pair, optional
        Weight of the RMS norm before the matrices; None: ones. A pair is the weight and the bias of a layer norm, each
        an array or None: it removes the mean, so that also ``sum(z) = 0``.
    bias : pair of arrays, optional
        Biases of queries, shape (heads * d_head,), and of keys, shape (kv_heads * d_head,); each may be None.
    rope : tuple, optional
        Rotary positions: ``(angles, offsets)`` or ``(angles, offsets, "interleaved")``. ``angles`` are the angles in
        radians of one step, at most d_head / 2 numbers, such as ``base ** (-2 * arange(d_head / 2) / d_head)``.
        ``offsets`` are the positions of queries minus those of keys: integers; or a number n for 0, ..., n - 1, those
        of a causal model with n positions; or None for every real offset. Entry j of a head turns with entry
        ``j + len(angles)`` (Llama, Mistral, Qwen, GPT-NeoX), or, interleaved, entry 2j with 2j + 1 (GPT-J, Cohere).
        Under ``torch.compile`` give tuples of numbers.
    scale : float, optional
        Factor of the logits; None: ``1 / sqrt(d_head)``.

    Returns
    -------
    array, shape (heads,)
        Without biases it is attained, up to rounding: at one of the offsets, if these are given as numbers. With
        biases (of a layer norm, too), or for every offset, it may lie above the largest logit. Differentiable if the
        library is. Under jit, compile and vmap the bound with ``rope`` is that for every offset.

    Raises
    ------
    KernelError, BackendError
    MethodError
        If the numbers of heads, the shapes or ``rope`` do not fit.

    Notes
    -----
    For queries and keys that an RMS norm of their own scales (Qwen 3, Gemma 3), the matrices do not matter. Give the
    diagonal matrices of the two gains as ``query`` and ``key``, with ``heads=1``.

    With biases the bound is the smallest of a family (Lagrange's), each member of which is proven.
    `specnorm.methods.LogitBound` gives value and gradient in libraries without automatic differentiation.

    Examples
    --------
    >>> import numpy, specnorm
    >>> weight = numpy.eye(8)  # two heads of size 4: d / sqrt(d_head) is 4
    >>> specnorm.logit_bound(weight, weight, heads=2).round(6)
    array([4., 4.])
    """
    layer_norm = isinstance(gain, (tuple, list))
    norm_weight, shift = _pair("gain", gain, "weight and bias of a layer norm") if layer_norm else (gain, None)
    query_bias, key_bias = (None, None) if bias is None else _pair("bias", bias, "biases of queries and of keys")
    optional = {
        "gain": norm_weight, "bias of the layer norm": shift, "bias of the queries": query_bias,
        "bias of the keys": key_bias,
    }  # fmt: skip
    named = {"query": query, "key": key, **{name: x for name, x in optional.items() if x is not None}}
    given: dict[str, Any] = {name: unwrapped(x) for name, x in named.items()}
    backend = backend_for(*given.values())
    has_bias = query_bias is not None or key_bias is not None
    factor = None if scale is None else checks.number("scale", scale)
    if factor is not None and not math.isfinite(factor):
        raise MethodError(f"scale={scale!r} is not a number by which logits are multiplied.")
    checks.count("heads", heads, least=1)
    # Checks the numbers of heads.
    LogitBound(heads, kv_heads)
    key_heads = heads if kv_heads is None else kv_heads
    size = _check_shapes(given, heads, key_heads)
    angles, offsets, is_interleaved = ((), None, False) if rope is None else _rope(rope)
    if 2 * len(angles) > size:
        raise MethodError(
            f"rope has {len(angles)} angles: heads of size {size} have at most {size // 2} pairs of entries."
        )
    plan = LogitBound(
        1,
        angles=angles,
        offsets=offsets,
        interleaved=is_interleaved,
        scale=factor,
        has_gain=norm_weight is not None,
        has_shift=shift is not None,
        has_bias=has_bias,
        centered=layer_norm,
    )
    stack = _stacked(given, heads, key_heads, size, has_bias, backend)
    bounds: ArrayT = backend.apply(program_for(plan, tuple(stack.shape[1:]), str(stack.dtype), ()), stack).value
    return bounds


def _pair(name: str, value: Any, what: str) -> tuple[Any, Any]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise MethodError(f"{name} is a {type(value).__name__}; expected a pair, the {what}, each an array or None.")
    return value[0], value[1]


def _check_shapes(given: dict[str, Any], heads: int, key_heads: int) -> int:
    """Refuse shapes that do not fit, and return the size of a head."""
    shapes = {name: tuple(x.shape) for name, x in given.items()}
    query = shapes["query"]
    for name, count in (("query", heads), ("key", key_heads)):
        shape = shapes[name]
        if len(shape) != 2 or not shape[0] or not shape[1] or shape[0] % count:
            raise MethodError(
                f"{name} has the shape {shape}; expected (rows, d), with a multiple of {count} rows, for {count} "
                f"{'heads' if name == 'query' else 'heads of keys'}. Give the transpose of a matrix with its rows last."
            )
    size: int = query[0] // heads
    rows = {"query": heads * size, "key": key_heads * size}
    if shapes["key"] != (rows["key"], query[1]):
        raise MethodError(
            f"key has the shape {shapes['key']}; expected {(rows['key'], query[1])}, for query of shape {query}, "
            f"{heads} heads of queries and {key_heads} of keys of size {size}."
        )
    expected = {
        "gain": (query[1],), "bias of the layer norm": (query[1],),
        "bias of the queries": (rows["query"],), "bias of the keys": (rows["key"],),
    }  # fmt: skip
    for name, shape in expected.items():
        if name in shapes and shapes[name] != shape:
            raise MethodError(f"the {name} has the shape {shapes[name]}; expected {shape}.")
    return size


def _rope(rope: Any) -> tuple[tuple[float, ...], range | tuple[int, ...] | None, bool]:
    """Angles, offsets, and whether neighbors are turned; in plain Python, which compilers can trace."""
    if not isinstance(rope, (tuple, list)) or not 2 <= len(rope) <= 3:
        raise MethodError(f'rope is {rope!r}; expected (angles, offsets) or (angles, offsets, "interleaved").')
    layout = rope[2] if len(rope) == 3 else "half"
    if layout not in _LAYOUTS:
        raise MethodError(f"the layout of rope is {layout!r}; expected one of {', '.join(map(repr, _LAYOUTS))}.")
    try:
        angles = tuple([float(x) for x in rope[0]])
    except (TypeError, ValueError):
        angles = ()
    if not angles or not all(math.isfinite(x) for x in angles):
        raise MethodError(f"the angles of rope are {rope[0]!r}; expected finite numbers, one for each pair of entries.")
    return angles, _offsets(rope[1]), layout == "interleaved"


def _offsets(offsets: Any) -> range | tuple[int, ...] | None:
    if offsets is None or (isinstance(offsets, range) and len(offsets)):
        return offsets
    if isinstance(offsets, int):
        checks.count("the number of offsets of rope", offsets, least=1)
        return range(offsets)
    try:
        found = {operator.index(x) for x in offsets}
    except TypeError:
        found = set()
    if not found:
        raise MethodError(
            f"the offsets of rope are {offsets!r}; expected a number of positions, integers, or None for every offset."
        )
    return tuple(sorted(found))


def _stacked(given: dict[str, Any], heads: int, key_heads: int, size: int, has_bias: bool, backend: Backend) -> Any:
    """The rows of each head as one array, (heads, rows, columns): see `LogitBound`."""
    xp: Any = backend.namespace(given["query"])
    names = {name: str(x.dtype).rpartition(".")[2] for name, x in given.items()}
    for name, x in given.items():
        if names[name] not in ("float64", "float32", "float16", "bfloat16"):
            raise KernelError(f"the {name} has the dtype {names[name]}; expected real floating numbers: convert it.")
        dtype_to_compute_in(names[name], tuple(x.shape), name)
        if not backend.is_traced(x):
            checks.finite(x, tuple(x.shape), what=name, backend=backend)
    dtypes = set(names.values())
    common = "float64" if "float64" in dtypes else "float32"
    if len(dtypes) == 1:
        (common,) = dtypes
    parts = {name: xp.astype(x, getattr(xp, common), copy=False) for name, x in given.items()}
    shared = heads // key_heads

    def of_heads(name: str, count: int) -> Any:
        rows = xp.reshape(parts[name], (count, size, -1))
        if not has_bias:
            return rows
        of_rows = parts.get({"query": "bias of the queries", "key": "bias of the keys"}[name])
        column = xp.zeros_like(rows[..., :1]) if of_rows is None else xp.reshape(of_rows, (count, size, 1))
        return xp.concat([rows, column], axis=2)

    query, key = of_heads("query", heads), of_heads("key", key_heads)
    key = xp.broadcast_to(key[:, None, :, :], (key_heads, shared, *key.shape[1:]))
    rows = [query, xp.reshape(key, query.shape)]
    for name in ("gain", "bias of the layer norm"):
        if name in parts:
            row = parts[name][None, :]
            if has_bias:
                row = xp.concat([row, xp.zeros_like(row[:, :1])], axis=1)
            rows.append(xp.broadcast_to(row[None, ...], (heads, *row.shape)))
    return xp.concat(rows, axis=1)
