"""The largest logit of attention heads as a method, on queries and keys in one array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from specnorm.backends import arrays
from specnorm.errors import GeometryError, MethodError
from specnorm.logits import proof
from specnorm.logits.offsets import Top, largest
from specnorm.logits.proof import Side
from specnorm.running import checks
from specnorm.running.base import Evaluation, Method, Needs

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec


class _Rows(NamedTuple):
    """What rows of heads hold: for each head, (b, d_head, d) or (b, d)."""

    query: Array
    key: Array
    gain: Array | None
    shift: Array | None
    query_bias: Array | None
    key_bias: Array | None


@dataclass(frozen=True)
class LogitBound(Method):
    """Proven upper bound on the largest absolute attention logit, over all tokens that a norm layer gives.

    It measures queries and keys in one array, for `specnorm.measure` and `specnorm.value_and_grad`:
    `specnorm.logit_bound` describes the parameters, and returns the bound of each head. The rows of the array are those
    of ``query``, then those of ``key``, then the gain, then the bias of a layer norm, if there are such. With
    ``has_bias``, its last column has the biases of the rows of ``query`` and ``key``.

    Parameters
    ----------
    heads, kv_heads : int
    angles : tuple of float
        Of the rotary position embedding; empty: none.
    offsets : range, tuple of int, or None
        None: every real number.
    interleaved : bool
        Whether rotations turn neighbours, not an entry of the first half with one of the second half.
    scale : float, optional
    has_gain, has_shift, has_bias : bool
        Whether there is a row with the gain, one with the bias of a layer norm, a column with biases.
    centered : bool
        Whether the norm layer removes the mean.
    """

    heads: int
    kv_heads: int | None = None
    angles: tuple[float, ...] = ()
    offsets: range | tuple[int, ...] | None = None
    interleaved: bool = False
    scale: float | None = None
    has_gain: bool = False
    has_shift: bool = False
    has_bias: bool = False
    centered: bool = False

    name: ClassVar = "logit"
    promise: ClassVar = "upper"
    quantity: ClassVar = "logit"
    asks: ClassVar = Needs(rounds="up", precision="wide", narrow_gradient=True, scaled=False, searches=True)

    def __post_init__(self) -> None:
        checks.count("heads", self.heads, least=1)
        if self.kv_heads is not None:
            checks.count("kv_heads", self.kv_heads, least=1)
            if self.heads % self.kv_heads:
                raise MethodError(
                    f"heads={self.heads} is not a multiple of kv_heads={self.kv_heads}: every head of keys is shared "
                    "by equally many heads of queries."
                )
        if self.angles and self.offsets is not None and not len(self.offsets):
            raise MethodError("rope has no offsets: give a number of positions, integers, or None for every offset.")

    @property
    def _key_heads(self) -> int:
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def _other_rows(self) -> int:
        return self.has_gain + self.has_shift

    def _head_size(self, rows: int) -> int:
        return (rows - self._other_rows) // (self.heads + self._key_heads)

    def check(self, spec: ConvSpec) -> None:
        """Refuse what is no matrix, and rows that the heads do not share."""
        rows, columns = spec.stored_channels
        heads = self.heads + self._key_heads
        if spec.ndim or spec.groups > 1 or (rows - self._other_rows) % heads or columns <= self.has_bias:
            raise GeometryError(
                f"an array of shape {(rows, columns)} does not hold {self.heads} heads of queries and "
                f"{self._key_heads} of keys: expected a matrix with {heads} times d_head rows"
                + f" and {self._other_rows} more" * bool(self._other_rows)
                + "."
            )
        if 2 * len(self.angles) > self._head_size(rows):
            raise GeometryError(
                f"rope turns {len(self.angles)} pairs of numbers; a head of size {self._head_size(rows)} has at most "
                f"{self._head_size(rows) // 2}."
            )

    def refuse_tracer(self, spec: ConvSpec) -> None:
        """Accept tracers: without values, the bound is that at every offset."""

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Return the largest bound of a head, and its gradient."""
        xp = ops.xp
        rows = self._rows(blocks, xp=xp)
        weights = [
            proof.weights(matrix, rows.gain, rows.shift, bias, centered=self.centered, ops=ops)
            for matrix, bias in ((rows.query, rows.query_bias), (rows.key, rows.key_bias))
        ]
        queries, keys = (Side.of(given, xp=xp) for given in weights)
        top = largest(queries, keys, np.array(self.angles), self.offsets, ops=ops)
        scale = abs(self.scale) if self.scale is not None else rows.query.shape[1] ** -0.5
        exponents = weights[0].exponent, weights[1].exponent
        eager = ops.concrete and ops.on_host
        bounds = proof.scaled_up(top.bound, scale, exponents[0] + exponents[1], eager=eager, xp=xp)
        by_layer = xp.reshape(bounds, (blocks.shape[0], self.heads))
        value = xp.max(by_layer, axis=1)
        if not ops.differentiated:
            return Evaluation(value, (), ())
        is_largest = arrays.one_hot(xp.ones_like(value), xp.argmax(by_layer, axis=1), self.heads, xp=xp)
        weight = xp.reshape(is_largest, (-1,)) * scale
        return Evaluation(value, (), (self._gradient(blocks, rows, top, exponents, weight, xp=xp),))

    def _rows(self, blocks: Array, *, xp: Namespace) -> _Rows:
        """Take heads out of the rows, with the first numbers of all pairs before the second ones."""
        size = self._head_size(blocks.shape[1])
        columns = blocks.shape[2] - self.has_bias
        queries = self.heads * size
        keys = self._key_heads * size
        shared = self.heads // self._key_heads

        def of_heads(rows: Array, heads: int) -> Array:
            rows = xp.reshape(rows, (blocks.shape[0], heads, size, -1))
            if self.interleaved:
                rows = xp.concat([rows[:, :, index, :] for index in self._parts(size)], axis=2)
            return rows

        def shared_by_heads(rows: Array, repeats: int) -> Array:
            """Rows (b, heads, ...) once for each head of queries, (b * heads, ...)."""
            rows = xp.broadcast_to(rows[:, :, None, ...], (*rows.shape[:2], repeats, *rows.shape[2:]))
            return xp.reshape(rows, (-1, *rows.shape[3:]))

        query = shared_by_heads(of_heads(blocks[:, :queries, :], self.heads), 1)
        key = shared_by_heads(of_heads(blocks[:, queries : queries + keys, :], self._key_heads), shared)
        rest = blocks[:, queries + keys :, :columns]
        others = [shared_by_heads(rest[:, n : n + 1, :], self.heads) for n in range(self._other_rows)]
        gain = others[0] if self.has_gain else None
        shift = others[-1] if self.has_shift else None
        biases = (query[..., -1], key[..., -1]) if self.has_bias else (None, None)
        return _Rows(query[..., :columns], key[..., :columns], gain, shift, *biases)

    def _parts(self, size: int) -> tuple[slice, ...]:
        """The entries of an interleaved head in the order of one with halves: even ones, odd ones, those after them."""
        turned = 2 * len(self.angles)
        return slice(0, turned, 2), slice(1, turned, 2), slice(turned, size)

    def _gradient(
        self, blocks: Array, rows: _Rows, top: Top, exponents: tuple[Array, Array], weight: Array, *, xp: Namespace
    ) -> Array:
        """Gradient in the rows' order, for a weight (heads,) of each bound without its exponents.

        The bound is that of ``[W g, c]`` of queries, and of keys, so the gradient of each is one outer product.
        """
        b, size = blocks.shape[0], rows.query.shape[1]
        of_others: list[Array] = []
        parts = []
        sides = (
            (rows.query, top.left, self.heads, exponents[1]),
            (rows.key, top.right, self._key_heads, exponents[0]),
        )
        for matrix, touching, heads, exponent in sides:
            # The other side's exponent is a factor of the derivative by this one.
            tokens = arrays.unscale(touching.tokens * weight[:, None], exponent[:, None], xp=xp)
            if self.centered:
                tokens = tokens - xp.sum(tokens, axis=-1, keepdims=True) / tokens.shape[-1]
            of_bias = arrays.unscale(touching.bias * weight, exponent, xp=xp)[:, None] * touching.head
            product = tokens if rows.gain is None else tokens * rows.gain
            gradient = touching.head[:, :, None] * product[:, None, :]
            if rows.shift is not None:
                gradient = gradient + of_bias[:, :, None] * rows.shift[:, None, :]
            if self.has_bias:
                gradient = xp.concat([gradient, of_bias[..., None]], axis=2)
            parts.append(self._of_heads(gradient, b, heads, size, xp=xp))
            if self._other_rows:
                image = xp.matmul(touching.head[:, None, :], matrix)[:, 0, :]
                of_gain = [tokens * image] if self.has_gain else []
                of_shift = [xp.matmul(of_bias[:, None, :], matrix)[:, 0, :]] if self.has_shift else []
                found = xp.stack([*of_gain, *of_shift], axis=1)
                of_others.append(xp.sum(xp.reshape(found, (b, self.heads, *found.shape[1:])), axis=1))
        if of_others:
            total = of_others[0] + of_others[1]
            if self.has_bias:
                total = xp.concat([total, xp.zeros_like(total[..., :1])], axis=2)
            parts.append(total)
        return xp.concat(parts, axis=1)

    def _of_heads(self, gradient: Array, b: int, heads: int, size: int, *, xp: Namespace) -> Array:
        """Gradients (b * self.heads, d_head, n), summed over heads that share keys, as rows in the caller's order."""
        columns = gradient.shape[2]
        gradient = xp.sum(xp.reshape(gradient, (b, heads, self.heads // heads, size, columns)), axis=2)
        if self.interleaved:
            pairs = len(self.angles)
            first, second = gradient[:, :, :pairs, :], gradient[:, :, pairs : 2 * pairs, :]
            turned = xp.reshape(xp.stack([first, second], axis=3), (b, heads, 2 * pairs, columns))
            gradient = xp.concat([turned, gradient[:, :, 2 * pairs :, :]], axis=2)
        return xp.reshape(gradient, (b, heads * size, columns))
