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
        for words in geometry.values():
            for word in words:
                if word not in _KERNEL_WORDS:
                    raise GeometryError(f"geometry has {word!r}; expected some of {', '.join(_KERNEL_WORDS)}.")
        self.geometry = dict(geometry)
        self.rule = rule

    def __call__(self, path: str, leaf: Any) -> Mapping[str, Any] | None:
        """Return the words of the other rule, and those that are told of this path."""
        words = self.rule(path, leaf)
        return None if words is None else self.added(path, words)

    def added(self, path: str, words: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return ``words`` and those that are told of this path, which count more."""
        for pattern, told in self.geometry.items():
            if fnmatchcase(path, pattern):
                words = {**words, **told}
        return words


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
    """Return the leaves that are kernels, by path, each with the words of its rule and its module."""
    told = rule if isinstance(rule, with_geometry) else with_geometry({}, rule)
    leaves = _leaves(tree)
    of_modules = _words_of_modules(tree, leaves, told.rule)
    found: dict[str, tuple[Any, Mapping[str, Any]]] = {}
    doubtful: dict[str, tuple[int, ...]] = {}
    for name, leaf in leaves:
        if not _may_be_a_kernel(leaf) or not fnmatchcase(name, layers):
            continue
        of_rule = told.rule(name, leaf)
        of_module = of_modules.get(name, _PLAIN)
        if of_rule is None or of_module is None or of_module.get("ndim", leaf.ndim) != leaf.ndim:
            continue
        if _REFUSED in of_module:
            raise GeometryError(f"{name}: {of_module[_REFUSED]} Leave it out by layers, or by a rule of your own.")
        words = {word: x for word, x in of_module.items() if word != "ndim"}
        added = told.added(name, {})
        is_told = bool(words) or "layout" in added or _INPUT_AXES in added
        if told.rule is flax_layout and leaf.ndim > 2 and not is_told:
            doubtful[name] = tuple(leaf.shape)
        found[name] = (leaf, told.added(name, {**of_rule, **words}))
    if doubtful:
        raise GeometryError(_doubt(doubtful))
    if not found:
        first = ", ".join(repr(name) for name, _ in leaves[:4]) or "none"
        raise KernelError(
            f"none of the tree's {len(leaves)} leaves ({first}, ...) is a kernel by the rule "
            f"{getattr(told.rule, '__name__', told.rule)!r} with layers={layers!r}. Give another rule (equinox_layout "
            "for Equinox), or a function of (path, leaf) that returns geometry keywords."
        )
    if layers == "*":
        _require_matches(told.geometry, list(found))
    return found


def _words_of_modules(tree: Any, leaves: list[tuple[str, Any]], rule: Rule) -> dict[str, Mapping[str, Any] | None]:
    """Return what the tree itself says of its leaves, by path, for the rules that are not a user's own.

    Its modules say it, and in trees of Flax names and biases, which count less.
    """
    words: dict[str, Mapping[str, Any] | None] = {}
    if rule is flax_layout:
        shapes = {name: tuple(leaf.shape) for name, leaf in leaves if _may_be_a_kernel(leaf)}
        words |= dict(_dense_layers(shapes))
    if rule in (equinox_layout, flax_layout):
        words |= dict(_modules(tree))
    return words


def _require_matches(patterns: Mapping[str, Any], names: list[str]) -> None:
    """Refuse a pattern that matches no layer."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise GeometryError(f"geometry: {pattern!r} matches no layer. Layers are {', '.join(names) or 'none'}.")


def _as_kernel(leaf: Any, words: Mapping[str, Any]) -> Kernel:
    """Return a leaf as a kernel; that of a dense layer with several axes as a matrix."""
    geometry = {word: x for word, x in words.items() if word != _INPUT_AXES}
    count = words.get(_INPUT_AXES)
    if count is None:
        return Kernel(leaf, geometry)
    if not 0 < count < leaf.ndim:
        raise GeometryError(
            f"input_axes={count!r} of a kernel of shape {tuple(leaf.shape)}: expected 1 to {leaf.ndim - 1}, since the "
            "axes after the input's are the output's."
        )
    inputs = math.prod(leaf.shape[:count])
    return Kernel(jnp.reshape(leaf, (inputs, -1)), {"layout": "IO"})


def _doubt(doubtful: Mapping[str, tuple[int, ...]]) -> str:
    """Say what to do about kernels that may be convolutions' or dense layers', by path with their shapes."""
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
    """Return a leaf's path, joined by slashes."""
    name: str = jax.tree_util.keystr(keys, simple=True, separator="/")
    return name.removesuffix("/value")


def matrices_of(tree: Any, layers: str) -> list[str]:
    """Return the paths of the leaves that may be linear maps: with two axes or more, but no tables of embeddings."""
    names = []
    for name, leaf in _leaves(tree):
        is_matrix = _may_be_a_kernel(leaf) and leaf.ndim > 1 and not name.endswith("embedding")
        if is_matrix and fnmatchcase(name, layers):
            names.append(name)
    return names


def _may_be_a_kernel(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def _dense_layers(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Give the kernels of Flax with 3 to 5 axes that names and biases beside them explain, with words."""
    for name, shape in shapes.items():
        parent, slash, leaf = name.rpartition("/")
        if leaf != "kernel" or not 3 <= len(shape) <= 5:
            continue
        layer = parent.rpartition("/")[2].lower()
        bias = shapes.get(f"{parent}{slash}bias")
        count = _attention_inputs(name, shapes) or _inputs_by_bias(shape, bias)
        if any(word in layer for word in _NEITHER):
            continue
        if count is not None:
            yield name, {_INPUT_AXES: count}
        elif "conv" in layer or bias == shape[-1:]:
            yield name, {"layout": _LAYOUTS[len(shape)]}


def _inputs_by_bias(shape: tuple[int, ...], bias: tuple[int, ...] | None) -> int | None:
    """Return the number of input axes of a dense layer whose bias has several output axes; None: that is not told."""
    if bias is None or not 1 < len(bias) < len(shape) or shape[-len(bias) :] != bias:
        return None
    is_stacked_or_local = shape[0] == bias[0]  # the bias begins with the axes that the kernel begins with
    return None if is_stacked_or_local else len(shape) - len(bias)


def _attention_inputs(name: str, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Return the number of input axes of a projection of Flax's attention; None: it is none.

    Those to the heads have one, that from the heads has two.
    """
    parent, slash, last = name.removesuffix("/kernel").rpartition("/")
    if last not in _PROJECTIONS:
        return None
    query, key, value, out = (shapes.get(f"{parent}{slash}{word}/kernel", ()) for word in _PROJECTIONS)
    have_three_axes = len(query) == len(key) == len(value) == len(out) == 3
    have_the_same_heads = query[1:] == key[1:] == value[1:] == out[:2]
    if not have_three_axes or not have_the_same_heads:
        return None
    return 2 if last == "out" else 1


def _modules(tree: Any) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """Give the paths of weights of Equinox's and Flax NNX's modules, with the modules' words; None: no linear map."""
    for keys, module in jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: _class(x) is not None):
        framework_and_class = _class(module)
        if framework_and_class is None:
            continue
        framework, kind = framework_and_class
        if framework == "equinox":
            leaf = "weight"
            words = _stated_by_equinox(kind, module)
        else:
            leaf = "kernel"
            words = _stated_by_flax(kind, module)
        yield name_of((*keys, jax.tree_util.GetAttrKey(leaf))), words


_MODULES = {
    "equinox": ("equinox.nn", (*_NO_LINEAR_MAP, "Conv", "ConvTranspose", "Linear")),
    "flax": ("flax.nnx", ("Conv", "ConvTranspose", "Linear", "LinearGeneral", "Einsum")),
}
"""Where a framework's layers are, and the classes that are read."""


def _class(x: Any) -> tuple[str, str] | None:
    """Return the framework and the class of a module that is read; None: it is another."""
    for framework, (package, names) in _MODULES.items():
        for cls in type(x).__mro__:
            if cls.__module__.startswith(package) and cls.__name__ in names:
                return framework, cls.__name__
    return None


def _stated_by_equinox(kind: str, module: Any) -> Mapping[str, Any] | None:
    """Return the geometry of a module of Equinox, and the rank of its weight as ``ndim``; None: no linear map."""
    if kind in _NO_LINEAR_MAP:
        return None
    if kind == "Linear":
        return {"ndim": 2}
    ndim = module.num_spatial_dims + 2
    is_stacked = getattr(module.weight, "ndim", None) != ndim  # by vmap: such leaves are left out
    if kind != "Conv" or is_stacked:
        return {"ndim": ndim}  # a transposed layer's kernel is bounded as it is stored, by that of stride 1
    return {"ndim": ndim, **equinox_layer(kind, module).geometry}


def _stated_by_flax(kind: str, module: Any) -> Mapping[str, Any]:
    """Return the words of a module of Flax NNX, or why it is refused."""
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
