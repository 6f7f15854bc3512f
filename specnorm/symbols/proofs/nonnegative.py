"""The proof that a symbol has no negative eigenvalue at any frequency."""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from typing import TYPE_CHECKING

from specnorm.geometry import polyphase

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps


_MAKER = object()


@dataclass(frozen=True, eq=False)
class Nonnegative:
    """A proof that the symbol of a kernel is, but for a phase, Hermitian and nowhere negative.

    Nowhere negative: at no frequency does it have a negative eigenvalue.

    Parameters
    ----------
    kernel : array, shape (g, p, p, *taps)
    """

    kernel: Array
    maker: InitVar[object] = None

    def __post_init__(self, maker: object) -> None:
        if maker is not _MAKER:
            raise TypeError("Nonnegative: a symbol is proven to be nowhere negative by rules alone")

    def is_of(self, blocks: Array, *, ops: ArrayOps) -> bool:
        """Whether blocks are this kernel, maybe without slices of zero taps at its borders."""
        trimmed = polyphase.trimmed(self.kernel, ops=ops)
        return tuple(trimmed.shape) == tuple(blocks.shape) and bool(ops.xp.all(trimmed == blocks))


def _nowhere_negative(kernel: Array) -> Nonnegative:
    """The proof, made by a rule. For files of proofs."""
    return Nonnegative(kernel, _MAKER)
