"""Lower bounds of the norms of symbols at single frequencies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specnorm.geometry.frequencies import Frequencies
from specnorm.proofs import host
from specnorm.proofs.bound import Lower, _lower
from specnorm.symbols.proofs import symbols

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
from specnorm.proofs.norms import quotient_down


class SymbolQuotients:
    """Proven lower bounds of the norms of blocks' symbols at single frequencies; symbol errors are computed once.

    Parameters
    ----------
    blocks : array, shape (g, m, p, *kernel_shape)
        In the wide dtype, scaled to about 1.
    """

    def __init__(self, blocks: Array, *, ops: ArrayOps) -> None:
        self._blocks = blocks
        self._ops = ops
        self._errors: list[float] = ops.to_numpy(symbols.symbol_error(blocks, xp=ops.xp)).tolist()

    def norm_down_at(self, block: int, point: Frequencies, right: Array) -> Lower:
        """Bound the norm of a block's symbol at a frequency from below: a quotient less the symbol's error.

        Parameters
        ----------
        block : int
            Number of the block.
        point : Frequencies
            One frequency.
        right : array, shape (1, p)
            Any vector; the closer to the top right singular vector the better.
        """
        xp = self._ops.xp
        one_block = self._blocks[block : block + 1, ...]
        phase = symbols.Symbol(one_block, point, ops=self._ops).phase
        quotient = quotient_down(symbols.matrix_at(one_block, phase, xp=xp), right, xp=xp)
        value = max(host.sub_down(float(quotient[0]), self._errors[block]), 0.0)
        return _lower(value, point, "quotient of a vector")
