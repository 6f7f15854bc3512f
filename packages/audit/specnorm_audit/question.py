"""What an audit asks: which layers, at which sizes, how they are measured. It is checked before a file is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

from specnorm import ConvSpec
from specnorm.errors import GeometryError, MethodError
from specnorm.proof import Layout
from specnorm_audit import measuring
from specnorm_audit.geometry import overrides
from specnorm_audit.rows import COLUMNS, SMALLEST_COLUMNS


@dataclass(frozen=True)
class Question:
    """The arguments of `specnorm.audit` besides the model, checked.

    Parameters
    ----------
    settings : Settings
        How each layer is measured.
    sizes : InputSizes
        Sizes of the layers and of the network's inputs.
    layers : list of str or None
        Shell patterns on names; None: every layer.
    input_range : (float, float) or None
    assume_stored : tuple of str
        Shell patterns on names of kernels that are used as they are stored.
    ignore : tuple of str
        Shell patterns on names of arrays that no layer uses.
    max_bytes : int
    certificate : bool
    attention : mapping or None
        What the caller says of attention layers, whose logits are to be bounded; None: they are not.
    """

    settings: measuring.Settings
    sizes: InputSizes
    layers: list[str] | None
    input_range: tuple[float, float] | None
    assume_stored: tuple[str, ...]
    ignore: tuple[str, ...]
    max_bytes: int
    certificate: bool
    attention: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls,
        *,
        input_shape: Any,
        input_range: Any,
        methods: Any,
        smallest: bool,
        layers: Any,
        geometry: Any,
        max_bytes: int,
        certificate: bool,
        assume_stored: Any,
        ignore: Any,
        attention: Any,
        **of_settings: Any,
    ) -> Question:
        """Check the arguments of `specnorm.audit`; ``of_settings`` are those that `Settings` has as they are."""
        sizes = InputSizes.of(input_shape)
        settings = measuring.Settings(
            methods=measuring.checked_names(methods, COLUMNS, SMALLEST_COLUMNS if smallest else ()),
            input_shape=sizes.of_layers,
            geometry=overrides(geometry),
            **of_settings,
        )
        _check(settings)
        patterns = _patterns(layers)
        value_range = measuring.checked_range(input_range)
        for name, value in (("input_range", value_range), ("input_shape by name", sizes.by_name)):
            if value is not None and patterns is not None:
                raise MethodError(f"{name} is about the whole network, and layers chooses a part of it: leave one out.")
        if attention == "auto":
            attention = {}
        if not (attention is None or isinstance(attention, Mapping)):
            raise MethodError(f'attention={attention!r} is neither "auto" nor a mapping of facts, as in config.json.')
        stored, ignored = (tuple(_patterns(words) or ()) for words in (assume_stored, ignore))
        return cls(settings, sizes, patterns, value_range, stored, ignored, max_bytes, certificate, attention)


class InputSizes(NamedTuple):
    """The argument ``input_shape`` of `audit`.

    Parameters
    ----------
    of_layers : int, tuple of int, "file" or None
        Spatial sizes of the convolutions; "file": those that the file states.
    by_name : mapping or None
        Whole shapes of the network's inputs by name; layers are measured at every size then.
    """

    of_layers: Any
    by_name: dict[str, tuple[int, ...]] | None

    @classmethod
    def of(cls, input_shape: Any) -> InputSizes:
        """Tell sizes of layers from shapes by name."""
        if isinstance(input_shape, Mapping):
            return cls(None, {name: tuple(shape) for name, shape in input_shape.items()})
        return cls(tuple(input_shape) if isinstance(input_shape, list | tuple) else input_shape, None)

    @property
    def of_caller(self) -> Any:
        """Spatial sizes that the caller gave as numbers; None if there are none."""
        return None if self.of_layers == "file" else self.of_layers


def _patterns(layers: str | Sequence[str] | None) -> list[str] | None:
    """Return the shell patterns on names as a list; None: every layer."""
    if layers is None:
        return None
    return [layers] if isinstance(layers, str) else list(layers)


def _check(settings: measuring.Settings) -> None:
    """Refuse invalid settings before a file is read."""
    settings.method("enclose")  # raises for an invalid tolerance or budget
    methods_at_size = [name for name in settings.methods if name in measuring.NEEDS_A_SIZE]
    if methods_at_size and settings.input_shape is None:
        names = ", ".join(methods_at_size)
        raise MethodError(f"{names} needs input_shape, the layer's size: give it, or leave the method out.")
    if settings.layout is not None and settings.layout not in get_args(Layout):
        raise GeometryError(f"layout={settings.layout!r} is not one of {', '.join(get_args(Layout))}, or None.")
    if settings.padding_mode is not None:
        ConvSpec.of((1, 1, 1), padding_mode=settings.padding_mode)  # raises for an unknown one
    sizes = settings.input_shape if isinstance(settings.input_shape, tuple) else (settings.input_shape,)
    if settings.input_shape not in (None, "file") and any(type(n) is not int or n < 1 for n in sizes):
        raise GeometryError(f"input_shape={settings.input_shape!r} is not a positive integer, or one per spatial axis.")
    measuring.check_target(settings.backend, settings.device)
