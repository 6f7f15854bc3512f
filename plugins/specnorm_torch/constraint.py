"""Layers kept at a spectral norm while they are trained; `certifying` proves them to be below it afterwards."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from itertools import accumulate
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import specnorm
from specnorm.errors import GeometryError, KernelError
from specnorm.methods import Method, TensorNorm
from specnorm.plugin import check_bound, check_count, one_set, stepped_program
from specnorm_torch import derivatives
from specnorm_torch.backend import BACKEND
from specnorm_torch.modules import geometry_of, is_layer, is_lazy, name_of, version_of

ModuleT = TypeVar("ModuleT", bound=nn.Module)
_TN = TensorNorm()
_RENEWED = 1024
"""Steps between fresh starts; the first ones come at 16, 32, 64 ... steps, while a kernel moves most."""
_FIRST = 16
_COMPLEX = {torch.float32: "complex64", torch.float64: "complex128"}
_SCALES = 2.0**-16, 2.0**16
"""Values of a form whose squares neither overflow nor vanish."""
_NOTABLE = 1.001
"""By how much a fresh start finds more where a state does not fit; where it fits, they differ by rounding."""


class SpectralNorm(nn.Module):
    """Parametrisation behind `spectral_norm`: the kernel times ``bound / norm``, with a state in buffers.

    Its arguments are those of `spectral_norm`; with ``dim`` the tensor is a matrix with the rows along that axis.
    """

    vectors: Tensor
    """Of `TensorNorm`."""
    in_eval: tuple[Tensor, list[int], tuple[Tensor, ...]] | None = None
    """The last weight in eval, versions of it and of the state, and the state that its norm is taken at."""

    def __init__(
        self,
        weight: Tensor,
        geometry: dict[str, Any],
        n_power_iterations: int,
        eps: float,
        bound: float,
        method: Method,
        only_shrink: bool,
        dim: int | None = None,
    ) -> None:
        super().__init__()
        self.geometry, self.method, self.dim = geometry, method, dim
        self.n_power_iterations, self.eps, self.bound, self.only_shrink = n_power_iterations, eps, bound, only_shrink
        state = specnorm.init_tracking(self.kernel(weight.detach()), method, **geometry)
        self.state_names = tuple(state)
        self.steps = 0
        plain = dim is None and not geometry.get("transposed") and geometry.get("groups", 1) == 1
        plain = plain and all(k == 1 for k in geometry.get("stride", ()))
        plain = plain and geometry.get("padding_mode", "zeros") in ("zeros", "circular")
        sizes = tuple(weight.shape[2:]) or (1,)
        self.at_once, self.taps, self.ends = plain and method == _TN, math.prod(sizes), list(accumulate(sizes))[:-1]
        for name, x in state.items():
            self.register_buffer(name, x)

    def kernel(self, weight: Tensor) -> Tensor:
        """What the norm is taken of: the tensor, or the matrix that it is."""
        return weight if self.dim is None else weight.movedim(self.dim, 0).flatten(1)

    def norm(self, weight: Tensor, *, move: bool) -> Tensor:
        """Take the norm of the kernel where the state stands, or after moving it."""
        value, after = specnorm.track(
            self.kernel(weight), self.method, self.state, sweeps=move * self.n_power_iterations, **self.geometry
        )
        if move:
            self._move_to(after.values())
        return value

    def forward(self, weight: Tensor) -> Tensor:
        """Scale the kernel; the state moves in training mode alone."""
        if self.state_names and not BACKEND.changes(weight):
            return self._scaled(weight)
        factor, _ = self._factor(self.norm(weight, move=self.training))
        return weight * factor.to(weight.dtype)

    def _scaled(self, weight: Tensor) -> Tensor:
        """The same outside of compilers and transformations, whose backward is then one function in few passes."""
        self.renew(weight)
        if self.training and self.at_once and (found := self._at_once(weight)) is not None:
            return found
        kernel = self.kernel(weight.detach())
        plan = stepped_program(self.method, tuple(kernel.shape), str(kernel.dtype), tuple(self.geometry.items()))
        state = tuple(self.state.values()) if self.training else self._state_in_eval(weight)
        sweeps = self.training * self.n_power_iterations
        value, gradient, after = plan.step(kernel, state, sweeps=sweeps, backend=BACKEND)
        if self.training:
            self._move_to(after)
        if self.dim is not None:
            gradient = gradient.reshape(weight.movedim(self.dim, 0).shape).movedim(0, self.dim)
        return derivatives.scaled(weight, *self._factor(value), gradient)

    def _at_once(self, weight: Tensor) -> Tensor | None:
        """One step of one set of vectors on the host, in few calls; None: as other methods do."""
        if weight.device.type != "cpu" or self.vectors.dtype not in _COMPLEX:
            return None
        # In NumPy, in place, whose calls take a third less time than torch's.
        state, m, xp = cast(Any, self.vectors.detach().numpy()[0]), weight.shape[0], cast(Any, np)
        modes: Any = [x[:, 0] for x in np.split(state[m:].view(_COMPLEX[self.vectors.dtype]), self.ends)]
        kernel: Any = weight.detach().to(self.vectors.dtype).reshape(m, -1).numpy()
        found = one_set.step(kernel, state[:m], modes, self.n_power_iterations, join=BACKEND.host().complex, xp=xp)
        norm = float(found.value)
        if not _SCALES[0] < norm < _SCALES[1]:
            return None
        state[:m] = found.rows
        for old, new in zip(modes, found.modes, strict=True):
            old[:] = new
        taps = math.sqrt(self.taps)
        value = norm * taps
        factor = self.bound / value
        slope = -factor / value * taps
        if value <= self.eps or (self.only_shrink and value <= self.bound):
            factor, slope = 1.0, 0.0
        vectors = torch.from_numpy(cast(Any, found.rows)), torch.from_numpy(cast(Any, found.columns))
        return derivatives.scaled_by_vectors(weight, factor, slope, *vectors)

    def renew(self, weight: Tensor) -> None:
        """Count a step in training; now and then try a fresh start, since one set of vectors may be overtaken."""
        self.steps += self.training
        early = self.steps >= _FIRST and self.steps & (self.steps - 1) == 0
        if self.training and self.method == _TN and (early or self.steps % _RENEWED == 0):
            with torch.no_grad():
                self._move_to(self._fitting(weight))

    def get_extra_state(self) -> Tensor:
        """Steps so far."""
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Any) -> None:
        """Go on counting."""
        self.steps = int(state)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Read the vectors that torch's own parametrisation keeps as none: they are of another norm."""
        if state_dict.pop(f"{prefix}_u", None) is not None:
            state_dict.pop(f"{prefix}_v", None)
            warnings.warn(
                "the state is that of torch's spectral_norm: weights are loaded, the vectors of specnorm's begin anew.",
                stacklevel=2,
            )
            state_dict |= {f"{prefix}{name}": x for name, x in self.state.items()}
            state_dict[f"{prefix}_extra_state"] = torch.tensor(_FIRST - 1)  # the next step tries a fresh start
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @torch.no_grad()
    def _state_in_eval(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The buffers, or a fresh start if that finds a larger norm.

        Weights that were averaged or loaded do not fit the state beside them: the average of unit vectors of other
        weights finds a norm that is too small. Asked once for each weight; the buffers stay as they are.
        """
        versions = [version_of(x) for x in (weight, *self.state.values())]
        if self.in_eval is None or self.in_eval[0] is not weight or self.in_eval[1] != versions:
            self.in_eval = weight, versions, self._fitting(weight)
        return self.in_eval[2]

    def _fitting(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The buffers, or a fresh start if that finds a larger norm."""
        kernel, own = self.kernel(weight.detach()), tuple(self.state.values())
        if not kernel.isfinite().all():
            return own
        fresh = specnorm.init_tracking(kernel, self.method, **self.geometry)
        states = own, tuple(x.to(y) for x, y in zip(fresh.values(), own, strict=True))
        values = [specnorm.track(kernel, self.method, self._named(x), sweeps=0, **self.geometry)[0] for x in states]
        return states[bool(values[1] > _NOTABLE * values[0])]

    def __getstate__(self) -> dict[str, Any]:
        """Without what is found anew."""
        return {**self.__dict__, "in_eval": None}

    @property
    def state(self) -> dict[str, Tensor]:
        """Buffers."""
        return self._named(getattr(self, name) for name in self.state_names)

    def _named(self, state: Iterable[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self.state_names, state, strict=True))

    @torch.no_grad()
    def _move_to(self, after: Iterable[Tensor]) -> None:
        for old, new in zip(self.state.values(), after, strict=True):
            old.copy_(new)

    def _factor(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """What a kernel of a norm is multiplied by, and the derivative of that with respect to the norm."""
        tiny = value <= self.eps
        # A kernel of (nearly) zeros has no direction to be scaled in.
        leave = tiny | (value <= self.bound) if self.only_shrink else tiny
        divisor = torch.where(tiny, 1.0, value)
        factor = self.bound / divisor
        return torch.where(leave, 1.0, factor), torch.where(leave, 0.0, -factor / divisor)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Assigning to the parametrised kernel sets what is scaled."""
        return weight

    def extra_repr(self) -> str:
        """Bound and method."""
        return f"bound={self.bound}, method={self.method}"


def spectral_norm(
    module: ModuleT,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
    *,
    bound: float = 1.0,
    method: Method = _TN,
    only_shrink: bool = False,
) -> ModuleT:
    """Keep the spectral norm of a layer at ``bound`` while it is trained: of the convolution, not of a reshaped kernel.

    A drop-in for `torch.nn.utils.parametrizations.spectral_norm`, removed in the same way
    (`torch.nn.utils.parametrize.remove_parametrizations`). Stride, dilation, groups and padding mode are read from the
    layer. The norm is followed by `specnorm.track`, one estimate per forward pass; `rescale_` makes it a proof when
    the training is over.

    Parameters
    ----------
    module : Conv1d to Conv3d, ConvTranspose1d to ConvTranspose3d, or Linear
    name : str, default "weight"
    n_power_iterations : int, default 1
        Sweeps a forward pass in ``train()``; in ``eval()`` the state stands still, but for weights
        that were averaged or loaded a fresh start is tried once.
    eps : float, default 1e-12
        A kernel whose norm is not above it is left as it is.
    dim : int, optional
        For compatibility; a convolution needs none to be told.
    bound : float, default 1
        The norm to have.
    method : Method, default TensorNorm()
        Or `Gram` or `Completion`, which bound from above at every step, or `FantasticFour`, whose tracked value is an
        estimate too.
    only_shrink : bool, default False
        Scale only where the norm is above the bound.

    Returns
    -------
    Module
        The same, with a parametrisation; its state is in buffers.

    Raises
    ------
    MethodError, GeometryError, KernelError
        If the layer, the method or a number cannot be used. `Power` is refused: it needs an input size.

    References
    ----------
    .. [1] Miyato, Kataoka, Koyama, Yoshida, "Spectral Normalization for Generative Adversarial Networks", ICLR 2018.
       Ours: the convolution's norm by the tensor-norm bound instead of the reshaped kernel's.
    """
    check_count("n_power_iterations", n_power_iterations, least=1)
    check_bound(bound)
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise KernelError(f"{name_of(module)} has no tensor {name!r} to constrain.")
    if is_lazy(weight) or weight.is_meta:
        raise GeometryError(
            f"{name_of(module)}.{name} has no values yet: run the module once if it is lazy, load its values if it "
            "is on the device 'meta'."
        )
    rows = _rows(module, name, weight, dim)
    geometry = geometry_of(module) if rows is None else {}
    constraint = SpectralNorm(weight, geometry, n_power_iterations, eps, float(bound), method, only_shrink, rows)
    parametrize.register_parametrization(module, name, constraint)
    return module


def _rows(module: nn.Module, name: str, weight: Tensor, dim: int | None) -> int | None:
    """Axis of a plain matrix's rows; None: the tensor is a layer's kernel, or not known."""
    if is_layer(module) and name == "weight":
        return None
    if weight.ndim == 2 or (isinstance(module, nn.Bilinear) and name == "weight"):
        return 0 if dim is None else dim
    if is_layer(module):
        raise GeometryError(f"{name_of(module)}.{name} is not the layer's kernel, and no matrix: it has no norm here.")
    return None


class GramRescaling(nn.Module):
    """Parametrisation behind `gram_rescaling`."""

    def __init__(self, geometry: dict[str, Any], n_iter: int) -> None:
        super().__init__()
        self.geometry, self.n_iter = geometry, n_iter

    def forward(self, weight: Tensor) -> Tensor:
        """Divide each channel by its number."""
        return specnorm.gram_rescaling(weight, n_iter=self.n_iter, **self.geometry)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Assigning to the parametrised kernel sets what is rescaled."""
        return weight

    def extra_repr(self) -> str:
        """Number of Gram products."""
        return f"n_iter={self.n_iter}"


def gram_rescaling(module: ModuleT, name: str = "weight", n_iter: int = 1) -> ModuleT:
    """Make a layer 1-Lipschitz by construction, at every step: AOL (``n_iter=1``) and spectral rescaling.

    Parameters
    ----------
    module : Conv1d to Conv3d, ConvTranspose1d to ConvTranspose3d, or Linear
    name : str, default "weight"
    n_iter : int, default 1
        Gram products, see `specnorm.gram_rescaling`.

    Returns
    -------
    Module
        The same, with a parametrisation without state.

    Raises
    ------
    GeometryError
        For other modules; reflect and replicate padding.
    """
    geometry = geometry_of(module)
    parametrize.register_parametrization(module, name, GramRescaling(geometry, n_iter))
    return module
