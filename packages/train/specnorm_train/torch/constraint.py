"""Layers kept at a spectral norm while they are trained; `certifying` proves them to be below it afterwards."""

from __future__ import annotations

import json
import math
import warnings
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import numpy as np
import torch
from specnorm_torch import derivatives
from specnorm_torch.arrays import transformed
from specnorm_torch.backend import BACKEND
from specnorm_torch.layers import (
    check_matrix,
    geometry_of,
    is_layer,
    is_lazy,
    is_matrix,
    makers_of_tensors,
    name_of,
    version_of,
)
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.module_tracker import ModuleTracker

import specnorm
from specnorm._internal import check_bound, check_count, check_flag, check_pattern, stepped_program
from specnorm.errors import GeometryError, KernelError, MethodError, SpecnormError
from specnorm.methods import Method, SymbolNorm
from specnorm.plugin import SteppedProgram
from specnorm_train.torch.private import foreach, is_transforming, outside_of_transformations
from specnorm_train.torch.steps import (
    Factors,
    Scaling,
    Step,
    StepInput,
    image_of,
    take_plain_steps,
    take_steps,
    without_gradients,
)

ModuleT = TypeVar("ModuleT", bound=nn.Module)
_SYMBOL_NORM = SymbolNorm()
_EVAL_SWEEPS = 16
"""Number of sweeps for the norm of a weight in eval that training has not moved: an average, or loaded."""
_UNCHANGED = 1e-5
"""A weight counts as the same while its product with the vector changes by less than this part."""
_TRACKER = ModuleTracker()
"""Tells whether a backward pass is running."""


@dataclass
class _Taken:
    """A step of a layer, if there is one.

    The buffers hold the state from which it was computed, and move to that after it before the next step is computed.
    So the same weight and the same buffers have the same norm, also in a run that is resumed.

    Parameters
    ----------
    weight : Tensor, optional
    version : int
        Of the weight, by which a change in place is seen.
    step : Step, optional
    settings : tuple, optional
        The scaling and the number of sweeps of the step.
    moves : list of (Tensor, Tensor), optional
        The buffers that the step moves, with their new entries; None if they were moved, or stay.
    entries : Tensor, optional
        In eval, a copy of the weight, by which a change through ``.data`` is seen, as many averages of weights are
        written.
    is_in_pass : bool, default False
        Whether it is that of a forward pass of a model that has not returned yet.
    """

    weight: Any = None
    version: int = 0
    step: Any = None
    settings: tuple[Scaling, int | None] | None = None
    moves: list[tuple[Tensor, Tensor]] | None = None
    entries: Tensor | None = None
    is_in_pass: bool = False

    def is_of(self, weight: Any) -> bool:
        """Whether the step is that of this tensor, and no change in place was counted since."""
        return self.step is not None and self.weight is weight and self.version == version_of(weight)


class _Parametrization(nn.Module):
    """What both parametrizations have in common."""

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Assigning to the parametrized kernel sets what is scaled."""
        return weight

    def __prepare_scriptable__(self) -> nn.Module:
        """Refuse ``torch.jit.script``, which calls this first."""
        raise MethodError(
            "torch.jit.script cannot compile the computation of a norm. Script the model with plain weights, "
            "torch.jit.script(specnorm_torch.baked(model)), or trace it with torch.jit.trace."
        )


class SpectralNorm(_Parametrization):
    """Parametrization behind `spectral_norm`: the kernel times ``bound / norm``, with a state in buffers.

    Its arguments are those of `spectral_norm`; with ``dim`` the tensor is a matrix with the rows along that axis.
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
        kernel = self.kernel(weight.detach())
        state = specnorm.init_tracking(kernel, method, **geometry)
        self.state_names = tuple(state)
        for name, x in state.items():
            self.register_buffer(name, x)
        # What the vectors in a state dict belong to, if it is not this method; for a warning.
        self.foreign_state: str | None = None
        # The last step in training, and the last one in eval. Training moves the buffers to the state after its last
        # step before it takes another one; eval moves nothing, and training may use its step.
        self._taken, self._settled = _Taken(), _Taken()
        # Whether no step was taken of the state yet, or since it was loaded.
        self._is_new = True
        self._program_of_kernel: tuple[Any, ...] | None = None
        # The list of parametrizations that contains this one, and the parameter. A module in a tuple does not become a
        # submodule.
        self._owner: tuple[Any, ...] = ()

    @property
    def state(self) -> tuple[Tensor, ...]:
        """Buffers that move in training."""
        return tuple(self._buffers[name] for name in self.state_names)  # type: ignore[misc]

    @property
    def scaling(self) -> Scaling:
        """How the weight is scaled."""
        return Scaling(self.bound, self.eps, self.only_shrink)

    def put_into(self, parametrisations: nn.Module) -> None:
        """Store the list of parametrizations that contains this one; `original` reads the parameter from it."""
        self._owner = (parametrisations,)

    @property
    def original(self) -> Tensor | None:
        """The parameter that is scaled; None if it is not known, or another parametrization computes the weight."""
        if not self._owner:
            return None
        (parametrisations,) = self._owner
        # An item of a module list, and an attribute of a module, take microseconds.
        if parametrisations._modules["0"] is not self:
            return None
        original: Tensor | None = parametrisations._parameters.get("original")
        return parametrisations.original if original is None else original

    def kernel(self, weight: Tensor) -> Tensor:
        """Return the kernel whose norm is constrained: the tensor, or the matrix with rows along ``dim``."""
        return weight if self.dim is None else weight.movedim(self.dim, 0).flatten(1)

    def forward(self, weight: Tensor) -> Tensor:
        """Scale the kernel; the state moves in training mode alone."""
        if torch.compiler.is_compiling():
            return self._weight_in_use(weight)
        taken = self._taken
        if taken.is_in_pass and self.training and taken.is_of(weight) and not is_transforming():
            return self._scaled(weight, taken.step)
        if transformed(weight):
            return self._weight_in_use(weight)
        # torch.func.jacrev(model) transforms the inputs alone: the weight is a constant there, as it is for any model.
        with outside_of_transformations():
            return self._weight_in_use(weight)

    def _weight_in_use(self, weight: Tensor) -> Tensor:
        if not self.training and (torch.compiler.is_exporting() or _traces()):
            return self._scaled_for_export(weight)
        if BACKEND.is_compiled_or_transformed(weight) or not self._takes_steps:
            return self._scaled_by_tensor_operations(weight)
        return self._scaled(weight, self._step_in_training(weight) if self.training else self._norm_in_eval(weight))

    def _step_in_training(self, weight: Tensor) -> Step:
        step = self._step_of(weight)
        if step is None:
            given = self.next_input(weight)
            (step,) = take_steps([given], self)
            self.keep(weight, given.scaling, step, is_in_pass=self._taken.is_in_pass)
        return step

    def _scaled(self, weight: Tensor, step: Step) -> Tensor:
        kernel = self.kernel(weight)
        if isinstance(step.gradient, Factors):
            scaled = derivatives.scaled_by_factors(kernel, step.factor, step.slope, *step.gradient)
        else:
            scaled = derivatives.scaled(kernel, step.factor, step.slope, step.gradient)
        if self.dim is None:
            return scaled
        return scaled.reshape(weight.movedim(self.dim, 0).shape).movedim(0, self.dim)

    @property
    def _takes_steps(self) -> bool:
        """Whether the method takes training steps; others evaluate anew each time."""
        return bool(self.state_names) or self._follows

    @property
    def _follows(self) -> bool:
        """Whether the method follows the norm."""
        return isinstance(self.method, SymbolNorm)

    @property
    def _sweeps(self) -> int | None:
        """Number of sweeps in a forward pass; None: as many as are due."""
        return None if self.n_power_iterations == 1 else self.n_power_iterations

    def _step_of(self, weight: Tensor) -> Step | None:
        """Return the last step if it is one of this weight, which has not changed; else one in eval that comes next."""
        if not self._fits(self._taken, weight):
            if self._settled.moves is None or not self._fits(self._settled, weight):
                return None
            self._taken = self._settled
        step: Step = self._taken.step
        return step

    def _fits(self, taken: _Taken, weight: Tensor) -> bool:
        """Whether a step is one of this weight, which has not changed.

        In a backward pass, checkpoints compute forward passes again; a weight has the step there that it had before.
        """
        if not taken.is_of(weight) or taken.settings != (self.scaling, self._sweeps):
            return False
        return taken.is_in_pass or _TRACKER.is_bw or self._has_kept_entries(weight, taken.step)

    def _has_kept_entries(self, weight: Tensor, step: Step) -> bool:
        """Whether a weight with the same version has the same entries: a change through ``.data`` is not counted.

        On another device, reading a number would wait for all that is queued there: each pass takes a step.
        """
        if step.image is None:
            return False
        kernel = self.kernel(weight.detach())
        with np.errstate(invalid="ignore"):
            image = image_of(kernel, self._program_for(kernel), step.gradient.right.numpy())  # type: ignore[union-attr]
            return bool(np.abs(image - step.image).max() <= _UNCHANGED * np.abs(image).max())

    def keep(self, weight: Tensor, scaling: Scaling, step: Step, *, is_in_pass: bool) -> None:
        """Store the step of a weight in training."""
        moves = list(zip(self.state, step.state, strict=True))
        taken = _Taken(weight, version_of(weight), step, (scaling, self._sweeps), moves, is_in_pass=is_in_pass)
        # As `Module.__setattr__` does it, in a tenth of the time.
        object.__setattr__(self, "_taken", taken)
        if step.image is None:
            self._move()
        if not is_in_pass:
            self.end_pass()

    def end_pass(self) -> None:
        """End the pass of a model: a computed weight, which has a graph, and a step on a device are not kept."""
        taken = self._taken
        taken.is_in_pass = False
        is_computed = taken.weight is not None and taken.weight.grad_fn is not None
        if taken.step is not None and (is_computed or taken.step.image is None):
            self._move()
            taken.step = None
        if is_computed:
            taken.weight = None

    def _move(self) -> None:
        """Move the buffers to the state after the last step, once."""
        _copy(self.take_moves())

    def take_moves(self) -> list[tuple[Tensor, Tensor]]:
        """Return the buffers that are to be moved to the state after the last step, each with its new entries, once."""
        taken = self._taken
        moves, taken.moves, self._settled.moves = taken.moves, None, None
        return moves or []

    def _move_if_changed(self) -> None:
        """Move the buffers unless the weight is still that of the last step, whose norm they lead to again."""
        weight = self.original
        if self._taken.moves and (weight is None or not self._fits(self._taken, weight)):
            self._move()

    def next_input(self, weight: Tensor) -> StepInput:
        """Return what the next step in training is computed from."""
        self._move()
        kernel = self.kernel(weight.detach())
        sweeps = self._sweeps
        if self._is_new:
            sweeps = _EVAL_SWEEPS if kernel.is_cuda and self._follows else sweeps
            self._is_new = False
        return StepInput(self._program_for(kernel), self.scaling, sweeps, kernel, self.state)

    def begin_pass(self) -> Tensor | None:
        """Return the weight if a model that is called now takes its step, else None; a step that it has is used."""
        weight = self.original
        if not self.training or not self._takes_steps or weight is None:
            return None
        # The weight of the last step has values.
        has_values = self._taken.weight is weight and not is_transforming()
        if not has_values and BACKEND.is_compiled_or_transformed(weight, *self.state):
            return None
        if self._step_of(weight) is None:
            return weight
        self._taken.is_in_pass = True
        return None

    def _scaled_by_tensor_operations(self, weight: Tensor) -> Tensor:
        """Scale by tensor operations that autograd, compilers and transformations follow.

        Also used for methods without a state, in eager mode too.
        """
        kernel = self.kernel(weight)
        if self.state_names:
            plan = self._program(kernel)
            value, after = BACKEND.step(plan, kernel, self.state, self._sweeps if self.training else _EVAL_SWEEPS)
            if self.training:
                self._move_to(after)
        else:
            value, _ = specnorm.track(kernel, self.method, {}, **self.geometry)
        factor: Tensor = self.scaling.factor(value)[0]
        return weight * factor.to(weight.dtype)

    def _program(self, kernel: Tensor) -> SteppedProgram:
        return stepped_program(self.method, tuple(kernel.shape), str(kernel.dtype), tuple(self.geometry.items()))

    def _scaled_for_export(self, weight: Tensor) -> Tensor:
        """Scale by a constant, so that the exported graph has the weight of eval without the iteration for its norm."""
        if _traces():
            self._norm_in_eval(weight)
        elif self.original is None:
            raise MethodError(
                "a constrained weight that another parametrization computes is not exported. Export "
                "specnorm_torch.baked(model)."
            )
        elif not self._settled.is_of(self._settled.weight):
            # Compare the stored weight with the parameter, since exporters replace ``weight`` by another tensor.
            raise MethodError(
                "the constrained weight is not known yet: the model was loaded or changed since it was put in eval(). "
                "Call model.eval() again, or run the model once on an input, then export it."
            )
        return weight * float(self._settled.step.factor)

    def _program_for(self, kernel: Tensor) -> SteppedProgram:
        """Return `_program`, looked up once for each shape and dtype."""
        stored = self._program_of_kernel
        if stored is None or stored[0] != kernel.shape or stored[1] != kernel.dtype:
            stored = self._program_of_kernel = kernel.shape, kernel.dtype, self._program(kernel)
        program: SteppedProgram = stored[2]
        return program

    @torch.no_grad()
    def _norm_in_eval(self, weight: Tensor) -> Step:
        """Return the norm of a weight, which is stored until it changes. The vectors in the buffers do not change.

        A weight in whose place training took its last step has the norm that training follows. The vectors need not fit
        one that was loaded, averaged or replaced: it gets `_EVAL_SWEEPS` sweeps from them.
        """
        settled = self._settled
        if not (settled.is_of(weight) and settled.entries is not None and torch.equal(settled.entries, weight)):
            is_trained = self._taken.weight is weight and not self._is_new
            sweeps = self._sweeps if is_trained else _EVAL_SWEEPS
            step, moves = self._taken.step, None
            if not (is_trained and self._fits(self._taken, weight)):
                kernel = self.kernel(weight.detach())
                given = StepInput(self._program_for(kernel), self.scaling, sweeps, kernel, self.state)
                with without_gradients():
                    (step,) = take_plain_steps([given])
                if not self._taken.moves:
                    # The next step in training, if the weight is the same then.
                    moves = list(zip(self.state, step.state, strict=True))
            settings = self.scaling, sweeps
            settled = _Taken(weight, version_of(weight), step, settings, moves, entries=weight.detach().clone())
            self._settled = settled
        found: Step = settled.step
        return found

    def train(self, mode: bool = True) -> SpectralNorm:
        """Change the mode; for eval, forget the last step and compute the norm of the weight, which exporters need."""
        super().train(mode)
        if not mode:
            self._move_if_changed()
        weight = self.original
        if mode or not self._takes_steps or weight is None or weight.is_meta:
            return self
        if not BACKEND.is_compiled_or_transformed(weight):
            self._norm_in_eval(weight)
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> SpectralNorm:
        """Move to a device or dtype, and forget norms and steps of the weight before."""
        self._move_if_changed()
        self._taken, self._settled = _Taken(), _Taken()

        def in_rows(x: Tensor) -> Tensor:
            # Buffers are no images: `model.to(memory_format=torch.channels_last)` refuses those of five axes.
            moved: Tensor = fn(x.reshape(-1))
            return moved.reshape(x.shape)

        super()._apply(in_rows, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Read a state; one of another method, torch's own, zeros and NaN begin anew."""
        self._taken, self._settled = _Taken(), _Taken()
        self._is_new = True
        if f"{prefix}_extra_state" not in state_dict:
            state_dict[f"{prefix}_extra_state"] = self.get_extra_state()
        vectors_of_torch = [state_dict.pop(f"{prefix}_{name}", None) for name in "uv"]
        own: dict[str, Any] = dict(self._buffers)
        stored = {name: state_dict.get(f"{prefix}{name}") for name in own}
        is_of_torch = vectors_of_torch[0] is not None
        if is_of_torch or any(x is not None and x.shape != own[name].shape for name, x in stored.items()):
            self.foreign_state = "torch's spectral_norm" if is_of_torch else "another method"
            state_dict |= {f"{prefix}{name}": x for name, x in own.items()}
            state_dict[f"{prefix}_extra_state"] = self.get_extra_state()
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self._move_if_changed()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def get_extra_state(self) -> Tensor:
        """Return the settings as JSON in bytes, so that a file alone determines the weight that eval uses."""
        settings = {
            **self.scaling._asdict(), "dim": self.dim,
            "geometry": self.geometry, "method": {"name": self.method.name, **asdict(self.method)},
            "sweeps": _EVAL_SWEEPS,
        }  # fmt: skip
        return torch.frombuffer(bytearray(json.dumps(settings, allow_nan=False).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Leave the settings: those in a file are for readers that have no module."""

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes without cached values, which a copy computes again."""
        self._move_if_changed()
        return {**self.__dict__, "_settled": _Taken(), "_taken": _Taken(), "_program_of_kernel": None}

    @torch.no_grad()
    def _move_to(self, after: Iterable[Tensor]) -> None:
        for old, new in zip(self.state, after, strict=True):
            if torch.compiler.is_compiling() or transformed(old) or not transformed(new):
                old.copy_(new)
                continue
            # Transformations refuse to change what they do not transform: here the state, of a weight that they do.
            values = torch.func.debug_unwrap(new)
            if values.shape != old.shape:
                raise MethodError(
                    "vmap gives the model several weights, and in train() it has the state of one: give a state for "
                    "each (torch.func.stack_module_state returns weights and buffers), or call model.eval()."
                )
            with outside_of_transformations():
                old.copy_(values)

    def extra_repr(self) -> str:
        """Bound, method, and what the norm is taken of if it is no layer's."""
        matrix = "" if self.dim is None else f", of the tensor as a matrix with rows along axis {self.dim}"
        return f"bound={self.bound}, method={self.method}{matrix}"


def _copy(moves: list[tuple[Tensor, Tensor]]) -> None:
    """Copy tensors into buffers, in one call."""
    if moves:
        with without_gradients():
            foreach("copy_", [old for old, _ in moves], [new for _, new in moves])


def _constraints_of(model: nn.Module) -> list[SpectralNorm]:
    """Return the constraints among a model's modules, which `Module.modules` takes three times as long to find."""
    modules, waiting = {model: None}, [model]
    while waiting:
        for x in waiting.pop()._modules.values():
            if x is not None and x not in modules:
                modules[x] = None
                waiting.append(x)
    return [x for x in modules if isinstance(x, SpectralNorm)]


def _traces() -> bool:
    """Whether `torch.jit.trace` is running."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def spectral_norm(
    module: ModuleT,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
    *,
    bound: float = 1.0,
    method: Method = _SYMBOL_NORM,
    only_shrink: bool = False,
    layers: str = "*",
) -> ModuleT:
    """Keep the spectral norm of a layer, or of each layer of a model, at ``bound`` during training.

    A drop-in replacement for `torch.nn.utils.parametrizations.spectral_norm`, removed in the same way
    (`torch.nn.utils.parametrize.remove_parametrizations`, or `bake_` for a whole model). It sets the norm of the
    *convolution*, not of the reshaped kernel: stride, dilation, groups and padding mode are read from the layer. The
    norm is tracked by one step of ``method`` in each forward pass of a weight that has changed. `SymbolNorm` tracks the
    maxima that it knows, and searches for others when the weight has changed enough. For how close the norms come to
    the bound, see docs/benchmarks/index.md. After training, `rescale_` proves that they are within the bound.

    Parameters
    ----------
    module : Module
        Conv1d to Conv3d, ConvTranspose1d to ConvTranspose3d or Linear; another module with a matrix ``name``; or a
        model, of which every such layer is constrained, and the matrices of Embedding, EmbeddingBag and Bilinear. The
        weight of ``Bilinear`` counts as a matrix with one row for each output.
    name : str, default "weight"
    n_power_iterations : int, default 1
        Steps in each forward pass in ``train()``. With `SymbolNorm`, 1 stands for a pass over the known maxima, with a
        search for others when one is due; a larger number stands for that many searches in each pass. In ``eval()`` the
        state does not change; a weight that was not moved by training takes 16 searches from the stored vectors, once.
    eps : float, default 1e-12
        A kernel whose norm is at most ``eps`` is left unchanged.
    dim : int, optional
        Axis of the rows of a plain matrix. It is not needed for a layer.
    bound : float, default 1
        The target norm.
    method : Method, default SymbolNorm()
        `SymbolNorm` tracks the norm itself, from below. The values of `Gram` are upper bounds at every step.
        `TensorNorm` tracks a number that is at least the norm, but from below, so its values are not bounds during
        training.
    only_shrink : bool, default False
        Scale only kernels whose norm is above the bound.
    layers : str, default "*"
        Pattern of the names of a model's layers that are constrained. A warning names the other modules with weights.

    Returns
    -------
    Module
        The same module, with parametrizations. Their state is in buffers.

    Raises
    ------
    MethodError, GeometryError, KernelError
        If a layer, the method or a number cannot be used, or a weight already has a spectral norm. Nothing is changed
        then. `Power` cannot be used, since it needs an input size.

    References
    ----------
    .. [1] Miyato, Kataoka, Koyama, Yoshida, "Spectral Normalization for Generative Adversarial Networks", ICLR 2018.
       Here the norm is that of the convolution, tracked at all frequencies at once, instead of the reshaped kernel's.
    """
    check_count("n_power_iterations", n_power_iterations, least=1)
    check_bound(bound)
    if not isinstance(module, nn.Module):
        raise KernelError(f"{type(module).__name__} is not a torch module: give a layer or a model.")
    _check_name(name)
    _check_arguments(layers, eps, only_shrink)
    settings = (n_power_iterations, eps, float(bound), method, only_shrink)
    # A parametrized tensor is not read: that would move a state.
    has_tensor = parametrize.is_parametrized(module, name) or isinstance(getattr(module, name, None), Tensor)
    if has_tensor or is_layer(module):
        constrained = [_Constrained("", module, name, dim)]
    else:
        constrained = [_Constrained(place, layer, name, dim) for place, layer in _layers_to_constrain(module, layers)]
        if not constrained:
            names = [place for place, _ in _layers_to_constrain(module, "*")]
            shown = ", ".join(names[:5]) + ", ..." * (len(names) > 5)
            named = f" named like {layers!r}; its layers are {shown}" if names else ""
            raise KernelError(
                f"{name_of(module)} has no tensor {name!r} to constrain, and no convolution, linear layer, embedding "
                f"or bilinear layer{named}. Give the whole model, spectral_norm(model): model.apply(spectral_norm) "
                "would call it for each module."
            )
    # All are checked before one is changed.
    made = [(x, x.constraint(*settings)) for x in constrained]
    if not has_tensor:
        _warn_of_the_rest(module, [x.module for x in constrained])
    for x, constraint in made:
        # torch's checks would take a step, whose shape and dtype are known.
        parametrize.register_parametrization(x.module, name, constraint, unsafe=True)
        owners: Any = x.module.parametrizations
        constraint.put_into(owners[name])
        x.module.register_load_state_dict_pre_hook(_read_names_of_hooks)  # type: ignore[no-untyped-call]
    if not has_tensor:
        _take_steps_with(module)
    module.register_load_state_dict_post_hook(_warn_of_foreign_states)  # type: ignore[no-untyped-call]
    return module


def _check_arguments(layers: object, eps: object, only_shrink: object) -> None:
    """Refuse anything but a pattern of layers' names, a tolerance, and True or False."""
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 <= eps < math.inf:
        raise MethodError(f"eps={eps!r} is not a finite number of at least 0.")
    check_pattern("layers", layers)
    check_flag("only_shrink", only_shrink)


def _check_name(name: object) -> None:
    """Refuse a number in place of a tensor's name."""
    if not isinstance(name, str):
        advice = f"a number: give bound={name!r}" if isinstance(name, int | float) else "no name of a tensor"
        raise MethodError(f"name={name!r} is {advice}.")


def _take_steps_with(model: nn.Module) -> None:
    """Let a model take one step for all of its constrained layers in each of its forward passes."""
    if _begin_pass not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_begin_pass)
        model.register_forward_hook(_end_pass, always_call=True)


def _begin_pass(model: nn.Module, _inputs: Any) -> None:
    """Take a step of each constraint in training. A layer that is left out here takes its step when it is used."""
    # The replicas of `DataParallel` share the hooks and constraints of the model, and have weights of their own.
    is_replica = getattr(model, "_is_replica", False)
    if not model.training or is_replica or torch.compiler.is_compiling() or _traces():
        return
    _refuse_shards(model)
    # After a KeyboardInterrupt, torch calls no hook that would have ended the last pass.
    _end_pass(model)
    _PASSES[model] = constraints = _constraints_of(model)
    with outside_of_transformations():
        waiting = [(x, weight) for x in constraints if (weight := x.begin_pass()) is not None]
        if waiting:
            # All buffers in one call.
            _copy([move for x, _ in waiting for move in x.take_moves()])
            inputs = [x.next_input(weight) for x, weight in waiting]
            for (x, weight), given, step in zip(waiting, inputs, take_steps(inputs, model), strict=True):
                x.keep(weight, given.scaling, step, is_in_pass=True)


def _refuse_shards(model: nn.Module) -> None:
    """Refuse a model that FSDP2 has sharded, which cannot free the weights that a step has read as NumPy's arrays."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    if any(hasattr(type(x), "set_requires_gradient_sync") for x in model.modules()):
        raise MethodError(
            "the model is sharded by FSDP2 (fully_shard), and its spectral norms need whole weights. Train it with "
            "DistributedDataParallel, or shard only parts of it that have no constraint."
        )


def _end_pass(model: nn.Module, *_: Any) -> None:
    if torch.compiler.is_compiling():
        return
    for x in _PASSES.pop(model, ()):
        x.end_pass()


_PASSES: weakref.WeakKeyDictionary[nn.Module, list[SpectralNorm]] = weakref.WeakKeyDictionary()
"""The constraints that have a step in the present forward pass of each model."""


def _read_names_of_hooks(layer: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let a layer load the tensors of torch's older hook, ``weight_orig``, ``weight_u`` and ``weight_v``."""
    parametrised: Any = getattr(layer, "parametrizations", {})
    for name in parametrised:
        place = f"{prefix}parametrizations.{name}."
        for old, new in (("orig", "original"), ("u", "0._u"), ("v", "0._v")):
            if f"{prefix}{name}_{old}" in state_dict:
                state_dict[f"{place}{new}"] = state_dict.pop(f"{prefix}{name}_{old}")


def _warn_of_foreign_states(model: nn.Module, _incompatible: Any) -> None:
    """Say once for a model that the vectors of a state dict were those of another method."""
    constraints = [x for x in model.modules() if isinstance(x, SpectralNorm) and x.foreign_state is not None]
    if constraints:
        warnings.warn(
            f"the state is that of {constraints[0].foreign_state}: weights are loaded, the vectors of "
            f"{constraints[0].method} start anew.",
            stacklevel=4,
        )
    for x in constraints:
        x.foreign_state = None


@dataclass(frozen=True, eq=False)
class _Constrained:
    """A tensor that is to be constrained."""

    place: str
    module: nn.Module
    name: str
    dim: int | None

    @property
    def words(self) -> str:
        """The tensor, as it is called in messages."""
        return f"{self.place or name_of(self.module)}.{self.name}"

    def constraint(
        self,
        n_power_iterations: int,
        eps: float,
        bound: float,
        method: Method,
        only_shrink: bool,
    ) -> SpectralNorm:
        """Make the parametrization."""
        if _has_spectral_norm(self.module, self.name):
            raise MethodError(
                f"{self.words} has a spectral norm already. Remove it first: specnorm_torch.bake_(model) keeps the "
                "weights in use."
            )
        hook = makers_of_tensors(self.module).get(self.name)
        if hook is not None and not parametrize.is_parametrized(self.module, self.name):
            raise MethodError(
                f"{self.words} is computed by {hook} before each call, so that it cannot be constrained. Remove that "
                "first: specnorm_torch.bake_(model) keeps the weights in use."
            )
        weight = getattr(self.module, self.name, None)
        if not isinstance(weight, Tensor):
            raise KernelError(f"{self.words} is not a tensor to constrain.")
        is_axis = isinstance(self.dim, int) and -weight.ndim <= self.dim < weight.ndim
        if self.dim is not None and not is_axis:
            raise GeometryError(
                f"dim={self.dim!r} is not an axis of {self.words}, of shape {tuple(weight.shape)}: give a whole number "
                f"from {-weight.ndim} to {weight.ndim - 1}."
            )
        if is_lazy(weight) or weight.is_meta:
            raise GeometryError(
                f"{self.words} has no values yet: run the module once if it is lazy, load its values if it is on the "
                "device 'meta'."
            )
        rows = _rows(self.module, self.name, weight, self.dim)
        geometry = geometry_of(self.module) if rows is None else {}
        return SpectralNorm(weight, geometry, n_power_iterations, eps, bound, method, only_shrink, rows)


def _has_spectral_norm(module: nn.Module, name: str) -> bool:
    """Whether a tensor is divided by its norm already, by this parametrization or one of torch's."""
    if "spectral_norm" in makers_of_tensors(module).get(name, ""):
        return True
    if not parametrize.is_parametrized(module, name):
        return False
    parameters: Any = module.parametrizations
    return any("SpectralNorm" in type(x).__name__ for x in parameters[name])


def _layers_to_constrain(model: nn.Module, pattern: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield a model's layers with their names, if the pattern has the name and the attributes tell the geometry."""
    for place, layer in model.named_modules():
        if "parametrizations" in place.split(".") or not fnmatchcase(place, pattern):
            continue
        if (is_matrix(layer) or is_layer(layer)) and _refusal(layer) is None:
            yield place, layer


def _refusal(layer: nn.Module) -> str | None:
    """Return the reason why the kernel or the geometry of a layer cannot be read, or None."""
    read = check_matrix if is_matrix(layer) else geometry_of
    try:
        read(layer)
    except SpecnormError as error:
        return str(error)
    return None


def _warn_of_the_rest(model: nn.Module, constrained: list[nn.Module]) -> None:
    """Name the modules whose weights stay as they are: other layers, recurrent and attention modules."""
    done = {id(x) for x in constrained}
    rest = [
        place or name_of(module)
        for place, module in model.named_modules()
        if id(module) not in done
        and "parametrizations" not in place.split(".")
        and any(x.ndim > 1 for x in module.parameters(recurse=False))
    ]
    if rest:
        more = f" and {len(rest) - 5} more" * (len(rest) > 5)
        warnings.warn(
            f"spectral_norm leaves the weights of {', '.join(rest[:5])}{more} as they are, since their layers are "
            "unknown or not selected. They still count in the model's Lipschitz constant.",
            stacklevel=3,
        )


def _rows(module: nn.Module, name: str, weight: Tensor, dim: int | None) -> int | None:
    """Return the axis of a plain matrix's rows; None for a layer's kernel, and for tensors that are no matrix."""
    if is_layer(module) and name == "weight":
        return None
    if weight.ndim == 2 or (isinstance(module, nn.Bilinear) and name == "weight"):
        return 0 if dim is None else dim
    if is_layer(module):
        raise GeometryError(f"{name_of(module)}.{name} is not the layer's kernel, and no matrix: it has no norm here.")
    return None


class GramRescaling(_Parametrization):
    """Parametrization behind `gram_rescaling`."""

    def __init__(self, geometry: dict[str, Any]) -> None:
        super().__init__()
        self.geometry = geometry

    def forward(self, weight: Tensor) -> Tensor:
        """Divide each channel by its divisor, see `specnorm.gram_rescaling`."""
        return specnorm.gram_rescaling(weight, **self.geometry)


def gram_rescaling(module: ModuleT, name: str = "weight") -> ModuleT:
    """Make a layer 1-Lipschitz by construction, at every step (AOL): see `specnorm.gram_rescaling`.

    Parameters
    ----------
    module : Conv1d to Conv3d, ConvTranspose1d to ConvTranspose3d, or Linear
    name : str, default "weight"

    Returns
    -------
    Module
        The same module, with a parametrization that has no state.

    Raises
    ------
    GeometryError
        For other modules, and for reflect and replicate padding.
    KernelError
        If the module has no tensor of that name.
    """
    geometry = geometry_of(module)
    _check_name(name)
    # A parametrized tensor is not read: that would move a state.
    if not (parametrize.is_parametrized(module, name) or isinstance(getattr(module, name, None), Tensor)):
        names = ", ".join(own for own, _ in module.named_parameters(recurse=False))
        raise KernelError(f"{name_of(module)} has no tensor {name!r} to rescale; its tensors are {names or 'none'}.")
    parametrize.register_parametrization(module, name, GramRescaling(geometry))
    return module
