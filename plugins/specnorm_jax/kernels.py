"""Which leaves of a tree of parameters are kernels, and with which geometry.

A *rule* says so: a function of a leaf's path and the leaf, which returns specnorm's geometry keywords, or None for a
leaf that is no kernel. `flax_layout` and `equinox_layout` are rules, `with_geometry` adds to one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from specnorm import Geometry
from specnorm.errors import GeometryError, KernelError
from specnorm_jax.layers import equinox_layer, flax_layer

Rule: TypeAlias = Callable[[str, Any], Mapping[str, Any] | None]
_LAYOUTS = {2: "IO", 3: "WIO", 4: "HWIO", 5: "DHWIO"}
_NO_LINEAR_MAP = ("Embedding", "LayerNorm", "RMSNorm", "GroupNorm", "BatchNorm")
_PLAIN: Mapping[str, Any] = {}
_PROJECTIONS = ("query", "key", "value", "out")
_INPUT_AXES = "input_axes"
"""Word of rules alone: how many of a kernel's first axes are inputs of a dense layer; the others are its outputs."""
_REFUSED = "refused"
"""Why a module's kernel is not that of a linear map that is known."""
_KERNEL_WORDS = (*Geometry.__annotations__, _INPUT_AXES)
_NEITHER = ("convlocal", "einsum")
"""In names of Flax's layers with kernels that are neither convolutions nor one matrix."""


class Kernel(NamedTuple):
    """A leaf that is a kernel, and its geometry: ``specnorm.enclose(kernel.array, **kernel.geometry)``.

    The array of a dense layer with several input or output axes is the leaf as a matrix.
    """

    array: Any
    geometry: Mapping[str, Any]


# -- which leaves are kernels ------------------------------------------------------------------------------------
def flax_layout(path: str, leaf: Any) -> Mapping[str, Any] | None:
    """Rule for Flax (NNX and Linen): leaves named ``kernel`` with 2 to 5 axes, in the layouts ``IO`` to ``DHWIO``.

    Parameters
    ----------
    path : str
        The leaf's path, ``"Conv_0/kernel"``.
    leaf : array

    Returns
    -------
    dict or None
        Stride 1 and one group: also for a strided or grouped convolution the bounds of that are bounds; tell others by
        `with_geometry`. A kernel with 3 to 5 axes may be that of a dense layer with several input or output axes
        (``LinearGeneral``, ``DenseGeneral``): `kernels` looks at the tree around it.
    """
    if path.rpartition("/")[2] != "kernel" or leaf.ndim not in _LAYOUTS:
        return None
    return {"layout": _LAYOUTS[leaf.ndim]}


def equinox_layout(path: str, leaf: Any) -> Mapping[str, Any] | None:
    """Rule for Equinox: leaves named ``weight`` with 2 to 5 axes, in torch's order ``(out, in // groups, ...)``.

    Parameters
    ----------
    path : str
        The leaf's path, ``"layers/0/weight"``.
    leaf : array

    Returns
    -------
    dict or None
        Stride 1 and one group: also for strided, grouped and transposed convolutions the bounds of that are bounds.
        Where the tree holds Equinox's own modules, `kernels` reads their strides, dilations, groups and padding modes,
        and leaves out ``Embedding``, norms and stacked layers.
    """
    if path.rpartition("/")[2] != "weight" or leaf.ndim not in _LAYOUTS:
        return None
    return {}


class with_geometry:
    """Rule that another one's kernels follow, with geometry told by name, as ``audit(..., geometry=)`` takes it.

    ::

        rule = with_geometry({"down/kernel": {"stride": 2}, "*/qkv/kernel": {"input_axes": 1}})
        penalty = SpectralPenalty(rule=rule)

    Parameters
    ----------
    geometry : mapping of str to mapping
        Shell pattern on paths -> some of specnorm's geometry keywords, or ``input_axes``: of a dense layer, how many
        of its kernel's first axes are inputs. The last match counts, key by key.
    rule : callable, default `flax_layout`

    Raises
    ------
    GeometryError
        If a keyword is none; from `kernels`, if a pattern matches no kernel.
    """

    def __init__(self, geometry: Mapping[str, Mapping[str, Any]], rule: Rule = flax_layout) -> None:
        unknown = [key for stated in geometry.values() for key in stated if key not in _KERNEL_WORDS]
        if unknown:
            raise GeometryError(f"geometry has {unknown[0]!r}; expected some of {', '.join(_KERNEL_WORDS)}.")
        self.told, self.rule = dict(geometry), rule

    def __call__(self, path: str, leaf: Any) -> Mapping[str, Any] | None:
        """Geometry of the other rule, and what is told."""
        found = self.rule(path, leaf)
        return None if found is None else self.added(path, found)

    def added(self, path: str, found: Mapping[str, Any]) -> Mapping[str, Any]:
        """``found`` and what is told of this path."""
        for pattern, stated in self.told.items():
            if fnmatchcase(path, pattern):
                found = {**found, **stated}
        return found


def layout_of(model: Any, rule: Rule | None = None) -> Rule:
    """Make a rule of a model whose modules say what their kernels are, for trees of its parameters alone.

    ::

        rule = layout_of(model)  # strides, dilations, groups, and axes of dense layers
        penalty = SpectralPenalty(rule=rule)
        state = penalty.init(nnx.state(model, nnx.Param))

    Parameters
    ----------
    model : Flax NNX or Equinox module
    rule : callable, optional
        For what the modules do not say. None: `equinox_layout` where a leaf is named ``weight``, else `flax_layout`.

    Returns
    -------
    callable
        A rule that knows the paths of this model.

    Raises
    ------
    KernelError
        If the model has no kernel.
    GeometryError
        If neither its modules nor their names say what a kernel is.
    """
    if rule is None:
        named = {name.rpartition("/")[2] for name, _ in _leaves(model)}
        rule = equinox_layout if "weight" in named and "kernel" not in named else flax_layout
    words = {name: words for name, (_, words) in _kernel_words(model, rule, "*").items()}

    def layout_of_model(path: str, _leaf: Any) -> Mapping[str, Any] | None:
        return words.get(path)

    return layout_of_model


def kernels(tree: Any, rule: Rule = flax_layout, *, layers: str = "*") -> dict[str, Kernel]:
    """Find the kernels of a tree of parameters.

    Parameters
    ----------
    tree : pytree
        Parameters of Flax (``nnx.state(model, nnx.Param)``, ``variables["params"]``), a Flax NNX or Equinox model, or
        any other. Leaves that are not real floating arrays are passed over.
    rule : callable, default `flax_layout`
        From (path, leaf) to geometry keywords of specnorm, or None for a leaf that is no kernel. Besides, a rule may
        return ``input_axes``: see `with_geometry`.
    layers : str, default "*"
        Shell pattern that the path must match as well, ``"encoder/*"``; a star matches slashes too.

    Returns
    -------
    dict of str to Kernel
        By path, in the tree's order. Paths are joined by ``/``; the ``value`` at the end of NNX's is left out.

    Raises
    ------
    KernelError
        If no leaf is a kernel.
    GeometryError
        With `flax_layout`, if the tree does not say whether a kernel of 3 to 5 axes is a convolution's or a dense
        layer's. It says so by Flax NNX's own modules, by ``conv`` in the layer's name, by a bias beside the kernel
        (its shape is that of the outputs), or as attention (``query``, ``key``, ``value``, ``out``).

    Notes
    -----
    A bias with one axis leaves open a dense layer with several *input* axes. Its kernel is read as a convolution, whose
    norm is never smaller.
    """
    return {name: _as_kernel(leaf, words) for name, (leaf, words) in _kernel_words(tree, rule, layers).items()}


def _kernel_words(tree: Any, rule: Rule, layers: str) -> dict[str, tuple[Any, Mapping[str, Any]]]:
    """Leaves that are kernels, by path, each with the words of its rule and module."""
    told = rule if isinstance(rule, with_geometry) else with_geometry({}, rule)
    leaves = _leaves(tree)
    stated: dict[str, Mapping[str, Any] | None] = (
        dict(_modules(tree)) if told.rule in (equinox_layout, flax_layout) else {}
    )
    if told.rule is flax_layout:
        shapes = {name: tuple(leaf.shape) for name, leaf in leaves if _may_be_a_kernel(leaf)}
        stated = {**dict(_dense_layers(shapes)), **stated}
    found: dict[str, tuple[Any, Mapping[str, Any]]] = {}
    doubtful: dict[str, tuple[int, ...]] = {}
    for name, leaf in leaves:
        geometry = told.rule(name, leaf) if _may_be_a_kernel(leaf) and fnmatchcase(name, layers) else None
        module = stated.get(name, _PLAIN)
        if geometry is None or module is None or module.get("ndim", leaf.ndim) != leaf.ndim:
            continue
        if _REFUSED in module:
            raise GeometryError(f"{name}: {module[_REFUSED]} Leave it out by layers, or by a rule of your own.")
        words = {word: x for word, x in module.items() if word != "ndim"}
        added = told.added(name, {})
        if told.rule is flax_layout and leaf.ndim > 2 and not (words or "layout" in added or _INPUT_AXES in added):
            doubtful[name] = tuple(leaf.shape)
        found[name] = (leaf, told.added(name, {**geometry, **words}))
    if doubtful:
        raise GeometryError(_doubt(doubtful))
    if not found:
        some = ", ".join(repr(name) for name, _ in leaves[:4]) or "none"
        raise KernelError(
            f"none of the tree's {len(leaves)} leaves ({some}, ...) is a kernel by the rule "
            f"{getattr(told.rule, '__name__', told.rule)!r} with layers={layers!r}. Give another rule (equinox_layout "
            "for Equinox), or a function of (path, leaf) that returns geometry keywords."
        )
    if layers == "*":
        unmatched = [pattern for pattern in told.told if not any(fnmatchcase(name, pattern) for name in found)]
        if unmatched:
            raise GeometryError(
                f"geometry: {unmatched[0]!r} matches no layer. Layers are {', '.join(found) or 'none'}."
            )
    return found


def _as_kernel(leaf: Any, words: Mapping[str, Any]) -> Kernel:
    """The leaf and its geometry; of a dense layer with several axes, the matrix."""
    geometry = {word: x for word, x in words.items() if word != _INPUT_AXES}
    count = words.get(_INPUT_AXES)
    if count is None:
        return Kernel(leaf, geometry)
    if not 0 < count < leaf.ndim:
        raise GeometryError(
            f"input_axes={count!r} of a kernel of shape {tuple(leaf.shape)}: expected 1 to {leaf.ndim - 1}, since the "
            "axes after the input's are the output's."
        )
    return Kernel(jnp.reshape(leaf, (math.prod(leaf.shape[:count]), -1)), {"layout": "IO"})


def _doubt(doubtful: Mapping[str, tuple[int, ...]]) -> str:
    """What to say of kernels that may be convolutions' or dense layers'."""
    name, shape = next(iter(doubtful.items()))
    others = [other for other in doubtful if other != name]
    more = f" So it is of {', '.join(map(repr, others))}." if others else ""
    return (
        f"{name!r} has shape {shape}: the tree does not say whether it is a convolution, or a dense layer with several "
        f"input or output axes (LinearGeneral, DenseGeneral), whose norm may be larger.{more} Give "
        f"rule=with_geometry({{{name!r}: {{'input_axes': 1}}}}) for a dense layer with one input axis, or {{'layout': "
        f"{_LAYOUTS[len(shape)]!r}}} for a convolution; rule=layout_of(model) where there is a Flax NNX model, whose "
        "modules say so; or leave it out by layers."
    )


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    return [(name_of(keys), leaf) for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def name_of(keys: tuple[Any, ...]) -> str:
    """A leaf's path, joined by slashes."""
    name: str = jax.tree_util.keystr(keys, simple=True, separator="/")
    return name.removesuffix("/value")


def matrices_of(tree: Any, layers: str) -> list[str]:
    """Paths of the leaves that may be linear maps: those with two axes or more, but tables of embeddings."""
    return [
        name
        for name, leaf in _leaves(tree)
        if _may_be_a_kernel(leaf) and leaf.ndim > 1 and fnmatchcase(name, layers) and not name.endswith("embedding")
    ]


def _may_be_a_kernel(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def _dense_layers(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Kernels of Flax with 3 to 5 axes of which the tree says what they are: by names and biases beside them."""
    for name, shape in shapes.items():
        if name.rpartition("/")[2] != "kernel" or not 3 <= len(shape) <= 5:
            continue
        parent = name.rpartition("/")[0]
        layer = parent.rpartition("/")[2].lower()
        bias = shapes.get(f"{parent}/bias" if parent else "bias")
        count = _attention_inputs(name, shapes) or _inputs_by_bias(shape, bias)
        if any(word in layer for word in _NEITHER):
            continue
        if count is not None:
            yield name, {_INPUT_AXES: count}
        elif "conv" in layer or bias == shape[-1:]:
            yield name, {"layout": _LAYOUTS[len(shape)]}


def _inputs_by_bias(shape: tuple[int, ...], bias: tuple[int, ...] | None) -> int | None:
    """How many input axes a dense layer has whose bias has its several output axes; None: it does not tell."""
    if bias is None or not 1 < len(bias) < len(shape) or shape[-len(bias) :] != bias:
        return None
    # A bias of stacked or local layers begins with the axes that the kernel begins with.
    return None if shape[0] == bias[0] else len(shape) - len(bias)


def _attention_inputs(name: str, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """How many input axes a projection of Flax's attention has: to heads one, from heads two; None: it is none."""
    start, _, last = name.removesuffix("/kernel").rpartition("/")
    start += "/" if start else ""
    if last not in _PROJECTIONS:
        return None
    query, key, value, out = (shapes.get(f"{start}{word}/kernel", ()) for word in _PROJECTIONS)
    alike = len(query) == len(key) == len(value) == len(out) == 3
    if not alike or not query[1:] == key[1:] == value[1:] == out[:2]:
        return None
    return 2 if last == "out" else 1


def _modules(tree: Any) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """Weights of Equinox's and Flax NNX's modules, with the words that these state; None: no linear map."""
    for keys, module in jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: _class(x) is not None):
        kind = _class(module)
        if kind is not None:
            leaf = "weight" if kind[0] == "equinox" else "kernel"
            read = _stated_by_equinox if kind[0] == "equinox" else _stated_by_flax
            yield name_of((*keys, jax.tree_util.GetAttrKey(leaf))), read(kind[1], module)


_MODULES = {
    "equinox": ("equinox.nn", (*_NO_LINEAR_MAP, "Conv", "ConvTranspose", "Linear")),
    "flax": ("flax.nnx", ("Conv", "ConvTranspose", "Linear", "LinearGeneral", "Einsum")),
}
"""Where a framework's layers are, and the classes that are read."""


def _class(x: Any) -> tuple[str, str] | None:
    """Framework and class of a module that is read."""
    for framework, (place, names) in _MODULES.items():
        for cls in type(x).__mro__:
            if cls.__module__.startswith(place) and cls.__name__ in names:
                return framework, cls.__name__
    return None


def _stated_by_equinox(kind: str, module: Any) -> Mapping[str, Any] | None:
    """Geometry, and the weight's rank."""
    if kind in _NO_LINEAR_MAP:
        return None
    if kind == "Linear":
        return {"ndim": 2}
    ndim = module.num_spatial_dims + 2
    # A transposed layer's kernel is bounded as it is stored: by that of stride 1. Several layers in one are left out.
    known = kind == "Conv" and getattr(module.weight, "ndim", None) == ndim
    return {"ndim": ndim, **(equinox_layer(kind, module).geometry if known else {})}


def _stated_by_flax(kind: str, module: Any) -> Mapping[str, Any]:
    base = next(cls for cls in type(module).__mro__ if cls.__name__ == kind)
    name = type(module).__name__
    if kind == "Einsum" or type(module).__call__ is not base.__call__:
        return {_REFUSED: f"{name} computes by a rule of its own, so that its kernel alone does not tell its norm."}
    if getattr(module, "mask", None) is not None:
        return {_REFUSED: f"{name} has a mask, and uses another kernel than it stores."}
    if kind == "Linear":
        return {"layout": "IO"}
    if kind == "LinearGeneral":
        # Each matrix of a batch is a part of the one whose inputs are the batch's axes, too.
        return {_INPUT_AXES: len(module.batch_axis) + len(module.axis)}
    if kind == "ConvTranspose":
        # As it is stored, its kernel is bounded by that of stride 1.
        return {"layout": _LAYOUTS[len(module.kernel_size) + 2]}
    try:
        return flax_layer(kind, module).geometry
    except GeometryError as error:
        return {_REFUSED: str(error)}
