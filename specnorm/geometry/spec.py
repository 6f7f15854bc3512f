"""The problem: a layer's geometry and the shape of its kernel, validated once.

There is no arithmetic on arrays here, so it also works under a tracer.
"""

from __future__ import annotations

import functools
import math
import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypedDict, get_args

import numpy as np

from specnorm.backends.arrays import ceil_div
from specnorm.backends.text import counted
from specnorm.errors import GeometryError, KernelError
from specnorm.geometry.taps import Axis

PaddingMode = Literal["circular", "zeros", "reflect", "symmetric", "replicate"]
Layout = Literal["OI", "OIW", "OIHW", "OIDHW", "IO", "WIO", "HWIO", "DHWIO"]

MAX_SPATIAL_AXES = 3
FLOATING = ("float16", "bfloat16", "float32", "float64")
"""Names of the dtypes that a kernel may have."""

_LARGEST_COUNT = 2**31 - 1
"""Largest stride, dilation, number of groups or size that is accepted."""
_MOST_PIXELS = 2**40
"""Most pixels of an ``input_shape``; a single channel of so many takes 4 TiB in float32."""
TRACED = (
    " It decides what is computed, so under jit, compile and vmap it must be a Python number: leave it out of the "
    "traced arguments (static_argnums)."
)
"""Advice, for the end of an error message, about an argument that must not be a tracer."""

_BORDERS: dict[str, tuple[str, ...]] = {
    "circular": ("wrap", "periodic", "periodization", "grid-wrap", "circ", "cyclic", "per"),
    "zeros": ("zero", "constant", "grid-constant", "zeropad", "fill"),
    "reflect": ("mirror", "reflect101", "reflect_101", "reflection", "whole-sample", "even"),
    "symmetric": ("grid-mirror", "half-sample", "symm", "sym", "symh", "half"),
    "replicate": ("nearest", "edge", "clamp", "replication", "border", "smooth"),
}
"""What other libraries call each border."""
_BORDER_HELP = (
    "A border that repeats the edge pixel, (c b a a b c), is 'symmetric': numpy and MATLAB call it so, SciPy calls it "
    "'reflect' (its default) or 'grid-mirror'. One that does not, (c b a b c), is 'reflect': torch, JAX and numpy call "
    "it so, SciPy calls it 'mirror', OpenCV 'BORDER_REFLECT_101'. SciPy's 'nearest' is 'replicate', its 'grid-wrap' "
    "'circular', its 'constant' 'zeros'."
)

_ENTRIES = "entry", "entries"
_SPATIAL_AXES = "spatial axis", "spatial axes"
_SHAPE_HELP = "A kernel is (cout, cin // groups, *kernel_shape) with 0 to 3 spatial axes"


class Layer(TypedDict, total=False):
    """Keyword arguments that describe the layer at every input size: `Geometry` without ``input_shape``."""

    stride: int | Sequence[int]
    dilation: int | Sequence[int]
    groups: int
    transposed: bool
    layout: Layout | None
    padding_mode: PaddingMode
    padding: Literal["same", "same_upper", "same_lower", "valid"] | int | Sequence[tuple[int, int]]


class Geometry(Layer, total=False):
    """Keyword arguments that describe the layer. They are the same in every function.

    Attributes
    ----------
    stride : int or sequence of int, default 1
        Step between outputs: an int, or one per spatial axis. Keras: ``strides``; JAX's lax: ``window_strides``.
    dilation : int or sequence of int, default 1
        Step between the kernel's taps. Keras: ``dilation_rate``; lax: ``rhs_dilation``; Flax: ``kernel_dilation``.
    groups : int, default 1
        Number of independent blocks of channels. It divides the length of the kernel's first axis. JAX:
        ``feature_group_count``.
    transposed : bool, default False
        True: the layer is the adjoint of a convolution, and the kernel is stored as
        ``(cin, cout // groups, *kernel_shape)``.
    layout : str or None
        Order of the array's axes: "OIHW", "HWIO" (Keras and Flax), or the same for matrices ("OI", "IO"), 1-D ("OIW",
        "WIO") and 3-D ("OIDHW", "DHWIO"). None: torch's order, "OIHW" in 2-D. O is the first and I the second axis of
        torch's kernel, for transposed layers too: for Keras's transposed kernels, (h, w, out, in), give "HWIO" and
        ``transposed=True``. No layout describes Keras's depthwise kernels, (h, w, in, multiplier); pass the layer.
    padding_mode : str, default "circular"
        "circular" (SciPy's "wrap"), "zeros" (SciPy's "constant"), "reflect", where the edge pixel is not repeated
        (torch, JAX, NumPy; SciPy's "mirror"), "symmetric", where it is (NumPy, MATLAB; SciPy's "reflect"), or
        "replicate" (SciPy's "nearest").
    padding : str, int or sequence of int or pairs, default "same"
        "same" pads by ``dilation * (k - 1)`` pixels in total, for every stride; if this is odd, the extra pixel is
        added after the input. "same_upper" is the SAME of TensorFlow and JAX: with a stride, the fewest pixels that
        give ``ceil(n / stride)`` outputs. "same_lower" is ONNX's SAME_LOWER, with the extra pixel before the input, as
        in SciPy's ``ndimage.correlate``. "valid" does not pad. Or an int; or, for each axis, an int or a (before,
        after) pair. For a transposed layer, ``padding`` is the amount cropped from the output.
    input_shape : int, sequence of int or None
        Spatial input sizes; an int is used for every axis. None: the result holds for all sizes at once; with circular
        padding and a stride, for all sizes that the stride divides. At other sizes the norm may be larger; a bound
        computed with ``stride=1`` holds there too.
    """

    input_shape: int | Sequence[int] | None


GEOMETRY_KEYWORDS = frozenset(Geometry.__annotations__)
_SPATIAL = ("input_shape", "stride", "dilation", "padding_mode", "padding")
"""Keywords about spatial axes; a matrix has no such axes."""


@dataclass(frozen=True)
class ConvSpec:
    """A layer's geometry and its kernel's shape: hashable, comparable, without arrays.

    Parameters
    ----------
    cout, cin : int
        Output and input channels of the layer itself, all groups together. A transposed layer maps ``cin`` to ``cout``
        channels, too.
    kernel_shape : tuple of int
        Spatial sizes of the kernel, one per axis; ``()`` for a matrix.
    stride, dilation : tuple of int
        One for each spatial axis; an empty tuple stands for ones.
    groups : int
        Divides ``cout`` and ``cin``.
    transposed : bool
        Whether the kernel is stored ``(cin, cout // groups, *kernel_shape)`` and acts as a transposed convolution.
    layout : str or None
        Order of the axes of the caller's array; None is torch's order, also if the caller named it. O and I stand for
        the first and second axis of torch's order, which for a transposed layer are ``(cin, cout // groups)``. So
        "HWIO" of a transposed layer is ``(h, w, cout // groups, cin)``, which is Keras's order.
    padding_mode : str
        ``"circular"``, ``"zeros"``, ``"reflect"``, ``"symmetric"`` or ``"replicate"``.
    padding : tuple of (int, int)
        Amounts before and after, for each axis; an empty tuple stands for "same".
    input_shape : tuple of int or None
        Spatial sizes of the layer's input; None: the supremum over all sizes (see `sizes_in_words`).
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
    assumes_same: bool = field(default=False, compare=False, repr=False)
    """Whether ``padding`` was "same", a word that libraries use for different amounts if there is a stride."""

    def __post_init__(self) -> None:
        for name in ("stride", "dilation"):
            if not getattr(self, name):
                object.__setattr__(self, name, (1,) * self.ndim)
        if not self.padding:
            object.__setattr__(self, "padding", _same(self.kernel_shape, self.dilation))

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel_shape)

    @property
    def geometry(self) -> dict[str, Any]:
        """Keyword arguments that describe the layer without ``input_shape``; for a matrix without the spatial ones."""
        spatial = ("stride", "dilation", "padding_mode", "padding") if self.ndim else ()
        return {name: getattr(self, name) for name in ("groups", "transposed", "layout", *spatial)}

    @functools.cached_property
    def reduced_stride(self) -> tuple[int, ...]:
        """The reduced stride along each axis: the stride, divided by its greatest common divisor with the dilation.

        Dilation r and stride s read only every gcd(r, s)-th pixel. On these pixels, the layer has this stride.
        """
        return tuple(s // math.gcd(r, s) for r, s in zip(self.dilation, self.stride, strict=True))

    @functools.cached_property
    def residues(self) -> tuple[int, ...]:
        """Number along each axis of the residues of pixels, modulo `reduced_stride`, that some tap reads.

        Each residue of an input channel becomes a channel of its own.
        """
        return tuple(min(s, k) for s, k in zip(self.reduced_stride, self.kernel_shape, strict=True))

    @functools.cached_property
    def block_kernel_shape(self) -> tuple[int, ...]:
        """Spatial sizes of the layer's blocks (`geometry.polyphase`)."""
        return tuple(ceil_div(k, s) for s, k in zip(self.reduced_stride, self.kernel_shape, strict=True))

    @functools.cached_property
    def stored_channels(self) -> tuple[int, int]:
        """Sizes of the kernel's first two axes in torch's order: ``(cout, cin // groups)``.

        For a transposed layer they are ``(cin, cout // groups)``. So the first counts the channels of all groups, the
        second those of one group (see `group_channels`).
        """
        return (self.cin, self.cout // self.groups) if self.transposed else (self.cout, self.cin // self.groups)

    @functools.cached_property
    def group_channels(self) -> tuple[int, int]:
        """Output and input channels of one group of the convolution (of the one whose adjoint a transposed layer is).

        They run along the kernel's first two axes in torch's order; the first axis holds those of all groups.
        """
        first, second = self.stored_channels
        return first // self.groups, second

    @functools.cached_property
    def block_shape(self) -> tuple[int, ...]:
        """Shape (m, p, *block_kernel_shape) of one block; a layer has one block for each group."""
        outputs, inputs = self.group_channels
        return (outputs, inputs * math.prod(self.residues), *self.block_kernel_shape)

    @property
    def reads_zeros(self) -> bool:
        """Whether the layer reads only zeros outside of its input, or nothing."""
        return self.padding_mode == "zeros" or all(max(pads) <= 0 for pads in self.padding)

    @property
    def needs_divisible_sizes(self) -> bool:
        """Whether bounds without ``input_shape`` hold only at sizes that are multiples of the stride.

        That is so for strided convolutions whose circular padding is not empty.
        """
        if self.padding_mode != "circular" or self.transposed:
            return False
        return any(s > 1 and sum(pads) > 0 for s, pads in zip(self.stride, self.padding, strict=True))

    @property
    def sizes_in_words(self) -> str:
        """The input sizes at which bounds without ``input_shape`` hold, in words."""
        return "every input size that the stride divides" if self.needs_divisible_sizes else "every input size"

    @property
    def same_in_words(self) -> str:
        """Whose padding "same" was assumed, where it matters: at a size, with a stride; empty elsewhere."""
        if not self.assumes_same or self.transposed or self.padding_mode == "circular" or self.input_shape is None:
            return ""
        axes = zip(self.input_shape, self.kernel_shape, self.stride, self.dilation, strict=True)
        if self.padding == tuple(same_upper(*axis) for axis in axes):
            return ""
        return f'padding "same" taken as {self.padding}, as with stride 1; TensorFlow\'s and JAX\'s is "same_upper"'

    @property
    def matrix_in_words(self) -> str:
        """What an array without spatial axes was taken for, such as "a 9 x 9 matrix"; empty for a convolution."""
        if self.ndim:
            return ""
        rows, columns = self.stored_channels
        return f"a {rows} x {columns} matrix"

    @property
    def block_positions(self) -> tuple[int, ...]:
        """Number of positions along each axis at which the blocks of a circular layer act, at ``input_shape``.

        These are the outputs of a layer with padding "same" (the inputs, if it is transposed).
        """
        if self.input_shape is None:
            raise ValueError("no input_shape")
        if self.transposed:
            return self.input_shape
        return tuple(n // s for n, s in zip(self.input_shape, self.stride, strict=True))

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """Sizes of the DFT grid with the frequencies of a circular layer's blocks, at ``input_shape``.

        Blocks have no dilation. What the layer's dilation r does not share with the stride s, r / gcd(r, s), multiplies
        the frequencies instead. If it shares a factor with the number of `block_positions`, the multiples are fewer
        points, each met several times.
        """
        remaining_dilation = (r // math.gcd(r, s) for r, s in zip(self.dilation, self.stride, strict=True))
        return tuple(n // math.gcd(r, n) for n, r in zip(self.block_positions, remaining_dilation, strict=True))

    @property
    def extra_outputs(self) -> tuple[int, ...]:
        """Outputs of a circular layer along each axis, less ``n / stride``; 0 for other padding modes.

        0 for the padding "same", positive for larger amounts of padding, negative for smaller ones.
        """
        if self.padding_mode != "circular":
            return (0,) * self.ndim
        axes = zip(self.padding, self.kernel_shape, self.dilation, self.stride, strict=True)
        return tuple(ceil_div(sum(pads) - r * (k - 1), s) for pads, k, r, s in axes)

    @property
    def is_circulant(self) -> bool:
        """Whether the layer at a size is a circulant: its norm is the largest of the symbols on the DFT grid.

        True for circular padding with ``n / stride`` outputs along each axis, and for matrices.
        """
        return not self.ndim or (self.padding_mode == "circular" and not any(self.extra_outputs))

    @property
    def symbols_suffice(self) -> bool:
        """Whether symbols tell the norm, up to `padding_gain_sq`: at every size, or a circulant's on the DFT grid."""
        return self.input_shape is None or self.is_circulant

    @property
    def repeats_a_matrix(self) -> bool:
        """Whether outputs read disjoint patches and no padding, so that the padding mode does not matter.

        True for 1x1 layers, and for layers whose stride is their kernel's size: they apply one matrix to each patch.
        """
        axes = zip(self.kernel_shape, self.stride, self.dilation, self.padding, strict=True)
        return all(r * (k - 1) < s and not any(pads) for k, s, r, pads in axes)

    @property
    def uses_every_tap_at_once(self) -> bool:
        """Whether some output of the convolution reads a different pixel by each tap, at ``input_shape`` or any size.

        For a transposed layer, the convolution is the one whose adjoint it is.
        """
        if self.input_shape is None:
            return True
        axes = (self.input_shape, self.kernel_shape, self.stride, self.dilation, self.padding, self.extra_outputs)
        return all(self._uses_every_tap_along_axis(*axis) for axis in zip(*axes, strict=True))

    def _uses_every_tap_along_axis(
        self,
        n: int,
        k: int,
        s: int,
        r: int,
        pads: tuple[int, int],
        extra_outputs: int,
    ) -> bool:
        """`uses_every_tap_at_once` along one axis, with input size n, kernel size k, stride s and dilation r."""
        if self.padding_mode == "circular":
            pixels = n * s if self.transposed else n
            outputs = n if self.transposed else n // s + extra_outputs
            # Steps of r around the axis meet so many different pixels.
            return outputs > 0 and k <= pixels // math.gcd(r, pixels)
        before, after = pads
        pixels = (n - 1) * s - before - after + r * (k - 1) + 1 if self.transposed else n
        # The first output that reads no padding in front.
        first_output = ceil_div(before, s)
        return s * first_output - before + r * (k - 1) < pixels

    @property
    def padding_gain_sq(self) -> int:
        """A number whose root bounds a ratio: the layer's norm is at most the root times the norm of its symbols.

        It is the product over the axes of the largest number of copies of one pixel (padding that repeats) or of one
        output (circular padding larger than "same"), at ``input_shape``, or the largest over all sizes. It is 1 for
        zero padding.
        """
        if self.padding_mode == "circular":
            outputs = self.block_positions if self.input_shape else (1,) * self.ndim
            extra_copies = (ceil_div(max(extra, 0), n) for extra, n in zip(self.extra_outputs, outputs, strict=True))
            return math.prod(1 + copies for copies in extra_copies)
        sizes = self.input_shape or (None,) * self.ndim
        counts = (padding_count(*pads, n, self.padding_mode) for pads, n in zip(self.padding, sizes, strict=True))
        return math.prod(counts)

    def is_described_by(self, what: object) -> bool:
        """Whether the subject of a claim is this layer, at its size or at every size. A matrix may be transposed."""
        if not isinstance(what, ConvSpec):
            return False
        subject = replace(what, layout=None)
        layer = replace(self, layout=None)
        if not self.ndim:
            return not subject.ndim and sorted((subject.cout, subject.cin)) == sorted((layer.cout, layer.cin))
        return subject in (layer, replace(layer, input_shape=None))

    @functools.cached_property
    def sides(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Spatial sizes of both sides of the convolution behind a layer at ``input_shape``: its large and small side.

        The large side is the input of the convolution, the small side its output; a stride makes it smaller. A
        transposed layer is the adjoint of that convolution: its input is the small side.

        Raises `GeometryError` if ``input_shape`` is None, if the layer has no output at this size, or if no such layer
        exists.
        """
        if self.input_shape is None:
            raise GeometryError("the layer itself is a matrix at one size only: give input_shape.")
        other = self._large_side() if self.transposed else self._small_side()
        large, small = (other, self.input_shape) if self.transposed else (self.input_shape, other)
        if any(m < 1 for m in other):
            raise GeometryError(
                f"the layer has no output at input_shape={self.input_shape} (kernel {self.kernel_shape}, padding "
                f"{self.padding}, dilation {self.dilation}). Give a larger input_shape or more padding."
            )
        too_many = pixels_run_out(self.padding, self.input_shape, self.padding_mode)
        if too_many:
            raise GeometryError(too_many)
        return large, small

    def _small_side(self) -> tuple[int, ...]:
        """Numbers of outputs of a convolution along each axis; less than 1 if it has none."""
        assert self.input_shape is not None
        axes = zip(self.input_shape, self.kernel_shape, self.stride, self.dilation, self.padding, strict=True)
        return tuple((n + sum(pads) - r * (k - 1) - 1) // s + 1 for n, k, s, r, pads in axes)

    def _large_side(self) -> tuple[int, ...]:
        """Numbers of outputs of a transposed convolution along each axis; less than 1 if it has none."""
        assert self.input_shape is not None
        axes = list(zip(self.input_shape, self.kernel_shape, self.stride, self.dilation, self.padding, strict=True))
        if self.padding_mode == "zeros":
            return tuple((n - 1) * s - sum(pads) + r * (k - 1) + 1 for n, k, s, r, pads in axes)
        has_same_size = all(sum(pads) == r * (k - 1) for _, k, _, r, pads in axes)
        if self.padding_mode == "circular" and has_same_size:
            return tuple(n * s for n, _, s, _, _ in axes)
        raise GeometryError(
            f"there is no transposed convolution with padding_mode={self.padding_mode!r} and padding="
            f'{self.padding}. Use padding_mode="zeros" with any padding, or "circular" with padding="same".'
        )

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of the layer's input and output at ``input_shape``, channels first. Errors as of `sides`."""
        large, small = self.sides
        inputs, outputs = (small, large) if self.transposed else (large, small)
        return (self.cin, *inputs), (self.cout, *outputs)

    @property
    def singular_value_count(self) -> int:
        """Number of singular values at ``input_shape``: the smaller side of the layer's matrix; errors as `sides`."""
        return min(math.prod(shape) for shape in self.shapes)

    @property
    def axes(self) -> list[Axis]:
        """The axes of the convolution behind a layer at ``input_shape``. Errors as of `sides`."""
        large, small = self.sides
        befores = [before for before, _ in self.padding]
        axes = zip(large, small, self.kernel_shape, self.stride, self.dilation, befores, strict=True)
        return [Axis(n, m, k, s, r, before, self.padding_mode) for n, m, k, s, r, before in axes]

    @property
    def visible_taps(self) -> np.ndarray | None:
        """Mask (*kernel_shape) of the taps that read a pixel at ``input_shape``, and not only padding; None: all do.

        The other taps are no part of the layer at that size, so they must not influence the scale of the kernel.
        """
        if self.padding_mode != "zeros" or self.input_shape is None:
            return None
        reads_pixel = np.ones(self.kernel_shape, dtype=np.bool_)
        for number, axis in enumerate(self.axes):
            reads_pixel &= axis.reads_pixel.reshape((-1,) + (1,) * (self.ndim - 1 - number))
        return None if reads_pixel.all() else reads_pixel

    def grid_sizes(self, kernel_shape: tuple[int, ...]) -> tuple[int, ...]:
        """`grid_shape` for a symbol with so many taps: axes with one tap need one frequency."""
        return tuple(1 if k == 1 else n for n, k in zip(self.grid_shape, kernel_shape, strict=True))

    @functools.cached_property
    def of_group(self) -> ConvSpec:
        """The geometry of one group of the layer."""
        return replace(self, cout=self.cout // self.groups, cin=self.cin // self.groups, groups=1)

    def require_exact(self, function: str) -> None:
        """Refuse layers whose norm is not that of their symbols.

        Without ``input_shape``, these are layers whose padding may repeat pixels or outputs. With it, they are all
        layers but the periodic ones: the norm of a layer with zero padding, for one, is below that of its symbols at
        every size.

        Raises
        ------
        GeometryError
            With the names of functions to use instead.
        """
        padding = f"padding_mode={self.padding_mode!r} with padding={self.padding}"
        if self.input_shape is None and self.padding_gain_sq > 1:
            raise GeometryError(
                f"{function} does not support {padding}, which may raise the norm by a factor of up to "
                f"{math.sqrt(self.padding_gain_sq):.4g}. Use enclose(kernel) or grid_bound(kernel), whose upper bounds "
                "include that factor; power_norm(kernel, input_shape) is a lower bound at one size."
            )
        if not self.symbols_suffice:
            raise GeometryError(
                f"{function} at input_shape does not support {padding}, only circular padding that gives one output "
                "per stride, such as padding='same'. Use grid_bound(kernel) for an upper bound, power_norm(kernel, "
                "input_shape) for a lower one, or enclose for both."
            )

    def require_circular(self, function: str, *, at_every_size: str, for_other_padding: str) -> None:
        """Refuse layers that are not circular at a given input size, and what `require_exact` refuses.

        Parameters
        ----------
        function : str
            Name of the function that refuses.
        at_every_size : str
            Functions to use without ``input_shape``.
        for_other_padding : str
            A sentence that says what to use for another padding mode.

        Raises
        ------
        GeometryError
        """
        if self.padding_mode != "circular" and self.ndim:
            raise GeometryError(
                f'{function} needs padding_mode="circular"; got "{self.padding_mode}". {for_other_padding}'
            )
        if self.input_shape is None:
            raise GeometryError(
                f"{function} needs input_shape, the layer's spatial input sizes. For every size at once: "
                f"{at_every_size}."
            )
        self.require_exact(function)

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
            If the array has too few or too many axes, or an empty one.
        GeometryError
            If a keyword does not fit the kernel, or another keyword.
        TypeError
            For an unknown keyword.

        Notes
        -----
        Equal problems have equal specs: programs are found by a spec's text, and claims compare specs.
        """
        unknown = sorted(set(geometry) - GEOMETRY_KEYWORDS)
        if unknown:
            expected = ", ".join(sorted(GEOMETRY_KEYWORDS))
            raise TypeError(f"unknown geometry {', '.join(map(repr, unknown))}; expected some of {expected}")
        shape = tuple(int(s) for s in shape)
        transposed = is_transposed(geometry.get("transposed", False))
        layout = geometry.get("layout")
        first, second, kernel_shape = _split_axes(shape, layout)
        _check_axes(shape, len(kernel_shape), geometry)
        if layout is not None and layout.startswith("OI"):
            # Torch's order, by its name. As None, so that equal problems have equal specs.
            layout = None
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
        is_known = isinstance(mode, str) and mode in get_args(PaddingMode)
        if not is_known:
            raise GeometryError(_unknown_border(mode))
        padding = _padding(geometry.get("padding", "same"), kernel_shape, dilation)
        if padding is None:
            size = None if transposed else geometry.get("input_shape")
            padding = _same_at(size, geometry["padding"], kernel_shape, stride, dilation, mode)
        keeps_size = all(sum(p) == r * (k - 1) for p, r, k in zip(padding, dilation, kernel_shape, strict=True))
        if transposed and mode != "zeros" and not (mode == "circular" and keeps_size):
            raise GeometryError(
                f"padding_mode={mode!r} with padding={padding} is not a transposed layer's: frameworks crop its "
                "output. "
                "Use padding_mode='zeros' with any padding, or padding_mode='circular' with padding='same'."
            )
        input_shape = geometry.get("input_shape")
        if not ndim and input_shape is None:
            # A matrix has no pixels: it is a layer at its size.
            input_shape = ()
        if input_shape is not None:
            input_shape = per_axis("input_shape", input_shape, ndim, least=1)
            if math.prod(input_shape) > _MOST_PIXELS:
                raise GeometryError(f"input_shape={input_shape}: no layer has so many pixels.")
            needs_divisible_size = mode == "circular" and not transposed
            if needs_divisible_size and any(n % s for n, s in zip(input_shape, stride, strict=True)):
                raise GeometryError(
                    f"stride={stride} does not divide input_shape={input_shape}: circular padding needs it to. "
                    "Choose an input_shape divisible by the stride. For a bound at this size, leave input_shape out "
                    "and give stride=1, whose outputs include the layer's. Without input_shape, a bound with the "
                    "stride holds at every input size that the stride divides."
                )
            too_many = pixels_run_out(padding, input_shape, mode)
            if too_many:
                raise GeometryError(too_many)
        assumes_same = geometry.get("padding", "same") == "same"
        layer = (stride, dilation, groups, transposed, layout, mode, padding, input_shape)
        return cls(cout, cin, kernel_shape, *layer, assumes_same=assumes_same)


def at_every_size(geometry: dict[str, Any]) -> dict[str, Any]:
    """A geometry whose bounds without ``input_shape`` hold for the given layer at every size.

    With circular padding, at sizes that the stride does not divide, the norm can exceed the supremum of the strided
    layer over the other sizes. Then the stride is replaced by 1: the layer's outputs are some of the outputs at stride
    1, so bounds for these hold.

    Parameters
    ----------
    geometry : dict
        See `Geometry`.
    """
    if "stride" not in geometry or geometry.get("transposed", False):
        return geometry
    if geometry.get("padding_mode", "circular") != "circular" or not _is_padded(geometry.get("padding", "same")):
        return geometry
    return {**geometry, "stride": 1}


def _is_padded(padding: Any) -> bool:
    """Whether an argument ``padding`` may stand for more than 0 pixels; "same" is taken to do so for every kernel."""
    if isinstance(padding, str):
        return padding != "valid"
    if isinstance(padding, int):
        return padding > 0
    return any(max(pads) > 0 for pads in padding)


def dtype_to_compute_in(name: str, shape: tuple[int, ...], what: str = "kernel") -> Literal["float32", "float64"]:
    """Return the name of the dtype to compute in, or refuse the kernel's dtype.

    ``name``: the kernel's dtype as its library prints it, e.g. ``"torch.float32"``. ``shape``, ``what``: of the array,
    for the message. Raises `KernelError` for anything but float16, bfloat16, float32 and float64.
    """
    short = name.rpartition(".")[2]
    if short not in FLOATING:
        advice = "Convert it first, e.g. to float32; quantized weights need their scale applied."
        if "complex" in short:
            advice = "Give the real form [[Re, -Im], [Im, Re]] of twice as many channels, which has the same norm."
        raise KernelError(
            f"{what} of shape {shape} has dtype {short}; expected a real floating dtype ({', '.join(FLOATING)}). "
            + advice
        )
    return "float64" if short == "float64" else "float32"


def _split_axes(shape: tuple[int, ...], layout: Any) -> tuple[int, int, tuple[int, ...]]:
    """Sizes of the first and second axis in torch's order, and of the spatial axes, of an array in some layout."""
    if layout is not None:
        if not isinstance(layout, str) or layout not in get_args(Layout):
            raise GeometryError(f"layout={layout!r} is not one of {', '.join(get_args(Layout))}, or None.")
        if len(layout) != len(shape):
            raise GeometryError(f"layout={layout!r} names {len(layout)} axes; the kernel has shape {shape}.")
    if not 2 <= len(shape) <= 2 + MAX_SPATIAL_AXES:
        raise KernelError(
            f"kernel of shape {shape} has {counted(len(shape), 'axis', 'axes')}. {_SHAPE_HELP}: give 2 to 5 axes."
        )
    if 0 in shape:
        raise KernelError(f"kernel of shape {shape} has an empty axis. {_SHAPE_HELP}, each at least 1.")
    if layout is not None and layout.endswith("IO"):
        return shape[-1], shape[-2], shape[:-2]
    return shape[0], shape[1], shape[2:]


def _check_axes(shape: tuple[int, ...], ndim: int, geometry: dict[str, Any]) -> None:
    """Refuse spatial arguments for a matrix, and tuples that show that the array lacks its axes of channels."""
    spatial = {name: geometry[name] for name in _SPATIAL if not _is_absent(geometry.get(name))}
    says_none = any(isinstance(geometry.get(name), (tuple, list)) and not geometry[name] for name in _SPATIAL)
    if not ndim and says_none:  # an empty sequence: whoever gives it knows, so a padding mode is no mistake
        spatial.pop("padding_mode", None)
    if spatial and not ndim:
        arguments = ", ".join(f"{name}={value!r}" for name, value in spatial.items())
        raise GeometryError(
            f"{arguments} of a matrix, an array of shape {shape}: a linear layer has no spatial axes. A kernel is "
            "(cout, cin // groups, *kernel_shape): if this array is one filter, such as a point-spread function psf, "
            f"give psf[None, None]; if it is a linear layer's matrix, leave {', '.join(spatial)} out."
        )
    for name, value in spatial.items():
        if not isinstance(value, (tuple, list)) or len(value) == ndim:
            continue
        if len(value) == len(shape):
            raise GeometryError(
                f"{name}={value!r} has as many entries as the array of shape {shape} has axes. A kernel is (cout, "
                f"cin // groups, *kernel_shape), here with {counted(ndim, *_SPATIAL_AXES)}: "
                f"{_advice_on_entries(name, value, ndim)}if this array is one filter psf, give psf[None, None]."
            )
        if len(value) == len(shape) - 1:
            raise GeometryError(
                f"{name}={value!r} has {len(value)} entries; an array of shape {shape} is a kernel with "
                f"{counted(ndim, *_SPATIAL_AXES)}, (cout, cin // groups, *kernel_shape): "
                f"{_advice_on_entries(name, value, ndim)}if the array is a "
                "stack of filters, give kernel[:, None] (one input channel) or kernel[None] (one output channel); if "
                "it is a single filter psf, psf[None, None]."
            )


def _advice_on_entries(name: str, value: Sequence[Any], ndim: int) -> str:
    """Advice to leave batch and channels out of an input size, and to pair paddings; empty for other arguments."""
    if name == "padding":
        return "give one (before, after) pair per axis, such as padding=[(1, 2)] for one axis; or, "
    return f"give spatial sizes alone, {name}={tuple(value[-ndim:])}; or, " if name == "input_shape" else ""


def _is_absent(value: Any) -> bool:
    """Whether an argument is None or an empty sequence."""
    return value is None or (isinstance(value, (tuple, list)) and not value)


def is_transposed(value: Any) -> bool:
    """Convert the argument ``transposed``, or refuse it."""
    if not isinstance(value, (bool, np.bool_)):
        raise GeometryError(f"transposed={value!r} is not True or False.")
    return bool(value)


def _count(name: str, value: Any, least: int = 1) -> int:
    """Convert an argument to an integer of at least ``least``, or refuse it by its name."""
    if isinstance(value, bool):
        raise GeometryError(f"{name}={value!r} is a truth value; expected an integer.")
    if getattr(value, "ndim", 0):
        raise GeometryError(
            f"{name} is an array of shape {tuple(value.shape)}; expected an integer, or a tuple of them."
        )
    try:
        number = operator.index(value)
    except Exception as error:
        # Compilers raise errors of their own types for tracers.
        advice = TRACED if type(error) is not TypeError else ""
        if isinstance(value, (float, str, list, type(None))):
            problem = f"{name}={value!r} is not an integer."
        else:
            problem = f"{name} is a {type(value).__name__}, not an integer."
        raise GeometryError(problem + advice) from None
    if number < least:
        raise GeometryError(f"{name}={number} is below {least}.")
    if number > _LARGEST_COUNT:
        raise GeometryError(f"{name}={number} is above {_LARGEST_COUNT}: no layer is so large.")
    return number


def per_axis(name: str, value: Any, ndim: int, least: int = 1) -> tuple[int, ...]:
    """Convert an argument, one integer or one for each spatial axis, to a tuple with one for each axis."""
    if isinstance(value, (tuple, list)):
        if len(value) != ndim:
            raise GeometryError(
                f"{name}={value!r} has {counted(len(value), *_ENTRIES)}; the kernel has "
                f"{counted(ndim, *_SPATIAL_AXES)}: give one per axis, or a single integer for all."
            )
        return tuple(_count(name, v, least) for v in value)
    return (_count(name, value, least),) * ndim


def pixels_run_out(padding: Sequence[tuple[int, int]], input_shape: Sequence[int], mode: PaddingMode) -> str:
    """Why an input is too small for a padding that mirrors it; empty if it is not."""
    spare = {"reflect": 1, "symmetric": 0}.get(mode)
    if spare is None or all(max(pads) <= n - spare for pads, n in zip(padding, input_shape, strict=True)):
        return ""
    than = "not below" if spare else "above"
    return (
        f"padding={tuple(padding)} is {than} input_shape={tuple(input_shape)}: {mode} padding runs out of pixels. Use "
        "a smaller padding or a larger input_shape."
    )


def _unknown_border(mode: Any) -> str:
    """The error message for a padding mode that specnorm has no such name for."""
    known = ", ".join(map(repr, get_args(PaddingMode)))
    word = str(mode).lower().removeprefix("border_")
    meant = next((name for name, others in _BORDERS.items() if word == name or word in others), None)
    advice = f" Give padding_mode={meant!r}." if meant else ""
    return f"padding_mode={mode!r} is not one of {known}.{advice} {_BORDER_HELP}"


def _same_at(
    input_shape: Any,
    word: str,
    kernel_shape: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    mode: PaddingMode,
) -> tuple[tuple[int, int], ...]:
    """The padding "same_upper" or "same_lower" at an input size, or at sizes that the stride divides."""
    sizes = (None,) * len(kernel_shape) if input_shape is None else per_axis("input_shape", input_shape, len(stride))
    axes = list(zip(sizes, kernel_shape, stride, dilation, strict=True))
    if mode not in ("zeros", "circular") and any(n is None and s > 1 and k > 1 for n, k, s, _ in axes):
        raise GeometryError(
            f"padding={word!r} with a stride and padding_mode={mode!r} repeats other numbers of pixels from size "
            "to size: give input_shape, or the padding as (before, after) pairs."
        )
    return tuple(_SAME[word](*axis) for axis in axes)


def same_upper(n: int | None, k: int, s: int, r: int) -> tuple[int, int]:
    """Amounts (before, after) of padding "same" in TensorFlow, XLA and ONNX ("SAME_UPPER") along one axis.

    It is the least padding that gives ``ceil(n / s)`` outputs. If the total is odd, one pixel more is padded after.

    Parameters
    ----------
    n : int or None
        Pixels of the input; None: any number that the stride divides.
    k, s, r : int
        Kernel size, stride and dilation.
    """
    width = r * (k - 1) + 1
    if n is None:
        total = max(width - s, 0)
    else:
        outputs = ceil_div(n, s)
        total = max((outputs - 1) * s + width - n, 0)
    return total // 2, total - total // 2


def same_lower(n: int | None, k: int, s: int, r: int) -> tuple[int, int]:
    """As `same_upper`; if the total is odd, one pixel more is padded before: "SAME_LOWER" of XLA and ONNX."""
    before, after = same_upper(n, k, s, r)
    return after, before


_SAME = {"same_upper": same_upper, "same_lower": same_lower}


def _padding(
    value: Any, kernel_shape: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[tuple[int, int], ...] | None:
    """Convert the argument ``padding`` to a pair (before, after) for each axis; None for those of `_SAME`."""
    if isinstance(value, str):
        if value in _SAME:
            return None
        if value == "valid":
            return ((0, 0),) * len(kernel_shape)
        if value == "same":
            return _same(kernel_shape, dilation)
        meant = {"SAME": "same_upper", "SAME_UPPER": "same_upper", "SAME_LOWER": "same_lower"}.get(value, value.lower())
        advice = f" Give padding={meant!r}." if meant in _SAME or meant == "valid" else ""
        raise GeometryError(
            f"padding={value!r} is not 'same', 'same_upper', 'same_lower', 'valid', an integer, or a (before, after) "
            f"pair per axis.{advice}"
        )
    if not isinstance(value, (tuple, list)):
        amount = _count("padding", value, least=0)
        return ((amount, amount),) * len(kernel_shape)
    if len(value) != len(kernel_shape):
        raise GeometryError(
            f"padding={value!r} has {counted(len(value), *_ENTRIES)}; the kernel has "
            f"{counted(len(kernel_shape), *_SPATIAL_AXES)}: give one (before, after) pair per axis."
        )
    pairs = [p if isinstance(p, (tuple, list)) else (p, p) for p in value]
    if any(len(p) != 2 for p in pairs):
        raise GeometryError(f"padding={value!r} is not one (before, after) pair per axis.")
    return tuple((_count("padding", a, 0), _count("padding", b, 0)) for a, b in pairs)


def _same(kernel_shape: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """The padding "same"."""
    total = [r * (k - 1) for k, r in zip(kernel_shape, dilation, strict=True)]
    return tuple((t // 2, t - t // 2) for t in total)


def padding_count(before: int, after: int, n: int | None, mode: PaddingMode) -> int:
    """Largest number of positions of the padded axis that hold the same pixel, the pixel's own position included.

    ``before``, ``after``: amounts of padding. ``n``: pixels of the axis; None: the largest count over all sizes.
    """
    if mode == "circular":
        return 1 + ceil_div(before + after, n or 1)
    if mode == "replicate":
        # The padding copies the first pixel in front and the last one behind: a single pixel at both ends.
        has_two_ends = n is not None and n > 1
        return 1 + (max(before, after) if has_two_ends else before + after)
    if mode == "symmetric":
        if n is not None and max(before, after) > n:
            # The padding is longer than the axis: it reflects back and forth, with this period.
            counts = Counter(min(p % (2 * n), 2 * n - 1 - p % (2 * n)) for p in range(-before, n + after))
            return max(counts.values())
        # Pixel i is copied in front if i < before, and behind if i >= n - after.
        copied_twice = n is None or n < before + after
        return 1 + (2 if before > 0 and after > 0 and copied_twice else before > 0 or after > 0)
    if mode == "reflect":
        if n is not None and max(before, after) >= n:
            # The padding is longer than the axis: it reflects back and forth, with this period.
            period = max(2 * (n - 1), 1)
            counts = Counter(min(p % period, period - p % period) for p in range(-before, n + after))
            return max(counts.values(), default=1)
        if before == 0 and after == 0:
            return 1
        # Pixel i is copied in front if 1 <= i <= before, and behind if n - 1 - after <= i <= n - 2.
        copied_twice = n is None or max(1, n - 1 - after) <= min(before, n - 2)
        return 3 if before > 0 and after > 0 and copied_twice else 2
    return 1
