"""Optimizers whose step for a layer is `specnorm.lmo` of its momentum: `SpectralBall` and `MuonConv`."""

from __future__ import annotations

import fnmatch
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from specnorm_torch.backend import BACKEND
from specnorm_torch.layers import Select, geometry_of, layers_of, makers_of_tensors, version_of
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from specnorm import certify, rescale
from specnorm._internal import check_bound, check_momentum, check_number, lmo_many, updates_in_ball
from specnorm.errors import MethodError, Undecided
from specnorm_train.torch.constraint import SpectralNorm
from specnorm_train.torch.private import foreach

Rest: TypeAlias = Callable[[list[Any]], Optimizer]
"""Makes the optimizer of the parameters that are no layer's weight, or of groups of them."""
Bounds: TypeAlias = float | Mapping[str, float]
"""A bound, or bounds by patterns of the layers' names, as of `fnmatch`: the first pattern that matches counts."""

_OWN = ("_geometries", "_names", "_rest")
"""Attributes that are copied and pickled with an optimizer; torch's base class leaves all but its own out."""
_GEOMETRY = ("stride", "dilation", "groups", "transposed", "padding_mode", "padding")
"""Keywords of a group of parameters that describe their layers."""


class _Layered(Optimizer):
    """Base of both optimizers: parameter groups, momentum, and directions of stacks of equal layers.

    Parameters
    ----------
    model_or_params : Module, or iterable of Parameter or dict
    lr, momentum, nesterov
        Of the groups.
    bound : float or mapping
        Of the directions, by layer.
    layers : callable, optional
    rest : callable, optional
    defaults : dict
        Further keys of the groups.
    """

    def __init__(
        self,
        model_or_params: nn.Module | Iterable[Any],
        lr: float,
        momentum: float,
        nesterov: bool,
        bound: Bounds,
        layers: Select | None,
        rest: Rest | None,
        **defaults: Any,
    ) -> None:
        check_momentum(momentum, nesterov)
        self._geometries: dict[Tensor, dict[str, Any]] = {}
        self._names: dict[Tensor, str] = {}
        self._layers: list[tuple[weakref.ref[nn.Module], Tensor]] = []
        self._rest: Optimizer | None = None
        if isinstance(model_or_params, nn.Module):
            groups, others = self._groups_of(model_or_params, layers, bound)
        else:
            if layers is not None or isinstance(model_or_params, Iterator):
                raise MethodError(
                    "parameters alone do not tell strides and groups, nor which layer they are of: give the model, "
                    f"{type(self).__name__}(model, lr); or a list of parameters, or of groups with their geometry."
                )
            groups, others = _groups_of_parameters(model_or_params, bound)
        super().__init__(groups, {"lr": lr, "momentum": momentum, "nesterov": nesterov, **defaults})
        if others:
            self._take_rest(_optimizer_of(others, rest))

    def _groups_of(
        self,
        model: nn.Module,
        select: Select | None,
        bound: Bounds,
    ) -> tuple[list[dict[str, Any]], list[nn.Parameter]]:
        """Groups of the weights of a model's layers, one for each bound, and the parameters that are no such weight."""
        by_bound: dict[float, list[nn.Parameter]] = {}
        for name, layer in layers_of(model, select):
            place = f"{name}.weight".removeprefix(".")
            weight = self._weight_of(layer)
            if weight is None:
                raise MethodError(
                    f"{place} is computed by {makers_of_tensors(layer)['weight']}: {type(self).__name__} moves weights "
                    "themselves. Remove it first (torch.nn.utils.parametrize.remove_parametrizations), or leave the "
                    f"layer out (layers=lambda name, layer: name != {name!r})."
                )
            geometry = geometry_of(layer)
            if self._geometries.setdefault(weight, geometry) != geometry:
                raise MethodError(
                    f"{name} shares its weight with {self._names[weight]}, and their geometries differ: one direction "
                    "does not serve both. Leave one out (layers=...)."
                )
            self._layers.append((weakref.ref(layer), weight))
            if weight not in self._names:
                self._names[weight] = place
                by_bound.setdefault(_bound_of(name, bound), []).append(weight)
        if not by_bound:
            raise MethodError(f"{type(model).__name__} has no convolution or linear layer, or none is selected.")
        others = [x for x in model.parameters() if x not in self._names]
        return [{"params": weights, "bound": b} for b, weights in by_bound.items()], others

    def _weight_of(self, layer: nn.Module) -> Any:
        """Return the parameter that is a layer's weight, or None if the weight is computed."""
        return None if "weight" in makers_of_tensors(layer) else layer.weight

    def _take_rest(self, rest: Optimizer) -> None:
        """Take the groups and the state of another optimizer as own ones, for schedulers and ``state_dict``."""
        for group in rest.param_groups:
            group["rest"] = True
            self.param_groups.append(group)
        self._rest = rest
        self._share_with_rest()

    def _share_with_rest(self) -> None:
        rest = getattr(self, "_rest", None)
        if rest is not None:
            rest.param_groups = [group for group in self.param_groups if group.get("rest")]
            rest.state = self.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as of torch's optimizers; keywords of a geometry describe the layers of its parameters."""
        geometry = {word: param_group.pop(word) for word in _GEOMETRY if word in param_group}
        param_group.setdefault("bound", 1.0)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group["bound"] = check_bound(group["bound"])
        for weight in group["params"]:
            self._geometries.setdefault(weight, geometry)
            self._names.setdefault(weight, f"a parameter of shape {tuple(weight.shape)}")
            reason = BACKEND.refusal(weight)
            if reason is not None:
                raise MethodError(f"{self._names[weight]}: {reason}")
            self._take(weight, group["bound"])

    def _take(self, weight: Tensor, bound: float) -> None:
        """Prepare a weight that the optimizer has been given."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, that of the rest included."""
        super().load_state_dict(state_dict)
        self._share_with_rest()

    def __getstate__(self) -> dict[str, Any]:
        own = {name: x for name, x in vars(self).items() if name in _OWN}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share_with_rest()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step, and return the closure's loss.

        Raises
        ------
        MethodError
            If a gradient contains NaN or infinity, or a rate is not from 0 to 1; no weight is changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        own = [group for group in self.param_groups if not group.get("rest")]
        self._refuse_later_shards()
        for group in own:
            self._check_group(group)
        self._check_gradients([x for group in own for x in group["params"] if x.grad is not None])
        for group in own:
            self._before_step(group)
        for group in own:
            weights = [x for x in group["params"] if x.grad is not None]
            if weights:
                geometries = [self._geometries[x] for x in weights]
                self._move(weights, self._directed(weights, group), geometries, group)
        if self._rest is not None:
            self._rest.step()
        return loss

    def _refuse_later_shards(self) -> None:
        """Refuse a model that `fully_shard` has given other parameters, since which these have no gradient."""
        # A copy of the optimizer knows no layers.
        for layer_or_none, weight in getattr(self, "_layers", ()):
            layer = layer_or_none() if weight.grad is None else None
            if layer is not None and isinstance(now := layer._parameters.get("weight"), Tensor) and now is not weight:
                reason = BACKEND.refusal(now)
                if reason is not None:
                    raise MethodError(
                        f"{self._names[weight]} was replaced since the optimizer was made, so that no step would move "
                        f"it: {reason}"
                    )

    def _directed(self, weights: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """Add the gradients to the momenta, and return what directions are computed from."""
        momentum = group["momentum"]
        gradients: Any = [x.grad for x in weights]
        for x in weights:
            if "momentum_buffer" not in self.state[x]:
                self.state[x]["momentum_buffer"] = torch.zeros_like(x, memory_format=torch.preserve_format)
        momenta = [self.state[x]["momentum_buffer"] for x in weights]
        # Tensor.lerp_ would overflow where the largest numbers of a dtype have opposite signs.
        foreach("mul_", momenta, momentum)
        foreach("add_", momenta, gradients, alpha=1 - momentum)
        if not group["nesterov"]:
            return momenta
        mixed = list(foreach("mul", momenta, momentum))
        foreach("add_", mixed, gradients, alpha=1 - momentum)
        return mixed

    def _check_gradients(self, weights: list[Tensor]) -> None:
        """Refuse gradients with NaN or infinity, by the names of their parameters."""
        if not weights or (weights[0].is_cuda and torch.cuda.is_current_stream_capturing()):
            return
        gradients = [x.grad for x in weights if x.grad is not None]
        # Norms of finite gradients may overflow, so that the gradients are looked at then.
        if bool(_stacked(foreach("norm", gradients)).isfinite().all()):
            return
        bad = [self._names[x] for x in weights if x.grad is not None and not bool(torch.isfinite(x.grad).all())]
        if bad:
            raise MethodError(
                f"the gradient of {', '.join(bad)} contains NaN or infinity; no weight was changed. Look where the "
                "training diverged; with float16, step through torch.amp.GradScaler, which skips such steps."
            )

    def _check_group(self, group: dict[str, Any]) -> None:
        """Refuse a group's rate and dtypes, before anything is changed."""

    def _before_step(self, group: dict[str, Any]) -> None:
        """Prepare the weights of a group, those without a gradient too."""

    def _move(
        self, weights: list[Tensor], gradients: list[Tensor], geometries: list[dict[str, Any]], group: dict[str, Any]
    ) -> None:
        """Move weights of a group against gradients."""
        raise NotImplementedError


class _Inside(NamedTuple):
    """A weight that is inside of the ball.

    Parameters
    ----------
    version : int
        By which a change in place is seen.
    bound : float
    entries : Tensor
        Copy of the weight, by which a change through ``.data`` is seen.
    """

    version: int
    bound: float
    entries: Tensor

    def is_of(self, weight: Tensor, bound: float) -> bool:
        """Whether no change of the weight was counted since, and it was within the bound."""
        return self.version == version_of(weight) and self.bound <= bound


class SpectralBall(_Layered):
    """Train convolutions and linear layers with norms at most a bound at every step, without computing a norm.

    A step moves each weight towards a kernel of norm at most the bound: ``K <- (1 - lr) K + lr D``, where D is the
    `specnorm.lmo` of the negative momentum (Frank and Wolfe). The ball of all kernels within the bound is convex, so K
    stays in it. The weights are plain parameters without hooks, so compilation, export, weight averaging (averages
    stay in the ball) and distributed training work unchanged.

    Each step also shrinks K slightly, so that rounding cannot take it out of the ball: by at most 1e-5 for 64 channels
    and 3x3 taps in float32. The bound is proven at every step. `specnorm.certify` proves it too, unless the norm is too
    close to the bound.

    If a weight was changed in another way since the last step, such as by ``load_state_dict`` or through ``.data``, or
    if the group's bound was lowered, the next step first shrinks it by `specnorm.rescale` where necessary. To detect
    changes, the optimizer keeps a copy of the weights. Weights that do not require a gradient are not changed.

    Parameters
    ----------
    model_or_params : Module, or iterable of Parameter or dict
        A model: weights of its layers are in the ball, all other parameters go to ``rest``. Parameters: those with two
        axes or more are kernels of stride 1 (strides and groups do not increase the norm). A dict may have keywords of
        `specnorm.Geometry`; one without kernels goes to ``rest`` with its options. Kernels are shrunk into the ball at
        once by `specnorm.rescale`.
    lr : float
        Fraction of the way to D, from 0 to 1. Use a schedule that ends near 0, and a warm-up for chains of many layers.
    bound : float or mapping of str to float, default 1
        For all layers, or by patterns of their names such as ``{"head*": 4.0, "*": 1.0}``; the first match counts.
    momentum : float, default 0.95
    nesterov : bool, default True
    layers : callable, optional
        ``layers(name, layer)`` returns whether to include a layer of the model; None: all convolutions and linear
        layers.
    rest : callable, optional
        Makes the optimizer of the other parameters from their list; None: ``AdamW`` with its defaults. Its groups
        are among ``param_groups``, so a scheduler changes their rates, too.

    Raises
    ------
    MethodError
        If a layer is constrained or parametrized already, its weight is in half precision, or no pattern matches.
    """

    def __init__(
        self,
        model_or_params: nn.Module | Iterable[Any],
        lr: float,
        *,
        bound: Bounds = 1.0,
        momentum: float = 0.95,
        nesterov: bool = True,
        layers: Select | None = None,
        rest: Rest | None = None,
    ) -> None:
        _check_rate(lr)
        self._inside: dict[Tensor, _Inside] = {}
        super().__init__(model_or_params, lr, momentum, nesterov, bound, layers, rest)

    def _take(self, weight: Tensor, bound: float) -> None:
        self._check_dtype(weight)
        if weight.requires_grad:
            self._put_inside(weight, bound)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # The tensors of a copy count their changes anew.
        self._inside = {}

    def _check_dtype(self, weight: Tensor) -> None:
        if weight.dtype not in (torch.float32, torch.float64):
            raise MethodError(
                f"{self._names[weight]} is {weight.dtype}, whose rounding leaves the ball at every step. Keep weights "
                "in float32, and compute in half precision by torch.autocast."
            )

    def _check_group(self, group: dict[str, Any]) -> None:
        _check_rate(group["lr"])
        for x in group["params"]:
            self._check_dtype(x)

    def _before_step(self, group: dict[str, Any]) -> None:
        """Shrink weights into the ball that somebody else has changed since the last step."""
        weights = [x for x in group["params"] if x.requires_grad]
        for x, is_same in zip(weights, self._are_same(weights, group["bound"]), strict=True):
            if not is_same:
                self._put_inside(x, group["bound"])

    def _are_same(self, weights: list[Tensor], bound: float) -> list[bool]:
        """Whether each weight is as it was left inside of the ball, by its count of changes and its entries."""
        known = [self._inside.get(x) for x in weights]
        same = [y is not None and y.is_of(x, bound) for x, y in zip(weights, known, strict=True)]
        pairs = [(x, y.entries) for x, y, is_same in zip(weights, known, same, strict=True) if y and is_same]
        if not pairs or (weights[0].is_cuda and torch.cuda.is_current_stream_capturing()):
            return same
        # A change through ``.data`` is not counted.
        answers = iter(_are_equal(*map(list, zip(*pairs, strict=True))))
        return [is_same and next(answers) for is_same in same]

    @torch.no_grad()
    def _put_inside(self, weight: Tensor, bound: float) -> None:
        """Shrink a weight into the ball if it is outside."""
        geometry = self._geometries[weight]
        try:
            is_inside = certify(weight, bound, **geometry)
        except Undecided:
            is_inside = False
        if not is_inside:
            weight.copy_(rescale(weight, bound, **geometry))
        self._remember([weight], bound)

    def _remember(self, weights: list[Tensor], bound: float) -> None:
        """Store what the weights are, which are inside of the ball."""
        entries = [self._copy_of(x) for x in weights]
        foreach("copy_", entries, weights)
        for x, copied in zip(weights, entries, strict=True):
            self._inside[x] = _Inside(version_of(x), bound, copied)

    def _copy_of(self, weight: Tensor) -> Tensor:
        """Return the tensor for the copy of a weight: the last one, if it fits."""
        known = self._inside.get(weight)
        if known is not None and (known.entries.device, known.entries.dtype) == (weight.device, weight.dtype):
            return known.entries
        return torch.empty_like(weight)

    def _move(
        self, weights: list[Tensor], gradients: list[Tensor], geometries: list[dict[str, Any]], group: dict[str, Any]
    ) -> None:
        updates = updates_in_ball(weights, gradients, float(group["lr"]), bound=group["bound"], geometries=geometries)
        foreach("add_", weights, updates)
        self._remember(weights, group["bound"])


class MuonConv(_Layered):
    """Muon for convolutions: each step moves a layer by at most ``lr`` in its own norm.

    Muon orthogonalizes the momentum, reshaped to a matrix. With 3x3 taps, such a step of length 1 has a norm of up to 3
    as a convolution, and of nearly 3 on real gradients. Here the step is the `specnorm.lmo` of the negative momentum,
    whose norm as a convolution is at most 1, also for layers with strides or groups and transposed layers. In a layer
    that `spectral_norm` constrains, the step changes the kernel before the division.

    Parameters
    ----------
    model_or_params : Module, or iterable of Parameter or dict
        See `SpectralBall`.
    lr : float
        Length of a step.
    momentum : float, default 0.95
    nesterov : bool, default True
    weight_decay : float, default 0
        Each step multiplies the weights by ``1 - lr weight_decay`` first.
    layers, rest : callable, optional
        See `SpectralBall`.
    """

    def __init__(
        self,
        model_or_params: nn.Module | Iterable[Any],
        lr: float,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        layers: Select | None = None,
        rest: Rest | None = None,
    ) -> None:
        self._check_group({"lr": lr, "weight_decay": weight_decay})
        super().__init__(model_or_params, lr, momentum, nesterov, 1.0, layers, rest, weight_decay=weight_decay)

    def _weight_of(self, layer: nn.Module) -> Any:
        """Return the weight, or what `spectral_norm` alone divides for it."""
        parametrisations: Any = getattr(layer, "parametrizations", {})
        if "weight" in parametrisations and all(isinstance(x, SpectralNorm) for x in parametrisations["weight"]):
            return parametrisations["weight"].original
        return super()._weight_of(layer)

    def _check_group(self, group: dict[str, Any]) -> None:
        for name in ("lr", "weight_decay"):
            number = check_number(name, group[name])
            if not 0 <= number < math.inf:
                raise MethodError(f"{name}={number!r} is not a finite number of at least 0.")

    def _move(
        self, weights: list[Tensor], gradients: list[Tensor], geometries: list[dict[str, Any]], group: dict[str, Any]
    ) -> None:
        rate = float(group["lr"])
        foreach("mul_", weights, 1 - rate * group["weight_decay"])
        foreach("add_", weights, lmo_many(gradients, bound=1.0, geometries=geometries), alpha=-rate)


def _are_equal(some: list[Tensor], others: list[Tensor]) -> list[bool]:
    """Whether tensors have the same entries as others; on a device, the host waits once for all."""
    distances = foreach("norm", foreach("sub", some, others), math.inf)
    answers: list[bool] = (_stacked(distances) == 0).tolist()
    return answers


def _stacked(numbers: Sequence[Tensor]) -> Tensor:
    """0-d tensors, of several devices too, as one tensor."""
    return torch.stack([x.to(numbers[0].device) for x in numbers])


def _check_rate(rate: float | Tensor) -> float:
    """A rate as a number from 0 to 1: with another one, a step would leave the ball."""
    number = check_number("lr", rate)
    if not 0 <= number <= 1:
        raise MethodError(f"lr={number!r} is not from 0 to 1, so a step would leave the ball.")
    return number


def _optimizer_of(others: list[Any], rest: Rest | None) -> Optimizer:
    """The optimizer of the other parameters."""
    make: Any = AdamW if rest is None else rest
    optimizer = make(others) if callable(make) else None
    if not isinstance(optimizer, Optimizer):
        raise MethodError(
            f"rest={rest!r} makes no optimizer: give a function of a list of parameters, such as torch.optim.AdamW."
        )
    return optimizer


def _bound_of(name: str, bound: Bounds) -> float:
    if not isinstance(bound, Mapping):
        return check_bound(bound)
    for pattern, number in bound.items():
        if fnmatch.fnmatchcase(name, pattern):
            return check_bound(number)
    raise MethodError(f'no pattern of bound={dict(bound)} matches the layer {name}: add "*", or leave it out (layers).')


def _groups_of_parameters(params: Iterable[Any], bound: Bounds) -> tuple[list[dict[str, Any]], list[Any]]:
    """Groups of parameters or dicts with two axes or more, and the other parameters.

    A dict without a kernel goes to the rest as it is, with its options; those of others are for their kernels.
    """
    if isinstance(bound, Mapping):
        raise MethodError("bounds by patterns need the names of layers: give the model in place of its parameters.")
    others: list[nn.Parameter] = []
    groups: list[dict[str, Any]] = []
    groups_of_rest: list[dict[str, Any]] = []
    if isinstance(params, (str, Tensor)) or not isinstance(params, Iterable):
        raise MethodError(f"a {type(params).__name__} is no model: give the model, or a list of its parameters.")
    given: list[Any] = list(params)
    plain = [x for x in given if not isinstance(x, dict)]
    for group in [x for x in given if isinstance(x, dict)] + [{"params": plain}] * bool(plain):
        members: Any = [group["params"]] if isinstance(group["params"], Tensor) else group["params"]
        # Named parameters are pairs.
        members = [x[-1] if isinstance(x, tuple) else x for x in members]
        for x in members:
            if not isinstance(x, Tensor):
                raise MethodError(f"a {type(x).__name__} is no parameter: give the model, or a list of its parameters.")
        weights = [x for x in members if x.ndim >= 2]
        if weights:
            groups.append({"bound": bound, **group, "params": weights})
            others += [x for x in members if x.ndim < 2]
        else:
            groups_of_rest.append({**group, "params": members})
    if groups_of_rest and others:
        groups_of_rest.append({"params": others})
    return groups, groups_of_rest or others
