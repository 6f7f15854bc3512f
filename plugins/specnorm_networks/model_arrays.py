"""What a model file holds: named arrays with the geometry that the file states, and the network if there is a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

from specnorm.errors import ModelFileError
from specnorm.proof import AnyArray, Layout, padding_rules

if TYPE_CHECKING:
    from specnorm_networks.certified.graph import Graph

Amount = Literal["same", "valid", "same_upper", "same_lower"] | int | Sequence[int] | Sequence[tuple[int, int]]
Kind = Literal["conv", "linear", "unknown", "none"]
"""What a layer is; "unknown" where not even its shape can be read, "none" of what only could be one."""


class Stated(TypedDict, total=False):
    """What a file or a person says of a layer: the keyword arguments of every function, each only if it is known.

    ``padding`` may also be ``"valid"`` (none), ``"same_upper"`` or ``"same_lower"``: ONNX's and (upper) TensorFlow's
    "same", whose amounts depend on the input size where there is a stride.
    """

    stride: int | Sequence[int]
    dilation: int | Sequence[int]
    groups: int
    transposed: bool
    layout: Layout | None
    padding_mode: padding_rules.PaddingMode
    padding: Amount


@dataclass(frozen=True)
class Tensor:
    """One array of a model file, not loaded yet, and what the file says of it.

    Parameters
    ----------
    name : str
        Its key in the file.
    shape : tuple of int
        Of what ``load`` returns.
    dtype : str
        Short name, such as ``"float32"``.
    load : callable
        Reads the array.
    kind : {"conv", "linear", "none", "unknown"} or None
        A kernel for certain, by what the file says and whatever its name is; "none": no kernel by what the file says,
        or with a ``refusal`` by its name alone. None: the file does not say, so name and shape decide.
    geometry : Stated
        What the file says for certain of the layer: a missing key is assumed, and the row lists it.
    input_shape : tuple of int or None
        Spatial sizes of the layer's input, if the file says so.
    refusal : str or None
        Why it cannot be measured, though it may be a kernel: a row with that reason.
    assumed : tuple of str
        What the reader took for granted beyond the geometry.
    conventions : tuple of str
        Orders of axes in which the kernel is read where neither file nor person says; several: in each of them.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], AnyArray]
    kind: Kind | None = None
    geometry: Stated = field(default_factory=Stated)
    input_shape: tuple[int, ...] | None = None
    refusal: str | None = None
    assumed: tuple[str, ...] = ()
    conventions: tuple[Literal["OIHW", "HWIO"], ...] = ("OIHW",)


Sizes: TypeAlias = int | tuple[int, ...] | Mapping[str, tuple[int, ...]] | None
"""For spatial axes of a network's inputs that its file leaves open, or their whole shapes by name; None: open."""


@dataclass(frozen=True)
class ModelArrays:
    """A model as its reader gives it: arrays in the model's order, and the network where the file holds its graph.

    Parameters
    ----------
    network : callable or None
        Follows the graph; None: the file holds weights alone.
    elsewhere : callable or None
        `ask`, where another process has the file open.
    stored : callable or None
        Gives what reads each array of the file, by the name that it has there; None: as ``arrays`` have it.
    inert : tuple of str
        What the file would import beside its arrays: nothing of it was constructed.
    convention : {"OIHW", "HWIO"} or None
        Order of axes of the library that wrote the file, whatever the arrays are called; None: files of this kind are
        written by many.
    """

    arrays: Sequence[Tensor]
    network: Callable[[Sizes], Graph] | None = None
    elsewhere: Callable[..., Any] | None = None
    stored: Callable[[], Mapping[str, Callable[[], AnyArray]]] | None = None
    inert: tuple[str, ...] = ()
    convention: Literal["OIHW", "HWIO"] | None = None

    def array(self, name: str) -> AnyArray:
        """An array as it is stored; `LookupError` if there is none."""
        known = {tensor.name: tensor.load for tensor in self.arrays} if self.stored is None else self.stored()
        return known[name]()

    def graph(self, sizes: Sizes) -> Graph:
        """The network's graph, in the process that has the file open."""
        if self.network is None:
            raise ModelFileError("it holds weights and no graph.")
        return self.network(sizes)

    def ask(
        self,
        seconds: float | None,
        function: Callable[..., Any],
        *arguments: Any,
        progress: Callable[..., object] | None = None,
    ) -> Any:
        """Call ``function(model, *arguments)`` where the file is open, with ``progress`` as a keyword if there is one.

        In another process it may take so many seconds of processor time (None: as long as it takes), is imported by its
        name, and takes and gives what can be pickled; `ModelFileError` where it breaks a limit: no array can be read
        any more then.
        """
        if self.elsewhere is not None:
            return self.elsewhere(seconds, function, *arguments, progress=progress)
        return function(self, *arguments, **({} if progress is None else {"progress": progress}))


def in_float32(bits: NDArray[Any]) -> NDArray[np.float32]:
    """The same numbers as float32, exactly: a bfloat16 (a 16-bit integer, of either byte order) is half of one."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
