"""Decide which leaves of a tree of parameters are kernels, and with which geometry.

That is done by a *rule*: a function of a leaf's path and the leaf, which returns geometry keywords, or None
for a leaf that is not a kernel. `flax_layout` and `equinox_layout` are rules, `with_geometry` extends a rule.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from specnorm_jax.layers import LAYOUTS, equinox_layer, flax_layer

from specnorm import Geometry
from specnorm._internal import check_function, check_pattern
from specnorm.errors import GeometryError, KernelError

Tree = TypeVar("Tree")
Rule: TypeAlias = Callable[[str, Any], Mapping[str, Any] | None]
_NO_LINEAR_MAP = ("Embedding", "LayerNorm", "RMSNorm", "GroupNorm", "BatchNorm")
"""Classes of Equinox whose weight is not a linear map of the input."""
_NO_KEYWORDS: Mapping[str, Any] = {}
_PROJECTIONS = ("query", "key", "value", "out")
"""Names of the dense layers of Flax's attention."""
_INPUT_AXES = "input_axes"
"""A keyword of rules alone: the number of a kernel's first axes that are inputs of a dense layer. The other axes are
outputs."""
_STACK_AXES = "stack_axes"
"""A keyword of rules alone: the number of a leaf's first axes over which it is a stack, with a kernel at each index."""
_REFUSED = "refused"
"""A keyword of `_keywords_of_modules` alone: the reason why the norm of a module does not follow from its kernel."""
_AXES = "ndim"
"""A keyword of `_keywords_of_modules` alone: the number of axes of a kernel that is not stacked by `vmap`."""
_RULE_KEYWORDS = (*Geometry.__annotations__, _INPUT_AXES, _STACK_AXES)
"""The keywords that a rule may return."""
_NO_CONVOLUTION_OR_MATRIX = ("convlocal", "einsum")
"""Parts of the names of Flax's layers whose kernels are neither convolutions nor a single matrix."""


class Kernel(NamedTuple):
    """A kernel of a tree and its geometry, for calls such as ``specnorm.enclose(kernel.array, **kernel.geometry)``.

    For a dense layer with several input or output axes, the array is the leaf reshaped to a matrix.
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
        A geometry with stride 1 and one group, whose upper bounds also hold for a strided or grouped convolution.
        `with_geometry` sets strides, groups and other keywords. A kernel with 3 to 5 axes may also belong to a dense
        layer with several input or output axes (``LinearGeneral``, ``DenseGeneral``); `kernels` decides that by the
        tree around it.
    """
    if path.rpartition("/")[2] != "kernel" or leaf.ndim not in LAYOUTS:
        return None
    return {"layout": LAYOUTS[leaf.ndim]}


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
        A geometry with stride 1 and one group, whose upper bounds also hold for strided, grouped and transposed
        convolutions. If the tree contains Equinox's own modules, `kernels` reads their strides, dilations, groups and
        padding modes, and leaves out ``Embedding``, normalizations and stacked layers.
    """
    if path.rpartition("/")[2] != "weight" or leaf.ndim not in LAYOUTS:
        return None
    return {}


class with_geometry:
    """A rule with the kernels of another rule, and with geometry by path, in the form of ``audit(..., geometry=)``.

    Parameters that ``nn.scan`` or ``nn.vmap`` stacks on their first axis are kernels with ``stack_axes`` 1.

    ::

        rule = with_geometry({"down/kernel": {"stride": 2}, "*/qkv/kernel": {"input_axes": 1}})
        penalty = SpectralPenalty(rule=rule)

    Parameters
    ----------
    geometry : mapping of str to mapping
        From shell patterns for paths to geometry keywords, or one of two more. ``input_axes``: for a dense layer, the
        number of its kernel's first axes that are inputs. ``stack_axes``: the number of a leaf's first axes over which
        it is a stack of kernels; the other keywords are about one of these. If several patterns match, the last one
        with a keyword sets it.
    rule : callable, default `flax_layout`

    Raises
    ------
    GeometryError
        For an unknown keyword; from `kernels`, if a pattern matches no kernel.
    """

    def __init__(self, geometry: Mapping[str, Mapping[str, Any]], rule: Rule = flax_layout) -> None:
        check_function("rule", rule, "flax_layout, equinox_layout, or a function of (path, leaf)")
        stated: Any = geometry
        if not isinstance(stated, Mapping) or not all(isinstance(x, Mapping) for x in stated.values()):
            raise GeometryError(
                f"geometry={geometry!r} is not a mapping from paths to mappings of keywords, such as "
                "{'down/kernel': {'stride': 2}}."
            )
        for keywords in geometry.values():
            for keyword in keywords:
                if keyword not in _RULE_KEYWORDS:
                    raise GeometryError(f"geometry has {keyword!r}; expected some of {', '.join(_RULE_KEYWORDS)}.")
        self.geometry = dict(geometry)
        self.rule = rule

    def __call__(self, path: str, leaf: Any) -> Mapping[str, Any] | None:
        """Return the keywords of the other rule, overridden by the given geometry of this path."""
        keywords = self.rule(path, leaf)
        return None if keywords is None else self.added(path, keywords)

    def added(self, path: str, keywords: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return ``keywords``, overridden by `keywords_of` this path."""
        return {**keywords, **self.keywords_of(path)}

    def keywords_of(self, path: str) -> Mapping[str, Any]:
        """The keywords that ``geometry`` has for a path; empty if no pattern matches."""
        keywords: dict[str, Any] = {}
        for pattern, keywords_of_pattern in self.geometry.items():
            if fnmatchcase(path, pattern):
                keywords |= keywords_of_pattern
        return keywords


def layout_of(model: Any, rule: Rule | None = None) -> Rule:
    """Make a rule from a model's modules, for trees that contain only its parameters.

    ::

        rule = layout_of(model)  # strides, dilations, groups, and axes of dense layers
        penalty = SpectralPenalty(rule=rule)
        state = penalty.init(nnx.state(model, nnx.Param))

    Parameters
    ----------
    model : Flax NNX or Equinox module
    rule : callable, optional
        For leaves outside of known modules. None: `equinox_layout` if a leaf is named ``weight`` and none ``kernel``,
        else `flax_layout`.

    Returns
    -------
    callable
        A rule that knows the paths of this model.

    Raises
    ------
    KernelError
        If the model has no kernel.
    GeometryError
        If neither its modules nor their names determine the geometry of a kernel.
    """
    if rule is None:
        rule = _layout_by_names(_leaves(model))
    keywords_of_path = {path: keywords for path, (_, keywords) in _kernels_and_keywords(model, rule, "*").items()}

    def layout_of_model(path: str, _leaf: Any) -> Mapping[str, Any] | None:
        return keywords_of_path.get(path)

    return layout_of_model


def _layout_by_names(leaves: list[tuple[str, Any]]) -> Rule:
    """Return Equinox's rule for leaves of which some are named ``weight`` and none ``kernel``, else Flax's."""
    names = {path.rpartition("/")[2] for path, _ in leaves}
    return equinox_layout if "weight" in names and "kernel" not in names else flax_layout


def kernels(tree: Any, rule: Rule = flax_layout, *, layers: str = "*") -> dict[str, Kernel]:
    """Find the kernels of a tree of parameters.

    Parameters
    ----------
    tree : pytree
        Parameters of Flax (``nnx.state(model, nnx.Param)``, ``variables["params"]``), a Flax NNX or Equinox model, or
        any other tree. Leaves that are not real floating arrays are ignored.
    rule : callable, default `flax_layout`
        Function of (path, leaf) that returns geometry keywords, or None for a leaf that is not a kernel. It may also
        return ``input_axes``: see `with_geometry`. For a model of Equinox, `equinox_layout` takes the place of
        `flax_layout`.
    layers : str, default "*"
        Shell pattern such as ``"encoder/*"`` for the paths to take; a star matches slashes too.

    Returns
    -------
    dict of str to Kernel
        The kernels by path, in the tree's order. Paths are joined by ``/``, without the ``value`` at the end of the
        paths of Flax NNX. After the path of a stack stands the number of the kernel: ``"blocks/Conv_0/kernel/2"``.

    Raises
    ------
    KernelError
        If no leaf is a kernel.
    GeometryError
        With `flax_layout`, if the tree does not show whether a kernel of 3 to 5 axes belongs to a convolution or to a
        dense layer. It is decided by Flax NNX's own modules, by ``conv`` in the layer's name, by a bias beside the
        kernel, which has the shape of the outputs, or by the names of attention (``query``, ``key``, ``value``,
        ``out``).

    Notes
    -----
    A kernel beside a bias with one axis may also belong to a dense layer with several *input* axes. It is read as a
    convolution, whose norm is never smaller than the dense layer's. With several *output* axes, the dense layer's norm
    may be larger; then the bias has several axes, and the kernel is not read as a convolution.
    """
    found: dict[str, Kernel] = {}
    for path, (leaf, keywords) in _kernels_and_keywords(tree, rule, layers).items():
        count = keywords.get(_STACK_AXES, 0)
        if count:
            stack = leaf.reshape(-1, *leaf.shape[count:])
            found |= {f"{path}/{j}": _as_kernel(stack[j], keywords) for j in range(stack.shape[0])}
        else:
            found[path] = _as_kernel(leaf, keywords)
    return found


def _kernels_and_keywords(tree: Any, rule: Rule, layers: str) -> dict[str, tuple[Any, Mapping[str, Any]]]:
    """Return the leaves that are kernels, by path, and their keywords, from the rule and from the tree's modules."""
    full_rule = rule if isinstance(rule, with_geometry) else with_geometry({}, rule)
    check_pattern("layers", layers)
    leaves = _leaves(tree)
    if full_rule.rule is flax_layout and _has_modules_of_equinox(tree):
        full_rule = with_geometry(full_rule.geometry, _layout_by_names(leaves))
    keywords_of_tree = _keywords_of_tree(tree, leaves, full_rule)
    kernels_by_path: dict[str, tuple[Any, Mapping[str, Any]]] = {}
    ambiguous: dict[str, tuple[int, ...]] = {}
    for path, leaf in leaves:
        if not _may_be_a_kernel(leaf) or not fnmatchcase(path, layers):
            continue
        keywords_of_user = full_rule.keywords_of(path)
        shape, keywords_of_rule = _of_one(full_rule.rule, path, leaf, keywords_of_user.get(_STACK_AXES, 0))
        ndim = len(shape)
        # None: no kernel. Without keywords: the tree shows nothing about the leaf.
        keywords_of_module = keywords_of_tree.get(path, _NO_KEYWORDS)
        if keywords_of_rule is None or keywords_of_module is None:
            continue
        if keywords_of_module.get(_AXES, ndim) != ndim:
            continue
        if _REFUSED in keywords_of_module:
            reason = keywords_of_module[_REFUSED]
            raise GeometryError(f"{path}: {reason} Leave it out by layers, or by a rule of your own.")
        keywords = {keyword: x for keyword, x in keywords_of_module.items() if keyword != _AXES}
        is_decided = bool(keywords) or "layout" in keywords_of_user or _INPUT_AXES in keywords_of_user
        if full_rule.rule is flax_layout and ndim > 2 and not is_decided:
            ambiguous[path] = shape
        kernels_by_path[path] = (leaf, full_rule.added(path, {**keywords_of_rule, **keywords}))
    if ambiguous:
        raise GeometryError(_advice_for_ambiguous(ambiguous))
    if not kernels_by_path:
        if not leaves:
            raise KernelError("the tree is empty: it has no leaf that could be a kernel.")
        first = ", ".join(f"{path!r}: {getattr(leaf, 'dtype', type(leaf).__name__)}" for path, leaf in leaves[:4])
        raise KernelError(
            f"no leaf of the tree ({first}, ...) is a kernel by the rule "
            f"{getattr(full_rule.rule, '__name__', full_rule.rule)!r} with layers={layers!r}. Give another rule "
            "(layout_of(model) for a model, equinox_layout for parameters of Equinox), or a function of (path, leaf) "
            "that returns geometry keywords. Kernels are of a real floating dtype."
        )
    if layers == "*":
        _require_matches(full_rule.geometry, list(kernels_by_path))
    return kernels_by_path


def _of_one(rule: Rule, path: str, leaf: Any, count: Any) -> tuple[tuple[int, ...], Mapping[str, Any] | None]:
    """The shape of one kernel of a stack on so many axes, and what a rule that looks at its axes says of it."""
    shape = tuple(leaf.shape)
    if not count:
        return shape, rule(path, leaf)
    if count in range(len(shape) - 1):
        struct: Any = jax.ShapeDtypeStruct
        return shape[count:], rule(path, struct(shape[count:], leaf.dtype))
    if rule(path, leaf) is not None:
        raise GeometryError(
            f"stack_axes={count!r} of {path!r}, which has shape {shape}: expected an integer from 0 to "
            f"{len(shape) - 2}, since a kernel has at least two axes."
        )
    return shape, None


def _keywords_of_tree(
    tree: Any, leaves: list[tuple[str, Any]], full_rule: with_geometry
) -> dict[str, Mapping[str, Any] | None]:
    """Return the keywords that the tree shows for its leaves, by path; None for a weight that is not a linear map.

    They come from the tree's modules. With `flax_layout`, names and biases tell those of other leaves. For a user's own
    rule, nothing of the tree is used.
    """
    keywords: dict[str, Mapping[str, Any] | None] = {}
    rule = full_rule.rule
    if rule is flax_layout:
        shapes = {}
        for path, leaf in leaves:
            if _may_be_a_kernel(leaf):
                shapes[path] = tuple(leaf.shape[_stack_axes_beside(path, full_rule) :])
        keywords |= dict(_keywords_by_names(shapes))
    if rule in (equinox_layout, flax_layout):
        keywords |= dict(_keywords_of_modules(tree))
    return keywords


def _stack_axes_beside(path: str, rule: with_geometry) -> int:
    """The number of axes of a stack that a leaf has: as many as the kernel of Flax beside it."""
    parent, slash, _ = path.rpartition("/")
    count: int = rule.keywords_of(f"{parent}{slash}kernel").get(_STACK_AXES, 0)
    return count


def _require_matches(patterns: Mapping[str, Any], names: list[str]) -> None:
    """Refuse a pattern that matches no layer."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise GeometryError(f"geometry: {pattern!r} matches no layer. Layers are {', '.join(names) or 'none'}.")


def _as_kernel(leaf: Any, keywords: Mapping[str, Any]) -> Kernel:
    """Return a leaf with its geometry; the leaf of a dense layer with ``input_axes`` as a matrix."""
    geometry = {keyword: x for keyword, x in keywords.items() if keyword not in (_INPUT_AXES, _STACK_AXES)}
    count = keywords.get(_INPUT_AXES)
    if count is None:
        return Kernel(leaf, geometry)
    if not 0 < count < leaf.ndim:
        raise GeometryError(
            f"input_axes={count!r} of a kernel of shape {tuple(leaf.shape)}: expected 1 to {leaf.ndim - 1}, since the "
            "axes after the input's are the output's."
        )
    inputs = math.prod(leaf.shape[:count])
    return Kernel(jnp.reshape(leaf, (inputs, -1)), {"layout": "IO"})


def _advice_for_ambiguous(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The error message for kernels that may belong to convolutions or to dense layers, from their paths and shapes."""
    path, shape = next(iter(shapes.items()))
    other_paths = [other for other in shapes if other != path]
    note = f" So it is of {', '.join(map(repr, other_paths))}." if other_paths else ""
    return (
        f"{path!r} has shape {shape}: the tree does not say whether it is a convolution, or a dense layer with several "
        f"input or output axes (LinearGeneral, DenseGeneral), whose norm may be larger.{note} Give "
        f"rule=with_geometry({{{path!r}: {{'input_axes': 1}}}}) for a dense layer with one input axis, or {{'layout': "
        f"{LAYOUTS[len(shape)]!r}}} for a convolution, or {{'stack_axes': 1}} if nn.scan or nn.vmap stacks it; "
        "rule=layout_of(model) where there is a Flax NNX model, whose modules say so; or leave it out by layers."
    )


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    return [(name_of(keys), leaf) for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def name_of(keys: tuple[Any, ...]) -> str:
    """Return a leaf's path, joined by slashes."""
    name: str = jax.tree_util.keystr(keys, simple=True, separator="/")
    return name.removesuffix("/value")


def matrices_of(tree: Any, rule: Rule, layers: str) -> list[str]:
    """Return the paths of leaves with two axes or more, except for tables of embeddings: they may be linear maps.

    Axes of a stack do not count.
    """
    names = []
    for name, leaf in _leaves(tree):
        count = _stack_axes_beside(name, rule) if isinstance(rule, with_geometry) else 0
        is_matrix = _may_be_a_kernel(leaf) and leaf.ndim - count > 1 and not name.endswith("embedding")
        if is_matrix and fnmatchcase(name, layers):
            names.append(name)
    return names


def _may_be_a_kernel(leaf: Any) -> bool:
    try:
        return hasattr(leaf, "dtype") and bool(jnp.issubdtype(leaf.dtype, jnp.floating))
    except TypeError:  # of another library
        return False


def _keywords_by_names(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the paths of Flax's kernels with 3 to 5 axes that names and biases explain, with their keywords."""
    for path, shape in shapes.items():
        parent, slash, leaf = path.rpartition("/")
        if leaf != "kernel" or not 3 <= len(shape) <= 5:
            continue
        layer = parent.rpartition("/")[2].lower()
        if any(part in layer for part in _NO_CONVOLUTION_OR_MATRIX):
            continue
        bias = shapes.get(f"{parent}{slash}bias")
        input_axes = _attention_inputs(path, shapes)
        if input_axes is None:
            input_axes = _inputs_by_bias(shape, bias)
        if input_axes is not None:
            yield path, {_INPUT_AXES: input_axes}
        elif bias == shape[-1:] or ("conv" in layer and (bias is None or len(bias) == 1)):
            yield path, {"layout": LAYOUTS[len(shape)]}


def _inputs_by_bias(shape: tuple[int, ...], bias: tuple[int, ...] | None) -> int | None:
    """Return the number of input axes of a dense layer, from a bias with several output axes; None if it is unclear."""
    if bias is None or not 1 < len(bias) < len(shape) or shape[-len(bias) :] != bias:
        return None
    # In stacked and locally connected layers, the bias has the kernel's first axis too.
    is_stacked_or_local = shape[0] == bias[0]
    return None if is_stacked_or_local else len(shape) - len(bias)


def _attention_inputs(path: str, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Return the number of input axes of a projection of Flax's attention; None for other kernels.

    Query, key and value have one input axis; the output projection has two, heads and features.
    """
    parent, slash, last = path.removesuffix("/kernel").rpartition("/")
    if last not in _PROJECTIONS:
        return None
    query, key, value, out = (shapes.get(f"{parent}{slash}{name}/kernel", ()) for name in _PROJECTIONS)
    have_three_axes = len(query) == len(key) == len(value) == len(out) == 3
    have_the_same_heads = query[1:] == key[1:] == value[1:] == out[:2]
    if not have_three_axes or not have_the_same_heads:
        return None
    return 2 if last == "out" else 1


def _keywords_of_modules(tree: Any) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """Yield the paths of the weights of Equinox's and Flax NNX's modules, with keywords; None if not a linear map."""
    for keys, module in _modules(tree):
        framework_and_class = _class(module)
        if framework_and_class is None:
            continue
        framework, kind = framework_and_class
        if framework == "equinox":
            leaf = "weight"
            keywords = _stated_by_equinox(kind, module)
        else:
            leaf = "kernel"
            keywords = _stated_by_flax(kind, module)
        yield name_of((*keys, jax.tree_util.GetAttrKey(leaf))), keywords


def _modules(tree: Any) -> list[tuple[tuple[Any, ...], Any]]:
    """Return a tree's modules that are read, and its other leaves, with their keys."""
    return jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: _class(x) is not None)


def _has_modules_of_equinox(tree: Any) -> bool:
    classes = [_class(module) for _, module in _modules(tree)]
    return any(found is not None and found[0] == "equinox" for found in classes)


_MODULES = {
    "equinox": ("equinox.nn", (*_NO_LINEAR_MAP, "Conv", "ConvTranspose", "Linear")),
    "flax": ("flax.nnx", ("Conv", "ConvTranspose", "Linear", "LinearGeneral", "Einsum")),
}
"""For each framework, the package of its layers and the names of the classes that are read."""


def _class(x: Any) -> tuple[str, str] | None:
    """Return framework and class name of a module that is read; None for other objects."""
    for framework, (package, names) in _MODULES.items():
        for cls in type(x).__mro__:
            if cls.__module__.startswith(package) and cls.__name__ in names:
                return framework, cls.__name__
    return None


def _stated_by_equinox(kind: str, module: Any) -> Mapping[str, Any] | None:
    """Return the keywords of a module of Equinox, with the expected number of axes (`_AXES`); None if not a linear map.

    A weight with more axes is stacked by `vmap`; `_kernels_and_keywords` leaves it out.
    """
    if kind in _NO_LINEAR_MAP:
        return None
    if kind == "Linear":
        return {_AXES: 2}
    ndim = module.num_spatial_dims + 2
    is_stacked = getattr(module.weight, "ndim", None) != ndim
    if kind == "ConvTranspose" or is_stacked:
        # A transposed layer is bounded by the convolution with its stored kernel and stride 1.
        return {_AXES: ndim}
    return {_AXES: ndim, **equinox_layer(kind, module).geometry}


def _stated_by_flax(kind: str, module: Any) -> Mapping[str, Any]:
    """Return the keywords of a module of Flax NNX, or the reason why its norm does not follow from its kernel."""
    base = next(cls for cls in type(module).__mro__ if cls.__name__ == kind)
    name = type(module).__name__
    if kind == "Einsum" or type(module).__call__ is not base.__call__:
        return {_REFUSED: f"{name} computes by a rule of its own, so that its kernel alone does not tell its norm."}
    if getattr(module, "mask", None) is not None:
        return {_REFUSED: f"{name} has a mask, and uses another kernel than it stores."}
    if kind == "Linear":
        return {"layout": "IO"}
    if kind == "LinearGeneral":
        # The layer applies one matrix for each index of its batch axes. These matrices are parts of a larger one, whose
        # inputs are the batch axes and the layer's inputs. So their norms are no larger than its norm.
        return {_INPUT_AXES: len(module.batch_axis) + len(module.axis)}
    if kind == "ConvTranspose":
        # A transposed layer is bounded by the convolution with its stored kernel and stride 1.
        return {"layout": LAYOUTS[len(module.kernel_size) + 2]}
    try:
        return flax_layer(kind, module).geometry
    except GeometryError as error:
        return {_REFUSED: str(error)}


def with_kernels(tree: Tree, new_kernels: Mapping[str, Any]) -> Tree:
    """Return the tree with the leaves at some paths replaced by new kernels, reshaped to the leaves' shapes."""

    def new_leaf(keys: tuple[Any, ...], leaf: Any) -> Any:
        name = name_of(keys)
        found = [new_kernels[path] for path in _paths_of(name, new_kernels)]
        if not found:
            return leaf
        kernel = found[0] if name in new_kernels else jnp.stack(found)
        return kernel if kernel.shape == leaf.shape else jnp.reshape(kernel, leaf.shape)

    new_tree: Tree = jax.tree_util.tree_map_with_path(new_leaf, tree)
    return new_tree


def arrays_like(tree: Any, kernels_of_tree: Mapping[str, Kernel]) -> dict[str, Any]:
    """The leaves of another tree, such as a gradient, at the paths and in the shapes of kernels."""
    found = {}
    for name, leaf in _leaves(tree):
        paths = _paths_of(name, kernels_of_tree)
        shapes = [kernels_of_tree[path].array.shape for path in paths]
        if name in kernels_of_tree:
            found[name] = jnp.reshape(leaf, shapes[0])
        elif paths:
            members = jnp.reshape(leaf, (len(paths), *shapes[0]))
            found |= {path: members[j] for j, path in enumerate(paths)}
    return found


def is_kernel(name: str, kernels_of_tree: Mapping[str, Any]) -> bool:
    """Whether the leaf of this name is a kernel or a stack of kernels."""
    return bool(_paths_of(name, kernels_of_tree))


def _paths_of(name: str, kernels_of_tree: Mapping[str, Any]) -> list[str]:
    """The paths of the kernels in the leaf of this name: of one, of the members of a stack, or none."""
    if name in kernels_of_tree:
        return [name]
    members = itertools.takewhile(kernels_of_tree.__contains__, (f"{name}/{j}" for j in itertools.count()))
    return list(members)
