"""The content of a model file: named arrays, the geometry of layers that the file states, and the network's graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, cast

from specnorm.errors import ModelFileError
from specnorm.proof import AnyArray, Layout, padding_rules

if TYPE_CHECKING:
    from specnorm_networks.certified.graph import Graph

Amount = Literal["same", "valid", "same_upper", "same_lower"] | int | Sequence[int] | Sequence[tuple[int, int]]
"""Amount of padding, as in `Stated`."""
Kind = Literal["conv", "linear", "unknown", "none"]
"""Kind of a layer. "unknown": not even its shape can be read. "none": an array that could be a kernel, but is none."""


class Stated(TypedDict, total=False):
    """Geometry of a layer as a file or a user states it: keyword arguments of `enclose`, without unknown ones.

    ``padding`` may also be ``"valid"`` (none), ``"same_upper"`` or ``"same_lower"``. The last two are "same" in ONNX;
    TensorFlow's "same" is ``"same_upper"``. If there is a stride, their amounts depend on the input size. ``stack``:
    the array is a stack of matrices, and no convolution.
    """

    stride: int | Sequence[int]
    dilation: int | Sequence[int]
    groups: int
    transposed: bool
    layout: Layout | None
    padding_mode: padding_rules.PaddingMode
    padding: Amount
    stack: bool


DEFAULTS: Stated = {"stride": 1, "dilation": 1, "groups": 1, "transposed": False, "padding_mode": "zeros"}
"""What a layer has that says nothing else."""


def as_in_torch(geometry: Mapping[str, Any]) -> Stated:
    """Return the whole geometry of a torch layer, of which ``geometry`` has what differs from the defaults."""
    return cast(Stated, {**DEFAULTS, "layout": None, "padding": "same", **geometry})


@dataclass(frozen=True)
class Tensor:
    """One array of a model file, not loaded yet, and what the file says of it.

    Parameters
    ----------
    name : str
        Key of the array in the file.
    shape : tuple of int
        Shape of the array that ``load`` returns.
    dtype : str
        Short name of the dtype, such as ``"float32"``.
    load : callable
        Reads and returns the array.
    kind : {"conv", "linear", "none", "unknown"} or None
        "conv", "linear": the file says that the array is such a kernel. "none": the file says that it is none, or,
        with a ``refusal``, its name says so. "unknown": a kernel whose shape cannot be read. None: the file does not
        say, so name and shape decide.
    geometry : Stated
        Geometry of the layer that the file states. A missing key is assumed, and the row lists the assumption.
    input_shape : tuple of int or None
        Spatial sizes of the layer's input, if the file states them.
    refusal : str or None
        Reason why the array cannot be measured although it may be a kernel. The report has a row with this reason.
    assumed : tuple of str
        Assumptions of the reader beyond the geometry, in words.
    conventions : tuple of str
        Possible orders of the axes, if neither file nor user states one. The kernel is read in each of them; as a stack
        of matrices ("stack"), its last two axes are those of a member.
    doubt : str or None
        Reason why the layer may use another weight than the one that is stored. It refuses the array, unless the user
        says that the layer uses it as it is stored.
    unsettled : str or None
        Reason why no gate passes on the array's numbers, although it is measured, unless the user says that the layer
        uses it.
    hooks : tuple of str
        Names of the classes whose hooks the file states of the array's layer.
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
    conventions: tuple[Literal["OIHW", "HWIO", "stack"], ...] = ("OIHW",)
    doubt: str | None = None
    unsettled: str | None = None
    hooks: tuple[str, ...] = ()

    def refused(self, reason: str) -> Tensor:
        """Return the array with a refusal, if it has none yet."""
        return replace(self, refusal=self.refusal or reason)


Sizes: TypeAlias = int | tuple[int, ...] | tuple[tuple[int, ...], ...] | Mapping[str, tuple[int, ...]] | None
"""Sizes of a network's inputs that its file leaves open: of the spatial axes; of one sample, without the batch axis; or
whole shapes, of all inputs in their order, or by name.

None: they stay open.
"""


@dataclass(frozen=True)
class ModelArrays:
    """The answer of a reader of model files.

    Parameters
    ----------
    arrays : sequence of Tensor
        Arrays in the model's order.
    network : callable or None
        Returns the network's graph for sizes of its inputs; None: the file has weights alone.
    elsewhere : callable or None
        Implementation of `ask`, if another process has the file open.
    stored : callable or None
        Returns a function for each array of the file, by the name in the file, that reads the array. None: ``arrays``
        have these names.
    inert : tuple of str
        Names that the file would import besides arrays. None of these was imported or constructed.
    convention : {"OIHW", "HWIO"} or None
        Order of axes of the library that wrote the file; None: several libraries write such files.
    """

    arrays: Sequence[Tensor]
    network: Callable[[Sizes], Graph] | None = None
    elsewhere: Callable[..., Any] | None = None
    stored: Callable[[], Mapping[str, Callable[[], AnyArray]]] | None = None
    inert: tuple[str, ...] = ()
    convention: Literal["OIHW", "HWIO"] | None = None

    def array(self, name: str) -> AnyArray:
        """Return an array as it is stored; `LookupError` if there is none of this name."""
        if self.stored is not None:
            return self.stored()[name]()
        readers = {tensor.name: tensor.load for tensor in self.arrays}
        return readers[name]()

    def graph(self, sizes: Sizes) -> Graph:
        """Return the network's graph, read in the process that has the file open."""
        if self.network is None:
            raise ModelFileError("it contains weights, but no graph.")
        return self.network(sizes)

    def ask(
        self,
        seconds: float | None,
        function: Callable[..., Any],
        *arguments: Any,
        progress: Callable[..., object] | None = None,
    ) -> Any:
        """Call ``function(model, *arguments)`` in the process that has the file open, and return its answer.

        ``progress``, if there is one, is passed as a keyword. In another process the function is imported by its name,
        arguments and answer are pickled, and ``seconds`` limits its processor time (None: no limit). If it breaks a
        limit, `ModelFileError` is raised, and no array can be read any more.
        """
        if self.elsewhere is not None:
            return self.elsewhere(seconds, function, *arguments, progress=progress)
        if progress is None:
            return function(self, *arguments)
        return function(self, *arguments, progress=progress)
