"""Layers kept at a spectral norm while they are trained, and proven to be below it afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import specnorm
from specnorm.conv import ConvSpec
from specnorm.errors import GeometryError, KernelError, MethodError, SpecnormError
from specnorm.methods import Method, TensorNorm
from specnorm.methods.base import check_count
from specnorm_torch.baking import Saved, bake_tensor, computed
from specnorm_torch.modules import at_inference, geometry_of, is_layer, is_lazy, parametrisations, weight_of
from specnorm_torch.tracing import map_of, name_of

ModuleT = TypeVar("ModuleT", bound=nn.Module)
_TN = TensorNorm()
_MATRIX = 2


class SpectralNorm(nn.Module):
    """Parametrisation behind `spectral_norm`: the kernel times ``bound / norm``, with a state in buffers.

    Parameters
    ----------
    weight : Tensor
        To start from.
    geometry : dict
        Of the layer, for every input size.
    n_power_iterations, eps, bound, method, only_shrink
        See `spectral_norm`.
    dim : int, optional
        The tensor is a matrix with the rows along this axis; None: a kernel as it is.
    """

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
        state = specnorm.init(self.kernel(weight.detach()), method, **geometry)
        self.state_names = tuple(state)
        for name, x in state.items():
            self.register_buffer(name, x)

    def kernel(self, weight: Tensor) -> Tensor:
        """What the norm is taken of: the tensor, or the matrix that it is."""
        return weight if self.dim is None else weight.movedim(self.dim, 0).flatten(1)

    def norm(self, weight: Tensor, *, move: bool) -> Tensor:
        """Take the norm of the kernel where the state stands, or after moving it."""
        state = {name: getattr(self, name) for name in self.state_names}
        sweeps = self.n_power_iterations if move else 0
        value, after = specnorm.step(self.kernel(weight), self.method, state, sweeps=sweeps, **self.geometry)
        if move:
            with torch.no_grad():
                for name, x in after.items():
                    state[name].copy_(x)
        return value

    def forward(self, weight: Tensor) -> Tensor:
        """Scale the kernel; the state moves in training mode alone."""
        value = self.norm(weight, move=self.training)
        tiny = value <= self.eps
        factor = self.bound / torch.where(tiny, torch.ones_like(value), value)
        # A kernel of (nearly) zeros has no direction to be scaled in.
        leave = tiny | (value <= self.bound) if self.only_shrink else tiny
        return weight * torch.where(leave, torch.ones_like(factor), factor).to(weight.dtype)

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
    layer. The norm is followed by `specnorm.step`, one estimate per forward pass; `certify_` makes it a proof when the
    training is over.

    Parameters
    ----------
    module : Conv1d to Conv3d, ConvTranspose1d to ConvTranspose3d, or Linear
    name : str, default "weight"
    n_power_iterations : int, default 1
        Sweeps a forward pass in ``train()``; in ``eval()`` the state stands still.
    eps : float, default 1e-12
        A kernel whose norm is not above it is left as it is.
    dim : int, optional
        For compatibility; a convolution needs none to be told.
    bound : float, default 1
        The norm to have.
    method : Method, default TensorNorm()
        Or `FantasticFour`, or `Gram`, which bounds from above at every step.
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
    _check_bound(bound)
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
    if weight.ndim == _MATRIX or (isinstance(module, nn.Bilinear) and name == "weight"):
        return 0 if dim is None else dim
    return None if not is_layer(module) else _no_kernel(module, name)


def _no_kernel(module: nn.Module, name: str) -> None:
    raise GeometryError(f"{name_of(module)}.{name} is not the layer's kernel, and no matrix: it has no norm here.")


class SpectralRescaling(nn.Module):
    """Parametrisation behind `spectral_rescaling`.

    Parameters
    ----------
    geometry : dict
    n_iter : int
    """

    def __init__(self, geometry: dict[str, Any], n_iter: int) -> None:
        super().__init__()
        self.geometry, self.n_iter = geometry, n_iter

    def forward(self, weight: Tensor) -> Tensor:
        """Divide each channel by its number."""
        return specnorm.spectral_rescaling(weight, self.n_iter, **self.geometry)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Assigning to the parametrised kernel sets what is rescaled."""
        return weight

    def extra_repr(self) -> str:
        """Number of Gram products."""
        return f"n_iter={self.n_iter}"


def spectral_rescaling(module: ModuleT, name: str = "weight", n_iter: int = 1) -> ModuleT:
    """Make a layer 1-Lipschitz by construction, at every step: AOL (``n_iter=1``) and spectral rescaling.

    Parameters
    ----------
    module : Conv1d to Conv3d, ConvTranspose1d to ConvTranspose3d, or Linear
    name : str, default "weight"
    n_iter : int, default 1
        Gram products, see `specnorm.spectral_rescaling`.

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
    parametrize.register_parametrization(module, name, SpectralRescaling(geometry, n_iter))
    return module


def certify_(model: nn.Module, bound: float | None = None, *, bake: bool = False) -> list[str]:
    """End the training: bake constraints in, and shrink kernels until their norms are *proven* to be within the bound.

    After it has written, it runs each layer and compares the kernel that it then uses with the proven one.

    Parameters
    ----------
    model : Module
        Changed in place: the parametrisations of `spectral_norm` and `spectral_rescaling` are removed. Left as it was
        if anything is refused.
    bound : float, optional
        None: what has a constraint, each to its own bound. A number: every convolution and linear layer.
    bake : bool, default False
        Remove also other parametrisations and the old-style hooks of ``torch.nn.utils``, see `bake_`. Otherwise a layer
        with one is refused, since it computes its kernel anew before each call.

    Returns
    -------
    list of str
        Names of the layers for which ``specnorm.certify(weight, bound, **geometry_of(layer))`` now is True, at every
        input size, for the kernel as it is stored; and of other tensors that `spectral_norm` constrains, such as
        ``"lstm.weight_hh_l0"``, for which it is True of the matrix.

    Raises
    ------
    MethodError, GeometryError
        If there is nothing to certify, or a layer does not use its ``weight`` as it stands: a forward of its own, a
        weight that is a property, hooks. The message names it.
    Undecided
        If a norm could not be proven within the budget.
    """
    if bound is not None:
        _check_bound(bound)
    plans: list[_Plan] = []
    shrunk: dict[int, Tensor] = {}
    with at_inference(model):
        for prefix, module in model.named_modules():
            for name in _constrained(prefix, module, bound):
                plans.append(_Plan.of(prefix, module, name, bound, bake, shrunk))
    if not plans:
        raise MethodError("no layer has a constraint: apply spectral_norm first, or give a bound for every layer.")
    before = [Saved(module) for module in {id(plan.module): plan.module for plan in plans}.values()]
    try:
        for plan in plans:
            plan.write()
        with at_inference(model):
            for plan in plans:
                plan.check()
    except BaseException:
        for saved in before:
            saved.restore()
        raise
    return [plan.label for plan in plans]


def _constrained(prefix: str, module: nn.Module, bound: float | None) -> list[str]:
    """Names of a module's tensors that are to be certified."""
    if "parametrizations" in prefix.split("."):
        return []
    ours = [
        name
        for name in getattr(module, "parametrizations", {})
        if any(parametrisations(module, name, kind) for kind in (SpectralNorm, SpectralRescaling))
    ]
    if bound is not None and is_layer(module):
        return list(dict.fromkeys(["weight", *ours]))
    return ours


@dataclass
class _Plan:
    """One kernel to be written, which was proven already."""

    label: str
    module: nn.Module
    name: str
    kernel: Tensor
    bound: float
    is_layer: bool
    geometry: dict[str, Any]

    @classmethod
    def of(
        cls, prefix: str, module: nn.Module, name: str, bound: float | None, bake: bool, shrunk: dict[int, Tensor]
    ) -> _Plan:
        """Shrink a kernel; nothing of the module is changed."""
        label = f"{prefix}.{name}" if prefix else name
        norms = parametrisations(module, name, SpectralNorm)
        others = parametrisations(module, name, SpectralRescaling)
        limit = min([x.bound for x in norms] + [1.0 for _ in others]) if bound is None else bound
        layer = is_layer(module) and name == "weight"
        try:
            _check_writable(module, name, bake)
            geometry = geometry_of(module) if layer else {}
            if layer and not computed(module):
                _check_used(module)
            weight = weight_of(module) if layer else getattr(module, name)
        except SpecnormError as error:
            raise type(error)(f"{label}: {error}") from error
        given = weight
        # Two layers may share it: then it is shrunk for both.
        weight = shrunk.get(id(given), weight).detach()
        rows = [x.dim for x in norms if x.dim is not None]
        if rows:
            matrix = specnorm.rescale(weight.movedim(rows[0], 0).flatten(1), limit)
            kernel = matrix.reshape(weight.movedim(rows[0], 0).shape).movedim(0, rows[0])
        else:
            kernel = specnorm.rescale(weight, limit, **geometry)
        if isinstance(given, nn.Parameter):
            shrunk[id(given)] = kernel
        return cls(prefix if layer else label, module, name, kernel, limit, layer, geometry)

    @torch.no_grad()
    def write(self) -> None:
        """Make the tensor a plain parameter, and store the kernel."""
        if self.name in computed(self.module):
            bake_tensor(self.module, self.name)
        getattr(self.module, self.name).copy_(self.kernel)

    def check(self) -> None:
        """Compare the kernel that is used now with the proven one."""
        used = _check_used(self.module) if self.is_layer else getattr(self.module, self.name)
        if torch.equal(used, self.kernel):
            return
        # Of a shared weight, which was shrunk for another layer as well.
        if not (self.is_layer and specnorm.certify(used, self.bound, **self.geometry)):
            raise MethodError(
                f"{self.label}: {name_of(self.module)} does not use the kernel that was written to it. Everything "
                "is as it was."
            )


def _check_writable(module: nn.Module, name: str, bake: bool) -> None:
    """Refuse a tensor that the next forward would compute anew."""
    how = computed(module).get(name)
    if how == "a parametrisation":
        every: Any = module.parametrizations
        if bake or all(isinstance(x, SpectralNorm | SpectralRescaling) for x in every[name]):
            return
        how = "a parametrisation of another kind"
    if how is not None and not bake:
        raise MethodError(
            f"its {name} is computed by {how} before each call, so that it cannot be set: call "
            "specnorm_torch.bake_(model) first, or give bake=True."
        )
    if how is None and module._parameters.get(name) is None:
        raise MethodError(
            f"{name} of {name_of(module)} is no parameter but computed, so that it cannot be set. Put a plain "
            "layer with the kernel that it computes in its place."
        )


def _check_used(module: nn.Module) -> Tensor:
    """The kernel that a layer uses at some input size, which has to be its weight, in its own geometry."""
    seen = map_of(module, (_input_of(module),))
    # At another size, only the size is another: the forward is torch's own.
    own = geometry_of(module, seen.geometry["input_shape"])
    shape = tuple(seen.weight.shape)
    if not torch.equal(seen.weight, weight_of(module)) or ConvSpec.of(shape, **seen.geometry) != ConvSpec.of(
        shape, **own
    ):
        raise MethodError(f"{name_of(module)} does not use its weight as it stands.")
    return seen.weight


def _input_of(module: Any) -> Tensor:
    """Some input of a layer, as small as it can be."""
    if isinstance(module, nn.Linear):
        return weight_of(module).new_zeros(1, module.in_features)
    reach = [d * (k - 1) + 1 for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    # Reflection needs more pixels than it adds.
    return weight_of(module).new_zeros(1, module.in_channels, *(n + 1 for n in reach))


def _check_bound(bound: object) -> None:
    if isinstance(bound, bool) or not isinstance(bound, (int, float)) or not 0 < bound < float("inf"):
        raise KernelError(f"bound={bound!r} is no positive finite number.")
