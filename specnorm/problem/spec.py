"""The problem: a convolution's geometry, validated once. No arithmetic on arrays, so it also works under a tracer."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args, get_type_hints

from specnorm.errors import GeometryError, KernelError
from specnorm.problem.padding import PaddingMode, padding_count

Layout = Literal["OI", "OIW", "OIHW", "OIDHW", "IO", "WIO", "HWIO", "DHWIO"]

MAX_SPATIAL_AXES = 3
FLOATING = ("float16", "bfloat16", "float32", "float64")

_MOST = 2**31 - 1
TRACED = (
    " It decides what is computed, so under jit, compile and vmap it must be a Python number: leave it out of the "
    "traced arguments (static_argnums)."
)
"""What to do with an argument that may not be a tracer."""

_SHAPE_HELP = "A kernel is (cout, cin // groups, *kernel_shape) with 0 to 3 spatial axes"


class Layer(TypedDict, total=False):
    """What the layer is, by keyword: `Geometry` without ``input_shape``."""

    stride: int | Sequence[int]
    dilation: int | Sequence[int]
    groups: int
    transposed: bool
    layout: Layout | None
    padding_mode: PaddingMode
    padding: Literal["same", "valid"] | int | Sequence[tuple[int, int]]


class Geometry(Layer, total=False):
    """Keyword arguments that say what the layer is; the same in every function.

    stride, dilation : int, or one per spatial axis; default 1.

    groups : int, default 1; divides the kernel's first axis.

    transposed : bool, default False. True: the kernel is ``(cin, cout // groups, *kernel_shape)``.

    layout : order of the kernel's axes, such as "HWIO"; default None: torch's order.

    padding_mode : "circular" (default), "zeros", "reflect" or "replicate".

    padding : "same" (default), "valid" (none), an int, or a (before, after) pair per axis; of a transposed layer: what
    is cropped.

    input_shape : the layer's spatial input sizes, an int for every axis; default None: every size at once. Circular
    padding with a stride: every size that the stride divides. At another one the border is met at another phase, and
    the norm may be larger; the bound with ``stride=1`` holds there too.
    """

    input_shape: int | Sequence[int] | None


GEOMETRY_WORDS = frozenset(get_type_hints(Geometry))
_SPATIAL = ("input_shape", "stride", "dilation", "padding_mode", "padding")
"""Words about spatial axes, of which a matrix has none."""


@dataclass(frozen=True)
class ConvSpec:
    """A layer's geometry and its kernel's shape: hashable, comparable, without arrays.

    Parameters
    ----------
    cout, cin : int
        Channels out and in of the whole layer (as a convolution; for ``transposed`` as the transposed layer).
    kernel_shape : tuple of int
        Spatial sizes of the kernel, one per axis; ``()`` for a matrix.
    stride, dilation : tuple of int
        One per spatial axis; empty: ones.
    groups : int
        Divides ``cout`` and ``cin``.
    transposed : bool
        Whether the kernel is stored ``(cin, cout // groups, *kernel_shape)`` and acts as a transposed convolution.
    layout : str or None
        How the axes of the caller's array are ordered; None is torch's order, also where it was given by name. O and
        I name torch's first and second axis, so for ``transposed`` too "HWIO" is torch's order reversed: Keras's
        ``(h, w, cout // groups, cin)``.
    padding_mode : str
        ``"circular"``, ``"zeros"``, ``"reflect"`` or ``"replicate"``.
    padding : tuple of (int, int)
        Before and after, per axis; empty: "same".
    input_shape : tuple of int or None
        Spatial sizes of the layer's input; None is the supremum over all sizes (see `sizes`).
    """

    cout: int
    cin: int
    kernel_shape: tuple[int, ...]
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False
    layout: str | None = None
    padding_mode: PaddingMode = "circular"
    padding: tuple[tuple[int, int], ...] = ()
    input_shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        plain = {"stride": (1,) * self.ndim, "dilation": (1,) * self.ndim}
        for name, value in plain.items():
            if not getattr(self, name):
                object.__setattr__(self, name, value)
        if not self.padding:
            object.__setattr__(self, "padding", _padding("same", self.kernel_shape, self.dilation))

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel_shape)

    @property
    def geometry(self) -> dict[str, Any]:
        """Keyword arguments of a layer for every input size; a matrix has none of the spatial ones."""
        spatial = ("stride", "dilation", "padding_mode", "padding") if self.ndim else ()
        return {name: getattr(self, name) for name in ("groups", "transposed", "layout", *spatial)}

    @functools.cached_property
    def steps(self) -> tuple[int, ...]:
        """Stride per axis of a block: dilation r and stride s read every gcd(r, s)-th pixel only."""
        return tuple(s // math.gcd(r, s) for r, s in zip(self.dilation, self.stride, strict=True))

    @functools.cached_property
    def phases(self) -> tuple[int, ...]:
        """Residues of pixels modulo the step that some tap reads, per axis; each is a channel of its own."""
        return tuple(min(s, k) for s, k in zip(self.steps, self.kernel_shape, strict=True))

    @functools.cached_property
    def block_kernel_shape(self) -> tuple[int, ...]:
        """Spatial sizes of the canonical blocks the methods work on."""
        return tuple(-(-k // s) for s, k in zip(self.steps, self.kernel_shape, strict=True))

    @functools.cached_property
    def stored_channels(self) -> tuple[int, int]:
        """First two axes of the kernel in torch order, of the convolution that a transposed layer is adjoint to."""
        return (self.cin, self.cout // self.groups) if self.transposed else (self.cout, self.cin // self.groups)

    @functools.cached_property
    def block_shape(self) -> tuple[int, ...]:
        """Shape (m, p, *block_kernel_shape) of one canonical block; a layer has ``groups`` of them."""
        first, second = self.stored_channels
        return (first // self.groups, second * math.prod(self.phases), *self.block_kernel_shape)

    @property
    def divided(self) -> bool:
        """Whether only sizes that the stride divides are spoken about: circular padding that is wrapped into."""
        wrapped = (s > 1 and sum(pads) > 0 for s, pads in zip(self.stride, self.padding, strict=True))
        return self.padding_mode == "circular" and not self.transposed and any(wrapped)

    @property
    def sizes(self) -> str:
        """Which input sizes a promise without ``input_shape`` is about, in words."""
        return "every input size that the stride divides" if self.divided else "every input size"

    @property
    def periods(self) -> tuple[int, ...]:
        """Circular at a size: positions per axis at which the blocks act."""
        if self.input_shape is None:
            raise ValueError("no input_shape")
        if self.transposed:
            return self.input_shape
        return tuple(n // s for n, s in zip(self.input_shape, self.stride, strict=True))

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """Circular at a size: sizes of the DFT grid whose frequencies the blocks' symbols are taken at.

        A dilation that is left in a block multiplies the frequencies, which then meet fewer points, each several times.
        """
        left = (r // math.gcd(r, s) for r, s in zip(self.dilation, self.stride, strict=True))
        return tuple(n // math.gcd(r, n) for n, r in zip(self.periods, left, strict=True))

    @property
    def extra_outputs(self) -> tuple[int, ...]:
        """Circular: outputs per axis beyond (or, negative, short of) one a stride, because of the padding's amount."""
        if self.padding_mode != "circular":
            return (0,) * self.ndim
        axes = zip(self.padding, self.kernel_shape, self.dilation, self.stride, strict=True)
        return tuple(-(-(sum(pads) - r * (k - 1)) // s) for pads, k, r, s in axes)

    @property
    def periodic(self) -> bool:
        """Whether the layer at a size is the circular one whose norm the symbols on the DFT grid are."""
        return not self.ndim or (self.padding_mode == "circular" and not any(self.extra_outputs))

    @property
    def repeats_a_matrix(self) -> bool:
        """Whether each output reads a patch of its own, and no padding: then the padding mode says nothing.

        Such are 1x1 layers, and those whose kernel is their stride. The layer is one matrix for each patch.
        """
        axes = zip(self.kernel_shape, self.stride, self.dilation, self.padding, strict=True)
        return all(r * (k - 1) < s and not any(pads) for k, s, r, pads in axes)

    @property
    def reads_a_patch(self) -> bool:
        """Whether an output of the layer at its size (transposed: an input) reads every tap from a pixel of its own."""
        if self.input_shape is None:
            return True
        axes = (self.input_shape, self.kernel_shape, self.stride, self.dilation, self.padding, self.extra_outputs)
        return all(self._reads_on_an_axis(*axis) for axis in zip(*axes, strict=True))

    def _reads_on_an_axis(
        self,
        n: int,
        k: int,
        s: int,
        r: int,
        pads: tuple[int, int],
        extra: int,
    ) -> bool:
        if self.padding_mode == "circular":
            wide, outputs = (n * s, n) if self.transposed else (n, n // s + extra)
            return outputs > 0 and k <= wide // math.gcd(r, wide)
        before, after = pads
        wide = (n - 1) * s - before - after + r * (k - 1) + 1 if self.transposed else n
        first = -(-before // s)  # of the outputs that read no padding before the input
        return s * first - before + r * (k - 1) < wide

    @property
    def padding_gain_sq(self) -> int:
        """Square of the factor by which padding can lift the norm above that of the symbols.

        The product over the axes of the largest number of copies of one pixel (reflect, replicate) or of one output
        (circular, larger than "same"), at ``input_shape`` or, for None, at the worst size. 1 for zero padding.
        """
        sizes = self.input_shape or (None,) * self.ndim
        if self.padding_mode == "circular":
            axes = zip(self.extra_outputs, self.periods if self.input_shape else (1,) * self.ndim, strict=True)
            return math.prod(1 + -(-max(extra, 0) // n) for extra, n in axes)
        return math.prod(padding_count(*p, n, self.padding_mode) for p, n in zip(self.padding, sizes, strict=True))

    @classmethod
    def of(cls, shape: Sequence[int], /, **geometry: Any) -> ConvSpec:
        """Validate a kernel's shape and the geometry given by keyword.

        Parameters
        ----------
        shape : sequence of int
            Shape of the caller's kernel array.
        **geometry
            See `Geometry`.

        Raises
        ------
        KernelError
            If the array's rank or an empty axis makes it no kernel.
        GeometryError
            If a keyword does not fit the kernel, or each other.
        """
        unknown = sorted(set(geometry) - GEOMETRY_WORDS)
        if unknown:
            known = ", ".join(sorted(GEOMETRY_WORDS))
            raise TypeError(f"unknown geometry {', '.join(map(repr, unknown))}; expected some of {known}")
        shape = tuple(int(s) for s in shape)
        transposed = _flag("transposed", geometry.get("transposed", False))
        layout = geometry.get("layout")
        first, second, kernel_shape = _split_axes(shape, layout)
        _check_axes(shape, len(kernel_shape), geometry)
        if layout is not None and layout.startswith("OI"):
            layout = None  # torch's order by its name: the same problem
        ndim = len(kernel_shape)
        groups = _count("groups", geometry.get("groups", 1))
        if first % groups:
            which = "cin" if transposed else "cout"
            raise GeometryError(
                f"groups={groups} does not divide {which}={first} (kernel shape {shape}). A grouped kernel is "
                f"({'cin, cout // groups' if transposed else 'cout, cin // groups'}, *kernel_shape): choose groups "
                f"dividing {first}, or check that the kernel is not in HWIO order (layout=...)."
            )
        cout, cin = (second * groups, first) if transposed else (first, second * groups)
        stride = per_axis("stride", geometry.get("stride", 1), ndim, least=1)
        dilation = per_axis("dilation", geometry.get("dilation", 1), ndim, least=1)
        mode = geometry.get("padding_mode", "circular")
        if mode not in get_args(PaddingMode):
            raise GeometryError(f"padding_mode={mode!r} is not one of {', '.join(map(repr, get_args(PaddingMode)))}.")
        padding = _padding(geometry.get("padding", "same"), kernel_shape, dilation)
        same = all(sum(p) == r * (k - 1) for p, r, k in zip(padding, dilation, kernel_shape, strict=True))
        if transposed and mode != "zeros" and not (mode == "circular" and same):
            raise GeometryError(
                f"padding_mode={mode!r} with padding={padding} is no transposed layer's: frameworks crop its output. "
                "Use padding_mode='zeros' with any padding, or padding_mode='circular' with padding='same'."
            )
        input_shape = geometry.get("input_shape")
        if input_shape is not None:
            input_shape = per_axis("input_shape", input_shape, ndim, least=1)
            if math.prod(input_shape) > 2**40:
                raise GeometryError(f"input_shape={input_shape}: no layer has so many pixels.")
            circular = mode == "circular" and not transposed
            if circular and any(n % s for n, s in zip(input_shape, stride, strict=True)):
                raise GeometryError(
                    f"stride={stride} does not divide input_shape={input_shape}: circular padding needs it to. "
                    "Choose an input_shape divisible by the stride. For a bound at this size leave input_shape out and "
                    "give stride=1: outputs are a selection of those. Without input_shape, a bound with the stride "
                    "speaks about every input size that the stride divides."
                )
            if mode == "reflect" and any(max(pads) >= n for pads, n in zip(padding, input_shape, strict=True)):
                raise GeometryError(
                    f"padding={padding} is not below input_shape={input_shape}: reflect padding runs out of pixels. "
                    "Use a smaller padding or a larger input_shape."
                )
        return cls(cout, cin, kernel_shape, stride, dilation, groups, transposed, layout, mode, padding, input_shape)


def at_every_size(geometry: dict[str, Any]) -> dict[str, Any]:
    """Geometry whose bounds without ``input_shape`` hold at every size without condition.

    Circular padding with a stride that does not divide the size: the norm can exceed the strided supremum. Outputs are
    a selection of those at stride 1, whose bounds hold.

    Parameters
    ----------
    geometry : dict
        See `Geometry`.
    """
    circular = geometry.get("padding_mode", "circular") == "circular" and not geometry.get("transposed", False)
    padding = geometry.get("padding", "same")
    padding = 0 if padding == "valid" else padding
    wrapped = padding > 0 if isinstance(padding, int) else padding == "same" or any(max(p) > 0 for p in padding)
    return {**geometry, "stride": 1} if circular and wrapped and "stride" in geometry else geometry


def check_dtype(name: str, shape: tuple[int, ...]) -> Literal["float32", "float64"]:
    """Return the name of the dtype to compute in, or refuse the kernel's dtype.

    Parameters
    ----------
    name : str
        The kernel's dtype as its library prints it, e.g. ``"torch.float32"``.
    shape : tuple of int
        For the message.

    Raises
    ------
    KernelError
        For anything but float16, bfloat16, float32 and float64.
    """
    short = name.rpartition(".")[2]
    if short not in FLOATING:
        raise KernelError(
            f"kernel of shape {shape} has dtype {short}; expected a real floating dtype ({', '.join(FLOATING)}). "
            "Convert it first, e.g. to float32; quantised weights need their scale applied."
        )
    return "float64" if short == "float64" else "float32"


def _split_axes(shape: tuple[int, ...], layout: str | None) -> tuple[int, int, tuple[int, ...]]:
    if layout is not None:
        if layout not in get_args(Layout):
            raise GeometryError(f"layout={layout!r} is not one of {', '.join(get_args(Layout))}, or None.")
        if len(layout) != len(shape):
            raise GeometryError(f"layout={layout!r} names {len(layout)} axes; the kernel has shape {shape}.")
    if not 2 <= len(shape) <= 2 + MAX_SPATIAL_AXES:
        raise KernelError(f"kernel of shape {shape} has {len(shape)} axes. {_SHAPE_HELP}: give 2 to 5 axes.")
    if 0 in shape:
        raise KernelError(f"kernel of shape {shape} has an empty axis. {_SHAPE_HELP}, each at least 1.")
    if layout is not None and layout.endswith("IO"):
        return shape[-1], shape[-2], shape[:-2]
    return shape[0], shape[1], shape[2:]


def _check_axes(shape: tuple[int, ...], ndim: int, geometry: dict[str, Any]) -> None:
    """Refuse spatial arguments of a matrix, and those of an array that lacks the axes of its channels."""
    axes = {name: geometry[name] for name in _SPATIAL if _says_something(geometry.get(name))}
    if axes and not ndim:
        given = ", ".join(f"{name}={value!r}" for name, value in axes.items())
        raise GeometryError(
            f"{given} of a matrix, an array of shape {shape}: a linear layer has no spatial axes. A kernel is (cout, "
            "cin // groups, *kernel_shape): if this array is one filter, such as a point-spread function psf, give "
            f"psf[None, None]; if it is a linear layer's matrix, leave {', '.join(axes)} out."
        )
    for name, value in axes.items():
        if not isinstance(value, (tuple, list)) or len(value) == ndim:
            continue
        if len(value) == len(shape):
            raise GeometryError(
                f"{name}={value!r} has as many entries as the array of shape {shape} has axes. A kernel is (cout, "
                f"cin // groups, *kernel_shape), here with {ndim} spatial axes: if this array is one filter psf, give "
                "psf[None, None]."
            )
        if len(value) == len(shape) - 1:
            raise GeometryError(
                f"{name}={value!r} has {len(value)} entries; an array of shape {shape} is a kernel with {ndim} spatial "
                "axes, (cout, cin // groups, *kernel_shape). If it is a stack of filters, give kernel[:, None] (one "
                "input channel) or kernel[None] (one output channel); of a single filter psf, psf[None, None]."
            )


def _says_something(value: Any) -> bool:
    return value is not None and not (isinstance(value, (tuple, list)) and not value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise GeometryError(f"{name}={value!r} is not True or False.")
    return value


def _count(name: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool):
        raise GeometryError(f"{name}={value!r} is a truth value; expected an integer.")
    if getattr(value, "ndim", 0):
        raise GeometryError(
            f"{name} is an array of shape {tuple(value.shape)}; expected an integer, or a tuple of them."
        )
    try:
        number = operator.index(value)
    except Exception as error:
        advice = TRACED if type(error) is not TypeError else ""  # compilers have an error of their own for tracers
        said = f"={value!r}" if isinstance(value, (float, str, list, type(None))) else f" is a {type(value).__name__}:"
        raise GeometryError(f"{name}{said} is not an integer.{advice}".replace(": is not", ", not")) from None
    if number < least:
        raise GeometryError(f"{name}={number} is below {least}.")
    if number > _MOST:
        raise GeometryError(f"{name}={number} is above {_MOST}: no layer is so large.")
    return number


def per_axis(name: str, value: Any, ndim: int, least: int = 1) -> tuple[int, ...]:
    """One count for each spatial axis, given so or as one for all."""
    if isinstance(value, (tuple, list)):
        if len(value) != ndim:
            raise GeometryError(
                f"{name}={value!r} has {len(value)} entries; the kernel has {ndim} spatial axes: give one per axis, "
                "or a single integer for all."
            )
        return tuple(_count(name, v, least) for v in value)
    return (_count(name, value, least),) * ndim


def _padding(value: Any, kernel_shape: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    if value == "valid":
        return ((0, 0),) * len(kernel_shape)
    if value == "same":
        total = [r * (k - 1) for k, r in zip(kernel_shape, dilation, strict=True)]
        return tuple((t // 2, t - t // 2) for t in total)
    if isinstance(value, str):
        raise GeometryError(
            f"padding={value!r} is not 'same', 'valid', an integer, or a (before, after) pair per axis."
        )
    if not isinstance(value, (tuple, list)):
        amount = _count("padding", value, least=0)
        return ((amount, amount),) * len(kernel_shape)
    if len(value) != len(kernel_shape):
        raise GeometryError(
            f"padding={value!r} has {len(value)} entries; the kernel has {len(kernel_shape)} spatial axes: give one "
            "(before, after) pair per axis."
        )
    pairs = [p if isinstance(p, (tuple, list)) else (p, p) for p in value]
    if any(len(p) != 2 for p in pairs):
        raise GeometryError(f"padding={value!r} is not one (before, after) pair per axis.")
    return tuple((_count("padding", a, 0), _count("padding", b, 0)) for a, b in pairs)
