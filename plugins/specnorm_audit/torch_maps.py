"""Which map a module computes, by watching it compute: one convolution or matrix product of a known kernel, or none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from specnorm_torch.models import ASKED, called, crop, name_of, replaced, tensors, version_of
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from specnorm import GeometryError

_CONVOLUTIONS: dict[Any, int] = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
_TRANSPOSED: dict[Any, int] = {torch.conv_transpose1d: 1, torch.conv_transpose2d: 2, torch.conv_transpose3d: 3}
_PRODUCTS = (torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__)
_PADS = (nn.functional.pad, torch._C._nn.pad)
_MODES = {"constant": "zeros", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}
_SHIFTS = ("add", "add_", "__add__", "__radd__", "__iadd__", "sub", "sub_", "__sub__", "__isub__")
_COPIES = ("contiguous", "clone", "detach", "to", "type_as", "float", "double", "half", "bfloat16")
_ORDERS = ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "transpose", "permute", "movedim")
"""Entries in another order have the same length."""


@dataclass(frozen=True)
class Map:
    """One convolution or matrix product.

    Parameters
    ----------
    weight : Tensor
        The kernel, as it is used; a copy.
    geometry : dict
        For specnorm's functions, with ``input_shape``.
    given : Tensor
        The kernel, as it was handed to torch: perhaps a parameter.
    """

    weight: Tensor
    geometry: dict[str, Any]
    given: Tensor


def map_of(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> Map:
    """Map of a module, in the mode in which it stands, at the size of an input.

    The module is run twice on random numbers. Believed are a convolution or a matrix product of the input, perhaps
    padded, with a kernel that is the same both times, and a bias: whatever else touches the input refutes it. So does
    an output whose length is not that of the product: code of one's own may do what torch's functions do not tell.

    Parameters
    ----------
    module : Module
    args : tuple
    kwargs : mapping, optional
        Arguments of a call; only shapes and dtypes of the tensors are used.

    Returns
    -------
    Map

    Raises
    ------
    GeometryError
        If the module computes anything else, by its class's name.
    """
    kwargs = kwargs or {}
    if any(x.is_meta for x in tensors((args, kwargs, list(module.parameters())))):
        raise GeometryError(f"{name_of(module)} has no values: it is on the device 'meta'. Load its weights first.")
    generator = torch.Generator().manual_seed(0)
    (first, *ends), (second, *others) = (_watched(module, args, kwargs, generator) for _ in range(2))
    if not torch.isfinite(first.weight).all():
        return first  # which no function of specnorm takes
    if first.geometry != second.geometry or not torch.equal(first.weight, second.weight):
        raise _refused(
            module,
            "its kernel changes from call to call",
            "Make it a function of its input first.",
        )
    if not _agrees(second, *(a - b for a, b in zip(ends, others, strict=True))):
        raise _refused(module, "its output is not that of the product that it calls")
    return second


def _agrees(seen: Map, x: Tensor, y: Tensor) -> bool:
    """Whether a difference of inputs becomes, in length, the difference of outputs: what was not seen shows here."""
    geometry, x = seen.geometry, x.to(seen.weight.dtype)
    with torch.no_grad():
        if not geometry["input_shape"]:
            wanted = x.reshape(-1, seen.weight.shape[1]) @ seen.weight.mT
        else:
            options = {name: geometry[name] for name in ("stride", "dilation", "groups")}
            pads = [int(n) for pair in reversed(geometry["padding"]) for n in pair]
            ndim = len(geometry["input_shape"])
            if geometry.get("transposed"):
                apply: Any = next(f for f, n in _TRANSPOSED.items() if n == ndim)
                wanted = nn.functional.pad(apply(x, seen.weight, **options), [-n for n in pads])
            else:
                apply = next(f for f, n in _CONVOLUTIONS.items() if n == ndim)
                mode = {"zeros": "constant"}.get(geometry["padding_mode"], geometry["padding_mode"])
                batch = x if x.ndim == ndim + 2 else x[None]
                wanted = apply(nn.functional.pad(batch, pads, mode=mode), seen.weight, **options)
    ours, theirs = (float(torch.linalg.vector_norm(z.double())) for z in (wanted, y))
    tolerance: float = min(32 * torch.finfo(y.dtype).eps ** 0.5, 0.05)
    return abs(ours - theirs) <= tolerance * max(ours, theirs)


def _watched(module: nn.Module, args: Any, kwargs: Any, generator: torch.Generator) -> tuple[Map, Tensor, Tensor]:
    args, kwargs = (replaced(given, generator) for given in (args, kwargs))
    given = [x for x in tensors((args, kwargs)) if x.is_floating_point()]
    if not given:
        raise _refused(module, "it is given no floating tensor")
    watch, source = _Watch(given), given[0].clone()
    # Tensors of the inference mode do not count their changes.
    with torch.inference_mode(False), torch.no_grad(), torch.compiler.set_stance("force_eager"), watch:
        out = module(*args, **kwargs)
    return watch.found(module, out), source if watch.operand is None else watch.operand, out


def _refused(module: nn.Module, why: str, advice: str = "") -> GeometryError:
    advice = advice or (
        "Give the kernel that it amounts to, with its geometry, to specnorm.enclose, or the whole model to "
        "specnorm_networks.network_bound."
    )
    return GeometryError(
        f"{name_of(module)} is not shown to be one convolution or linear map of a fixed kernel: {why}. {advice}"
    )


class _Watch(TorchFunctionMode):
    """Follows the input through a module: ``values`` are what became of it as long as every step is known.

    Before the kernel, the input or its padding, in some order of the entries; after it, the product, shifted or not.
    """

    def __init__(self, given: list[Tensor]) -> None:
        super().__init__()
        self.values = {id(given[0]): given[0]}
        # Held, so that no other tensor gets the number of one that is gone.
        self.data = {id(x): x for x in given}
        self.versions = {key: version_of(x) for key, x in self.data.items()}
        self.pads: tuple[int, ...] = ()
        self.mode = "zeros"
        self.ordered = False
        self.kernel: tuple[Tensor, Tensor, dict[str, Any]] | None = None
        self.operand: Tensor | None = None
        """Of the product, where the entries of the input were put in another order before it."""
        self.called: dict[str, None] = {}
        self.looked: dict[str, None] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one call of torch's, and note what it does to the input."""
        del types
        kwargs = kwargs or {}
        name = called(func)
        if self._moved():
            self.looked["code that is not torch's"] = None
        data = [x for x in tensors((args, kwargs)) if id(x) in self.data]
        target = kwargs.get("out", args[0] if args and _changes(name) else None)
        known = self.kernel
        before = data[0] if len(data) == 1 else None
        step = before is not None and id(before) in self.values and self._step(before, func, name, args, kwargs)
        out = func(*args, **kwargs)
        if not data or (name in ASKED and not isinstance(out, Tensor)):
            return out
        changed = self._moved() or (isinstance(target, Tensor) and id(target) in self.data)
        results = list(tensors((out, target)))
        self.data |= {id(x): x for x in results}
        self.called[name] = None
        same = name not in _SHIFTS + _COPIES or (_form(out) == _form(before))
        if known is None and self.kernel is not None:
            self._cast(out)
        if step and isinstance(out, Tensor) and same:
            merely = name in _SHIFTS + _COPIES + _ORDERS
            self.values = (self.values if merely else {}) | {id(out): out}
        elif changed or not results:
            self.looked[name] = None
        # A view counts the changes of what it is a view of.
        self.versions = {key: version_of(x) for key, x in self.data.items()}
        return out

    def _moved(self) -> bool:
        """Whether anything that hangs on the input was changed in place since the last call."""
        return any(version_of(self.data[key]) != count for key, count in self.versions.items())

    def _cast(self, out: Any) -> None:
        """Under autocast the kernel is rounded to the dtype in which the product is computed."""
        if self.kernel is not None and isinstance(out, Tensor) and out.dtype != self.kernel[0].dtype:
            weight, given, geometry = self.kernel
            self.kernel = weight.to(out.dtype), given, geometry

    def _step(self, value: Tensor, func: Any, name: str, args: Any, kwargs: Any) -> bool:
        """Whether a call that gets a value, and nothing else of the input, is understood; a kernel is noted."""
        first = (args[0] if args else kwargs.get("input")) is value
        if name in _SHIFTS:
            # torch.add(c, x, alpha=...) scales x.
            added = name == "add" and len(args) <= 2 and kwargs.get("alpha", 1) == 1
            return self.kernel is not None and (first or added)
        if func is torch.addmm and len(args) == 3 and not kwargs and args[1] is value:
            return self._product(value, torch.mm, args[1:], {})
        if not first or name in _COPIES:
            return first
        if name in _ORDERS:
            self.ordered |= self.kernel is None
            # x.view(dtype) reads the bits as other numbers.
            given = [*args[1:], *kwargs.values()]
            return (not self.pads or self.kernel is not None) and not any(isinstance(x, torch.dtype) for x in given)
        if self.kernel is not None:
            return False
        if func in _PADS:
            return self._pad(*args[1:], **{k: v for k, v in kwargs.items() if k != "input"})
        return self._product(value, func, args, kwargs)

    def _pad(self, pad: Any, mode: str = "constant", value: float | None = None) -> bool:
        del value  # a constant is a shift
        amounts = tuple(int(n) for n in pad)
        if any(n < 0 for n in amounts) or mode not in _MODES:
            return False
        if self.pads and (self.mode, _MODES[mode]) != ("zeros", "zeros"):
            return False
        wide = max(len(amounts), len(self.pads))
        both = [x + (0,) * (wide - len(x)) for x in (amounts, self.pads)]
        self.pads, self.mode = tuple(a + b for a, b in zip(*both, strict=True)), _MODES[mode]
        return True

    def _product(self, value: Tensor, func: Any, args: Any, kwargs: Any) -> bool:
        """A convolution or a matrix product; its kernel and geometry are noted."""
        if self.kernel is not None:
            return False
        if func in _CONVOLUTIONS or func in _TRANSPOSED:
            transposed = func in _TRANSPOSED
            after = ("output_padding", "groups", "dilation") if transposed else ("dilation", "groups")
            names = ("input", "weight", "bias", "stride", "padding", *after)
            told: dict[str, Any] = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "output_padding": 0}
            told |= dict(zip(names, args, strict=False)) | kwargs
            ndim = (_TRANSPOSED if transposed else _CONVOLUTIONS)[func]
            geometry = self._convolution(value, told, ndim, transposed)
            if geometry is None:
                return False
            weight: Tensor = told["weight"]
        elif func is nn.functional.linear and not self.pads:
            weight, geometry = (args[1] if len(args) > 1 else kwargs["weight"]), {"input_shape": ()}
        elif func in _PRODUCTS and not self.pads and len(args) > 1:
            given = args[1]
            weight, geometry = given.mT if given.ndim > 1 else given, {"input_shape": ()}
        else:
            return False
        if weight.is_quantized or (not geometry["input_shape"] and weight.ndim != 2):
            return False
        plain = weight.detach()
        self.kernel = (plain.clone() if plain.layout == torch.strided else plain.to_dense()), weight, geometry
        self.operand = value.detach().clone() if self.ordered else None
        return True

    def _convolution(self, value: Tensor, told: dict[str, Any], ndim: int, transposed: bool) -> dict[str, Any] | None:
        """Geometry of a convolution's call together with the padding before it; None where it has no words."""
        stride, dilation, extra = (_tuple(told[key], ndim) for key in ("stride", "dilation", "output_padding"))
        before = [(self.pads + (0,) * (2 * ndim))[2 * j : 2 * j + 2] for j in reversed(range(ndim))]
        shape = value.shape
        size = tuple(int(n) - sum(pair) for n, pair in zip(shape[len(shape) - ndim :], before, strict=True))
        geometry: dict[str, Any] = {
            "stride": stride, "dilation": dilation, "groups": int(told["groups"]), "padding_mode": self.mode,
            "input_shape": size,
        }  # fmt: skip
        if any(self.pads[2 * ndim :]) or (transposed and any(self.pads)):
            return None
        amounts = told["padding"]
        if transposed:
            own = [(p, p - more) for p, more in zip(_tuple(amounts, ndim), extra, strict=True)]
            return geometry | {"transposed": True, "padding": crop(own)}
        if amounts == "same":
            reach = [r * (k - 1) for r, k in zip(dilation, told["weight"].shape[2:], strict=True)]
            own = [(n // 2, n - n // 2) for n in reach]
        else:
            own = [(p, p) for p in _tuple(0 if amounts == "valid" else amounts, ndim)]
        if self.mode != "zeros" and any(map(any, own)):
            return None
        return geometry | {"padding": [(a + c, b + d) for (a, b), (c, d) in zip(before, own, strict=True)]}

    def found(self, module: nn.Module, out: Any) -> Map:
        """What was seen, once the module is done."""
        if self._moved():
            self.looked["code that is not torch's"] = None
        if self.looked:
            raise _refused(module, f"its forward looks at, or changes, the values of its input ({_list(self.looked)})")
        names = _list(self.called) or "nothing of torch's"
        if self.kernel is None:
            raise _refused(module, f"its forward calls {names}, of which none is such a product of its input")
        if id(out) not in self.values:
            raise _refused(module, f"between its input and its output its forward calls {names}")
        weight, given, geometry = self.kernel
        return Map(weight, geometry, given)


def _form(x: Any) -> Any:
    return (x.shape, x.dtype) if isinstance(x, Tensor) else None


def _changes(name: str) -> bool:
    """Whether a call of this name changes its first argument."""
    inplace = name.endswith("_") and not name.endswith("__")
    return inplace or name == "__setitem__" or (name.startswith("__i") and name not in ("__invert__", "__index__"))


def _list(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _tuple(x: Any, ndim: int) -> tuple[int, ...]:
    given = (x,) if isinstance(x, int) else tuple(int(n) for n in x)
    return given * ndim if len(given) == 1 else given
