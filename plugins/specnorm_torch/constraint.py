"""Layers kept at a spectral norm while they are trained, and proven to be below it afterwards."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import specnorm
from specnorm.errors import KernelError, MethodError
from specnorm.methods import Method, TensorNorm
from specnorm.methods.base import check_count
from specnorm.spec import at_every_size
from specnorm_torch.modules import geometry_of, layers_of, parametrisations, weight_of

ModuleT = TypeVar("ModuleT", bound=nn.Module)
_TN = TensorNorm()


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
    ) -> None:
        super().__init__()
        self.geometry, self.method = geometry, method
        self.n_power_iterations, self.eps, self.bound, self.only_shrink = n_power_iterations, eps, bound, only_shrink
        state = specnorm.init(weight.detach(), method, **geometry)
        self.state_names = tuple(state)
        for name, x in state.items():
            self.register_buffer(name, x)

    def norm(self, weight: Tensor, *, move: bool) -> Tensor:
        """Take the norm of the kernel where the state stands, or after moving it."""
        state = {name: getattr(self, name) for name in self.state_names}
        sweeps = self.n_power_iterations if move else 0
        value, after = specnorm.step(weight, self.method, state, sweeps=sweeps, **self.geometry)
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
    del dim
    check_count("n_power_iterations", n_power_iterations, least=1)
    _check_bound(bound)
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise KernelError(f"{type(module).__name__} has no tensor {name!r} to constrain.")
    geometry = geometry_of(module)
    constraint = SpectralNorm(weight, geometry, n_power_iterations, eps, float(bound), method, only_shrink)
    parametrize.register_parametrization(module, name, constraint)
    return module


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


@torch.no_grad()
def certify_(model: nn.Module, bound: float | None = None) -> list[str]:
    """End the training: bake constraints in, and shrink kernels until their norms are *proven* to be within the bound.

    Parameters
    ----------
    model : Module
        Changed in place: the parametrisations of `spectral_norm` and `spectral_rescaling` are removed.
    bound : float, optional
        None: the layers that have a constraint, each to its own bound. A number: every convolution and linear layer.

    Returns
    -------
    list of str
        Names of the layers for which ``specnorm.certify(weight, bound, **geometry_of(layer))`` now is True, for the
        kernel as it is stored, at every input size: a circular layer with a stride is shrunk by its bound at stride 1,
        since sizes that the stride does not divide count too.

    Raises
    ------
    MethodError
        If there is nothing to certify.
    Undecided
        If a norm could not be proven within the budget.
    """
    if bound is not None:
        _check_bound(bound)
    done = []
    for name, module in list(layers_of(model)):
        norms = parametrisations(module, "weight", SpectralNorm)
        others = parametrisations(module, "weight", SpectralRescaling)
        limits = [x.bound for x in norms] + [1.0 for _ in others] if bound is None else [bound]
        if not limits:
            continue
        if parametrize.is_parametrized(module, "weight"):
            every: Any = module.parametrizations
            if len(norms) + len(others) < len(every["weight"]):
                raise MethodError(
                    f"{name}.weight has a parametrisation of another kind, which cannot be set: remove it."
                )
        modes = {x: x.training for x in module.modules()}
        # As it is used for inference: baking it in must not move the state.
        module.eval()
        shrunk = specnorm.rescale(weight_of(module), min(limits), **at_every_size(geometry_of(module)))
        if norms or others:
            parametrize.remove_parametrizations(module, "weight")
        for x, mode in modes.items():
            x.training = mode
        weight_of(module).copy_(shrunk)
        done.append(name)
    if not done:
        raise MethodError("no layer has a constraint: apply spectral_norm first, or give a bound for every layer.")
    return done


def _check_bound(bound: object) -> None:
    if isinstance(bound, bool) or not isinstance(bound, (int, float)) or not 0 < bound < float("inf"):
        raise KernelError(f"bound={bound!r} is no positive finite number.")
