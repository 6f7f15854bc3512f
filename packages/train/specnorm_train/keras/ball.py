"""An optimizer of Keras whose kernels stay within a bound at every step, without computing a norm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

import specnorm
from specnorm._internal import check_bound, check_momentum, check_number, updates_in_ball
from specnorm.errors import MethodError
from specnorm_train.keras.kernels import KernelLayer, LayerKind

_KINDS: tuple[tuple[LayerKind, tuple[type, ...]], ...] = (
    ("dense", (keras.layers.Dense,)),
    ("conv", (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)),
    (
        "transposed",
        (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose),
    ),
    ("depthwise", (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)),
)
"""Classes of the layers whose kernels are kept in the ball."""


@keras.saving.register_keras_serializable(package="specnorm")
class SpectralBall(keras.optimizers.Adam):  # type: ignore[misc] # Keras has no types
    """Optimizer whose kernels have norms of at most ``bound`` after every step; other variables are updated by Adam.

    ::

        model.compile(SpectralBall(model, keras.optimizers.schedules.CosineDecay(0.1, 10_000)), loss)

    A step is ``K <- (1 - a) K - a D`` with a the learning rate, and D a kernel of norm at most ``bound`` in the
    direction of the momentum (`specnorm.lmo`). The kernels within the bound are a convex set, which such steps never
    leave. Kernels with a larger norm are rescaled when the optimizer is built, before the first step.

    Parameters
    ----------
    layers : keras.Model, or list
        A built model. The kernels of its trainable dense and convolutional layers, transposed and depthwise ones too,
        are kept in the ball; those of separable, recurrent and attention layers are not. A list, as in
        ``get_config()``, has for each trainable variable of the model the geometry of a kernel, or None.
    learning_rate : float, schedule or callable, default 0.1
        From 0 to 1; the numbers of a schedule are cut off there. Rates from 0.05 to 0.2, after a warm-up and
        decaying to nearly 0, are usual.
    bound : float, default 1
        Positive.
    momentum : float, default 0.95
        Weight of the past gradients in their mean.
    nesterov : bool, default True
        Whether the newest gradient counts once more.
    adam_lr_ratio : float, default 0.01
        Adam's learning rate divided by ``learning_rate``.
    name : str, default "spectral_ball"
    **options
        As of ``keras.optimizers.Adam``, such as ``beta_1``, ``clipnorm``, ``use_ema``.

    Raises
    ------
    KernelError
        If ``bound`` is not positive and finite.
    MethodError
        If ``learning_rate`` is a number below 0 or above 1; if ``layers`` is no model; if a kernel has a constraint
        already; if no layer is found; when it is built, if the variables are not those of the model, or a kernel is in
        half precision.
    """

    def __init__(
        self,
        layers: Any,
        learning_rate: Any = 0.1,
        *,
        bound: float = 1.0,
        momentum: float = 0.95,
        nesterov: bool = True,
        adam_lr_ratio: float = 0.01,
        name: str = "spectral_ball",
        **options: Any,
    ) -> None:
        if isinstance(learning_rate, int | float) and not 0 <= learning_rate <= 1:
            raise MethodError(f"learning_rate={learning_rate!r} is not from 0 to 1, so a step would leave the ball.")
        if not isinstance(layers, list | keras.Model):
            raise MethodError(f"{layers!r} is not a model of Keras: the model comes first, SpectralBall(model, 0.1).")
        super().__init__(learning_rate, name=name, **options)
        check_bound(bound)
        check_momentum(momentum, nesterov)
        check_number("adam_lr_ratio", adam_lr_ratio)
        configs = layers
        if not isinstance(layers, list):
            kernels = dict(_kernels_of(layers))
            configs = [kernels.get(variable.path) for variable in layers.trainable_variables]
        if not any(configs):
            raise MethodError("the model has no trainable dense or convolutional layer. Build it first.")
        self.layers = [config and KernelLayer(**config) for config in configs]
        self.bound = bound
        self.momentum = momentum
        self.nesterov = nesterov
        self.adam_lr_ratio = adam_lr_ratio

    def build(self, variables: list[Any]) -> None:
        """Make the optimizer's variables, and rescale kernels whose norm is not proven to be within the bound."""
        if self.built:
            return
        if len(variables) != len(self.layers):
            raise MethodError(
                f"the model has {len(variables)} trainable variables, and SpectralBall was made for one with "
                f"{len(self.layers)}. Give it this model, after layers were frozen."
            )
        super().build(variables)
        for variable, layer in zip(variables, self.layers, strict=True):
            if layer:
                self._put_inside(variable, layer)

    def _put_inside(self, variable: Any, layer: KernelLayer) -> None:
        if keras.backend.standardize_dtype(variable.dtype) not in ("float32", "float64"):
            raise MethodError(
                f"{variable.path} is {variable.dtype}: keep variables in float32 (policy mixed_bfloat16)."
            )
        kernel, geometry = layer.oriented(keras.ops.stop_gradient(variable.value))
        inside = specnorm.rescale(kernel, self.bound, **geometry)
        if inside is not kernel:
            variable.assign(keras.ops.reshape(inside, variable.shape))

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update a variable by its gradient."""
        index = self._get_variable_index(variable)
        layer = self.layers[index]
        if layer is None:
            super().update_step(gradient, variable, learning_rate * self.adam_lr_ratio)
            return
        ops = keras.ops
        mean = self._momentums[index]
        gradient = ops.cast(gradient, variable.dtype)
        self.assign_add(mean, (gradient - mean) * (1 - self.momentum))
        target = self.momentum * mean + (1 - self.momentum) * gradient if self.nesterov else mean
        oriented_target, geometry = layer.oriented(ops.convert_to_tensor(target))
        kernel, _ = layer.oriented(ops.convert_to_tensor(variable))
        rate = ops.cast(learning_rate, variable.dtype)
        (update,) = updates_in_ball([kernel], [oriented_target], rate, bound=self.bound, geometries=[geometry])
        self.assign_add(variable, ops.reshape(update, variable.shape))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "layers": [layer and layer.config() for layer in self.layers],
            "bound": self.bound,
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            "adam_lr_ratio": self.adam_lr_ratio,
        }


def _kernels_of(model: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path and the geometry of each trainable kernel of a model."""
    trainable = {variable.path for variable in model.trainable_variables}
    # Keras finds sublayers of layers by this function, too.
    for layer in model._flatten_layers():
        kind = next((kind for kind, classes in _KINDS if isinstance(layer, classes)), None)
        if kind is None or not layer.built or layer.kernel.path not in trainable:
            continue
        if layer.kernel.constraint is not None:
            raise MethodError(
                f"{layer.kernel.path} has the constraint {type(layer.kernel.constraint).__name__}, which would move it "
                "after each step. Remove it: SpectralBall keeps its norm."
            )
        words = ("strides", "dilation_rate", "groups")
        known = {word: getattr(layer, word) for word in words if kind != "dense" and hasattr(layer, word)}
        yield layer.kernel.path, {"layer": kind, **known}
