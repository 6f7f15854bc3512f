"""Which leaves of a tree of parameters are kernels, and with which geometry.

A *rule* says so: a function of a leaf's path and the leaf, which returns specnorm's geometry keywords, or None for a
leaf that is no kernel. `flax_layout` and `equinox_layout` are rules, `with_geometry` adds to one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from specnorm import Geometry
from specnorm.errors import GeometryError, KernelError
from specnorm_jax.layers import equinox_layer

Rule: TypeAlias = Callable[[str, Any], Mapping[str, Any] | None]
_LAYOUTS = {2: "IO", 3: "WIO", 4: "HWIO", 5: "DHWIO"}
_NO_LINEAR_MAP = ("Embedding", "LayerNorm", "RMSNorm", "GroupNorm", "BatchNorm")
_PLAIN: Mapping[str, Any] = {}
_PROJECTIONS = ("query", "key", "value", "out")


class Kernel(NamedTuple):
    """A leaf that is a kernel, and its geometry: ``specnorm.enclose(kernel.array, **kernel.geometry)``."""

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
        `with_geometry`. `kernels` leaves attention's out. Parameters stacked over layers are told from convolutions by
        their names only: leave them out by ``layers``, or by a rule of your own.
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

        rule = with_geometry({"down/kernel": {"stride": 2}, "depthwise_*/kernel": {"groups": 32}})
        penalty = SpectralPenalty(rule=rule)

    Parameters
    ----------
    geometry : mapping of str to mapping
        Shell pattern on paths -> some of specnorm's geometry keywords. The last match counts, key by key.
    rule : callable, default `flax_layout`

    Raises
    ------
    GeometryError
        If a keyword is none; from `kernels`, if a pattern matches no kernel.
    """

    def __init__(self, geometry: Mapping[str, Mapping[str, Any]], rule: Rule = flax_layout) -> None:
        unknown = [key for stated in geometry.values() for key in stated if key not in Geometry.__annotations__]
        if unknown:
            raise GeometryError(f"geometry has {unknown[0]!r}; expected some of {', '.join(Geometry.__annotations__)}.")
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


def kernels(tree: Any, rule: Rule = flax_layout, *, layers: str = "*") -> dict[str, Kernel]:
    """Find the kernels of a tree of parameters.

    Parameters
    ----------
    tree : pytree
        Parameters of Flax (``nnx.state(model, nnx.Param)``, ``variables["params"]``), an Equinox model, or any other.
        Leaves that are not real floating arrays are passed over.
    rule : callable, default `flax_layout`
        From (path, leaf) to geometry keywords of specnorm, or None for a leaf that is no kernel.
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
    """
    told = rule if isinstance(rule, with_geometry) else with_geometry({}, rule)
    found: dict[str, Kernel] = {}
    leaves = [(name_of(keys), leaf) for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)]
    known = dict(_modules(tree)) if told.rule is equinox_layout else {}
    if told.rule is flax_layout:
        known |= dict.fromkeys(_attention([name for name, _ in leaves]))
    for name, leaf in leaves:
        geometry = told.rule(name, leaf) if _may_be_a_kernel(leaf) and fnmatchcase(name, layers) else None
        module = known.get(name, _PLAIN)
        if geometry is not None and module is not None and module.get("ndim", leaf.ndim) == leaf.ndim:
            words = {word: x for word, x in module.items() if word != "ndim"}
            found[name] = Kernel(leaf, told.added(name, {**geometry, **words}))
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


def name_of(keys: tuple[Any, ...]) -> str:
    """A leaf's path, joined by slashes."""
    name: str = jax.tree_util.keystr(keys, simple=True, separator="/")
    return name.removesuffix("/value")


def _may_be_a_kernel(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def _attention(names: list[str]) -> Iterator[str]:
    """Kernels of Flax's attention: projections from and to heads, with an axis for these."""
    for name in names:
        parent, _, last = name.removesuffix("/kernel").rpartition("/")
        start = f"{parent}/" if parent else ""
        if last in _PROJECTIONS and all(f"{start}{other}/kernel" in names for other in _PROJECTIONS):
            yield name


def _modules(tree: Any) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """Weights of Equinox's modules, with the geometry that these state and the weight's rank; None: no linear map."""
    for keys, module in jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: _class(x) is not None):
        kind = _class(module)
        if kind is not None:
            yield name_of((*keys, jax.tree_util.GetAttrKey("weight"))), _stated(kind, module)


def _class(x: Any) -> str | None:
    names = [cls.__name__ for cls in type(x).__mro__ if cls.__module__.startswith("equinox.nn")]
    return next((name for name in names if name in (*_NO_LINEAR_MAP, "Conv", "ConvTranspose", "Linear")), None)


def _stated(kind: str, module: Any) -> Mapping[str, Any] | None:
    if kind in _NO_LINEAR_MAP:
        return None
    if kind == "Linear":
        return {"ndim": 2}
    ndim = module.num_spatial_dims + 2
    # A transposed layer's kernel is bounded as it is stored: by that of stride 1. Several layers in one are left out.
    known = kind == "Conv" and getattr(module.weight, "ndim", None) == ndim
    return {"ndim": ndim, **(equinox_layer(kind, module).geometry if known else {})}
