"""Say which kernels of a file may not be what their layers use: a closed world, in which the unknown is not proven.

A kernel counts as stored if every array that shares its scope is understood. Scopes are shared

- in the kernel's own scope and below it: a layer has a kernel, a bias, running statistics, counters, and an optimizer's
  moments; within a layer a normalization may stand (`specnorm_audit.leaves`);
- one scope away (above, or in a neighbour that has no kernel): by an array of the kernel's own shape, and by a pair of
  vectors as long as its rows and its columns, such as those of a spectral normalization;
- in a tree beside, with the kernel's name: masks, scores, scales.

What stands in a block for the block's own use (position embeddings, tokens, layer scales) disturbs no kernel below it.
An array that is not understood is no layer by its shape alone where a kernel stands beside it.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, TypeAlias

from specnorm_networks.model_arrays import Tensor

from specnorm_audit import leaves
from specnorm_audit.conventions.recipe import is_vector

Words: TypeAlias = tuple[str, ...]
Role: TypeAlias = Literal["only kernel", "one of several kernels", "known", "unknown", "training", "explained"]
_COUNT = re.compile(r"(\d+[a-zA-Z]?|(?<=_)[a-zA-Z])(?![a-zA-Z])|\d+")
_UNDERSTOOD = ("explained", "training")
_LAST: Words = ("\U0010ffff",)
"""A word that is sorted after all others."""


@dataclass(frozen=True)
class Array:
    """An array of a file, by its words and its role."""

    name: str
    words: Words
    shape: tuple[int, ...]
    role: Role
    is_computed: bool = False
    """Whether a convention computes it from others, so that it is a layer's weight."""

    @property
    def scope(self) -> Words:
        """Words of the name before the last one."""
        return self.words[:-1]

    @property
    def leaf(self) -> str:
        """Last word of the name."""
        return self.words[-1]

    @property
    def is_kernel(self) -> bool:
        """Whether the name is that of a kernel."""
        return self.role in ("only kernel", "one of several kernels") and len(self.shape) > 1

    @property
    def may_be_layer(self) -> bool:
        """Whether the array is a kernel, or could be one by its shape alone."""
        return self.is_kernel or (self.role == "unknown" and not is_vector(self.shape))

    @property
    def length(self) -> int:
        """Number of entries of a vector; 0 of any other array."""
        return math.prod(self.shape) if self.shape and is_vector(self.shape) else 0


@dataclass(frozen=True)
class Judged:
    """What the closed world says of a file's arrays.

    Parameters
    ----------
    doubts : mapping of str to str
        Names of kernels that may not be what their layers use, with the name of an array that is not understood.
    strangers : set of str
        Names of arrays that are no layers of their own, since a kernel stands beside them, and are not understood.
    silent : set of str
        Names of arrays that are understood, or that a doubt names: no layers, and nothing more to say.
    """

    doubts: Mapping[str, str]
    strangers: frozenset[str]
    silent: frozenset[str]


def judged(tensors: Sequence[Tensor], explained: Iterable[str]) -> Judged:
    """Judge all arrays of a file of which it does not state what they are; ``explained`` ones belong to conventions."""
    known = frozenset(explained)
    arrays = [_array(t, known) for t in tensors]
    scopes = {array.scope for array in arrays if array.is_kernel}
    world = _World([_with_short_name(array, scopes) for array in arrays])
    stated = {t.name for t in tensors if t.kind is not None}
    doubts: dict[str, str] = {}
    silent: set[str] = set()
    for kernel in world.arrays:
        if kernel.name in stated:
            continue
        if kernel.may_be_layer and (kernel.is_kernel or not world.is_own_of_block(kernel)):
            beside = list(world.strangers_of(kernel))
            if beside:
                doubts.setdefault(kernel.name, beside[0].name)
            for array in beside:
                if array.role == "unknown" and kernel.is_kernel:
                    silent.add(array.name)
                elif array.may_be_layer and array.name not in stated:  # which of two the layer uses is not known
                    doubts.setdefault(array.name, kernel.name)
    strangers: set[str] = set()
    for array in world.arrays:
        if array.role in ("unknown", "known", "training") and array.name not in silent and len(array.shape) > 1:
            if world.is_understood(array):
                silent.add(array.name)
            elif array.role == "unknown" and world.has_kernel_beside(array):
                strangers.add(array.name)
    kept = {name: stranger for name, stranger in doubts.items() if name not in silent}
    return Judged(kept, frozenset(strangers), frozenset(silent))


def _array(tensor: Tensor, explained: frozenset[str]) -> Array:
    words = tuple(leaves.parts_of(tensor.name)) or (tensor.name,)
    is_computed = any(text.partition("=")[0] == words[-1] for text in tensor.assumed)
    return Array(tensor.name, words, tensor.shape, _role(tensor, words, explained), is_computed)


def _with_short_name(array: Array, scopes: set[Words]) -> Array:
    """Return an array whose name is that of a bias beside a kernel, and anything elsewhere."""
    is_bias = not leaves.is_short_bias(array.leaf) or array.scope in scopes
    return array if is_bias else replace(array, role="unknown")


def _role(tensor: Tensor, words: Words, explained: frozenset[str]) -> Role:
    leaf = words[-1]
    # Keras numbers the variables of a layer; its reader knows them, and what stands beside them.
    is_of_keras = "layout" in tensor.geometry and leaf.isdigit()
    if tensor.name in explained or is_of_keras or tensor.kind in ("none", "unknown"):
        return "explained"
    if tensor.kind is not None:
        return "only kernel"
    if any(map(leaves.TRAINING_STATE.fullmatch, words)):
        return "training"
    is_truth = tensor.dtype == "bool"
    if leaves.is_kernel(leaf) and not is_truth:
        return "only kernel"
    if leaves.is_own_of_block((leaf,)):
        return "unknown"
    if leaves.is_quantised(leaf) and tensor.dtype.startswith(("int", "uint", "float8")):
        return "only kernel"
    if leaves.is_one_of_several(leaf) and not is_truth:
        return "one of several kernels"
    if leaves.is_bias(leaf) or leaves.is_statistic(leaf) or leaves.is_moment(leaf):
        return "known"
    return "unknown"


@dataclass(frozen=True)
class _World:
    """The arrays of a file, sorted by their words."""

    arrays: Sequence[Array]
    by_name: dict[str, Array] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {array.name: array for array in self.arrays})

    # -- places ---------------------------------------------------------------------------------------------------
    @cached_property
    def _sorted(self) -> dict[int, tuple[list[Words], list[Array]]]:
        """Arrays sorted by their words without the first 0, 1, 2."""
        tables = {}
        for skipped in range(3):
            rows = sorted(
                ((array.words[skipped:], array) for array in self.arrays if len(array.words) > skipped),
                key=lambda row: row[0],
            )
            tables[skipped] = ([words for words, _ in rows], [array for _, array in rows])
        return tables

    @cached_property
    def _direct(self) -> dict[Words, list[Array]]:
        scopes: dict[Words, list[Array]] = {}
        for array in self.arrays:
            scopes.setdefault(array.scope, []).append(array)
        return scopes

    @cached_property
    def _children(self) -> dict[Words, list[Words]]:
        """Scopes that have arrays, by the scope around them."""
        children: dict[Words, list[Words]] = {}
        for scope in self._direct:
            if scope:
                children.setdefault(scope[:-1], []).append(scope)
        return children

    def direct(self, scope: Words) -> list[Array]:
        """Arrays directly in a scope."""
        return self._direct.get(scope, [])

    def under(self, scope: Words, skipped: int = 0) -> list[Array]:
        """Arrays whose words, without the first ``skipped``, begin with a scope."""
        keys, arrays = self._sorted[skipped]
        return arrays[bisect_left(keys, scope) : bisect_left(keys, scope + _LAST)]

    # -- what shares a kernel's scope -----------------------------------------------------------------------------
    def strangers_of(self, kernel: Array) -> Iterator[Array]:
        """Yield the arrays because of which a kernel may not be what its layer uses."""
        yield from self._in_layer(kernel)
        yield from self._one_scope_away(kernel)
        yield from self._in_trees_beside(kernel)
        yield from self._added(kernel)

    def _added(self, kernel: Array) -> Iterator[Array]:
        """Yield what an adapter adds to a kernel, beside the layer that it wraps."""
        depth = len(kernel.scope) - 1
        if depth > 0 or kernel.scope:
            for array in self.under(kernel.scope[:-1]):
                if leaves.ADDED.fullmatch(array.words[depth]) and not leaves.ADDED.fullmatch(kernel.words[depth]):
                    yield array

    def _in_layer(self, kernel: Array) -> Iterator[Array]:
        """Yield what is not understood in a kernel's own scope, and below it."""
        is_only = kernel.role == "only kernel"
        depth = len(kernel.scope)
        # A kernel without a scope may be one of a model's own parameters, or the file may be of this layer alone.
        has_others = not kernel.scope and any(x.is_kernel and x.scope for x in self.arrays)
        around = self.direct(()) if has_others else self.under(kernel.scope)
        for array in around:
            words = array.words[depth:] or (kernel.leaf,)  # an array with the layer's own name
            belongs = is_only or words[0].startswith(_beginnings(kernel.leaf))
            if array is kernel or array.role in _UNDERSTOOD or not belongs:
                continue
            is_beside = len(words) == 1
            is_fine = self._is_of_layer(array, kernel) if is_beside else self._is_within_layer(array, kernel, words)
            if not is_fine:
                yield array
        if not kernel.scope and is_only:
            yield from (array for array in self.under((kernel.leaf,)) if len(array.words) > 1)

    def _is_of_layer(self, array: Array, kernel: Array) -> bool:
        """Whether an array in a kernel's own scope is understood."""
        if leaves.is_bias(array.leaf):
            return is_vector(array.shape) or stacked(kernel.shape, array.shape) > 0
        if leaves.is_statistic(array.leaf):
            return is_vector(array.shape)
        if leaves.is_moment(array.leaf):
            return array.shape == kernel.shape or is_vector(array.shape)
        is_recurrent = array.leaf.startswith("recurrent_") and kernel.leaf == "kernel"
        return is_recurrent or (array.is_kernel and kernel.role != "only kernel")

    def _is_within_layer(self, array: Array, kernel: Array, words: Words) -> bool:
        """Whether an array below a kernel's scope is understood: of a norm, or of a layer inside a matrix's."""
        if leaves.is_of_norm(words) and is_vector(array.shape):
            return True
        if array.words[: len(kernel.words)] == kernel.words and leaves.is_moment(words[-1]):
            return array.shape == kernel.shape
        inner = [x for x in self.direct(array.scope) if x.is_kernel]
        are_other = all(x.shape != kernel.shape for x in inner) and not any(map(leaves.ADDED.fullmatch, words))
        return bool(inner) and are_other and len(kernel.shape) == 2

    def _one_scope_away(self, kernel: Array) -> Iterator[Array]:
        """Yield arrays of a kernel's own shape, and vectors of its rows and columns, that stand near it."""
        scopes = [kernel.scope]
        if kernel.role != "only kernel" or not kernel.scope:
            scopes += self._children.get(kernel.scope, [])
        if kernel.scope:
            around = kernel.scope[:-1]
            scopes += [around, *(scope for scope in self._children.get(around, ()) if scope != kernel.scope)]
        for scope in dict.fromkeys(scopes):
            arrays = self.direct(scope)
            is_neighbour = scope not in (kernel.scope, kernel.scope[:-1])
            if is_neighbour and kernel.scope and any(x.role == "only kernel" and x.is_kernel for x in arrays):
                continue
            for array in arrays:
                is_below = not kernel.scope and scope != () and array.is_kernel and array.shape == kernel.shape
                if array is not kernel and (is_below or self._has_own_shape(array, kernel)):
                    yield array
            yield from self._pair(arrays, kernel)

    def _has_own_shape(self, array: Array, kernel: Array) -> bool:
        """Whether an array that is not understood has a kernel's shape, or goes with it entry by entry."""
        if array.role == "unknown":
            is_family = _without_digits(array.words) == _without_digits(kernel.words) or not self.has_names
            return _goes_with(array.shape, kernel.shape) and not (kernel.role == "unknown" and is_family)
        if array.role == "known":
            return array.shape == kernel.shape and not is_vector(array.shape) and not leaves.is_moment(array.leaf)
        is_twin = array.role == kernel.role == "one of several kernels" and array.scope == kernel.scope
        if not is_twin or array.shape != kernel.shape or _without_digits(array.words) == _without_digits(kernel.words):
            return False
        are_known = all(leaves.SEVERAL_OF_ONE_SHAPE.fullmatch(x.leaf) for x in (array, kernel))
        return not are_known and not (self._has_bias(array) and self._has_bias(kernel))

    def _has_bias(self, kernel: Array) -> bool:
        """Whether one of several kernels has a bias of its own."""
        beginnings = _beginnings(kernel.leaf)
        return any(leaves.is_bias(x.leaf) and x.leaf.startswith(beginnings) for x in self.direct(kernel.scope))

    def _pair(self, arrays: Sequence[Array], kernel: Array) -> Iterator[Array]:
        """Yield a vector of a kernel's rows beside one of its columns, if neither is understood."""
        vectors = [x for x in arrays if x.role == "unknown" and x.length > 1 and not leaves.is_leaf_of_norm(x.leaf)]
        vectors = [x for x in vectors if not leaves.is_own_of_block(x.words[-1:])]
        for rows, columns in _sides(kernel.shape):
            first = [x for x in vectors if x.length == rows]
            second = [x for x in vectors if x.length == columns]
            if rows == columns:  # many blocks have several vectors of one length
                yield from first if len(first) == len(vectors) == 2 else ()
            elif first and second:
                yield from (*first, *second)

    # -- trees beside ---------------------------------------------------------------------------------------------
    def _in_trees_beside(self, kernel: Array) -> Iterator[Array]:
        """Yield arrays under a kernel's name in another tree: under a word before it, or in place of its first one."""
        scope = kernel.scope
        for skipped in (1, 2):
            yield from self._in_tree(kernel, scope, skipped, skipped)
        inner = scope[1:]
        are_counted = all(word.isdigit() for word in inner)
        for skipped in (1, 2) if inner else ():
            for array in self._in_tree(kernel, inner, skipped, skipped - 1):
                # Lists of layers and of normalizations beside each other have counted names.
                is_named_alike = array.leaf == kernel.leaf and array.shape == kernel.shape
                if not are_counted or (is_named_alike and not self._has_same_leaves(array, kernel)):
                    yield array

    def _in_tree(self, kernel: Array, scope: Words, skipped: int, longer: int) -> Iterator[Array]:
        """Yield what is not understood under a scope in trees whose names have ``skipped`` words.

        ``longer`` is by how many words their names are longer than that of the kernel's own tree.
        """
        if not scope and kernel.role != "only kernel":
            return
        own_root = kernel.words[: skipped - longer]
        for array in self.under(scope or (kernel.leaf,), skipped):
            rest = array.words[skipped + len(scope) :]
            root = array.words[:skipped]
            if array.role in _UNDERSTOOD or root == own_root or array.words[: len(kernel.scope)] == kernel.scope:
                continue
            if not rest:  # one array with the layer's name
                if array.role == "unknown" and math.prod(array.shape) > 1:
                    yield array
            elif rest[0] != kernel.leaf:
                # Another layer's, or of a layer of the tree beside.
                has_own = any(x.is_kernel and x.role == "only kernel" for x in self.direct(array.words[: -len(rest)]))
                changes = array.length > 1 or _goes_with(array.shape, kernel.shape)
                if array.role == "unknown" and changes and not has_own and kernel.role == "only kernel":
                    yield array
            elif len(rest) > 1:
                if array.role == "unknown":
                    yield array
            elif not self._is_twin(array, kernel, root, own_root):
                yield array

    def _is_twin(self, array: Array, kernel: Array, root: Words, own_root: Words) -> bool:
        """Whether an array under a kernel's name in a tree beside is a layer of its own, and no mask or scale."""
        if not _goes_with(array.shape, kernel.shape) and array.length not in {*kernel.shape} - {1}:
            return True
        if (
            array.is_computed
            or _without_digits(root) == _without_digits(own_root)
            or leaves.TRAINING_STATE.fullmatch(root[0])
        ):
            return True
        if not self._has_same_leaves(array, kernel):
            return False
        if all(map(leaves.is_second_model, {*root} - {*own_root})):
            return True
        beside = self._kernels(root)
        of_kernel = self._kernels(own_root)
        are_parts = any(x.is_kernel and not _is_below(x, root) and not _is_below(x, own_root) for x in self.arrays)
        if are_parts and any(leaves.is_bias(x.leaf) for x in self.direct(array.scope)):
            return True
        return _has_kernels_of_its_own(beside, of_kernel) and _has_kernels_of_its_own(of_kernel, beside)

    def _has_same_leaves(self, array: Array, kernel: Array) -> bool:
        """Whether the scopes of two arrays hold arrays of the same names."""
        return {x.leaf for x in self.direct(array.scope)} == {x.leaf for x in self.direct(kernel.scope)}

    def _kernels(self, root: Words) -> dict[Words, tuple[int, ...]]:
        """Shapes of kernels below a root, by their names without it."""
        return {x.words[len(root) :]: x.shape for x in self.under(root) if x.is_kernel and x.words != root}

    # -- arrays that are no kernels -------------------------------------------------------------------------------
    def is_own_of_block(self, array: Array) -> bool:
        """Whether an array is a block's own: no kernel has this scope."""
        has_kernel = any(x.role == "only kernel" for x in self.direct(array.scope))
        return leaves.is_own_of_block(array.words) and not has_kernel

    def is_understood(self, array: Array) -> bool:
        """Whether an array of two axes or more is no layer, and changes none."""
        if array.role == "known":
            return self._is_known_beside_kernel(array)
        if array.role == "training":
            return self._is_kept_of_kernel(array)
        if self.is_own_of_block(array):
            return self.has_kernels
        is_scale = leaves.is_scale(array.leaf) and self.has_kernels
        return is_vector(array.shape) and (is_scale or self.has_kernel_beside(array))

    @cached_property
    def has_names(self) -> bool:
        """Whether arrays have names of a framework, and are not a list of somebody's kernels, by words of their own."""
        return any(len(x.words) > 1 or x.role != "unknown" for x in self.arrays)

    @cached_property
    def has_kernels(self) -> bool:
        """Whether the file has any kernel: position embeddings of nothing are arrays like others."""
        return any(x.is_kernel for x in self.arrays)

    def _is_kept_of_kernel(self, array: Array) -> bool:
        """Whether an array of a training run has the shape and the last words of a kernel's name."""
        ends = [array.words[-2:], array.words[-3:-1]] if leaves.is_moment(array.leaf) else [array.words[-2:]]
        return any((end, array.shape) in self._ends for end in ends)

    @cached_property
    def _ends(self) -> set[tuple[Words, tuple[int, ...]]]:
        """Last words and shapes of kernels."""
        return {(x.words[-2:], x.shape) for x in self.arrays if x.is_kernel}

    def _is_known_beside_kernel(self, array: Array) -> bool:
        """Whether a bias or a moment belongs to a kernel of its scope, or is a vector of a block with kernels."""
        kernels = [x for x in self.direct(array.scope) if x.is_kernel]
        kernels += [x for x in self.direct(array.scope[:-1]) if x.words == array.scope]
        if leaves.is_moment(array.leaf):
            return any(x.shape == array.shape for x in kernels)
        if is_vector(array.shape):
            return bool(kernels) or self.has_kernel_beside(array)
        return any(stacked(x.shape, array.shape) for x in kernels)

    def has_kernel_beside(self, array: Array) -> bool:
        """Whether a kernel stands in an array's scope, below it, or in the scope around it."""
        around = [*self.under(array.scope), *self.direct(array.scope[:-1])]
        return any(x.is_kernel and x is not array for x in around)


def stacked(kernel: Sequence[int], bias: Sequence[int]) -> int:
    """Return how many axes in front count the members of a stack of matrices, by a bias of each; 0: it is no stack."""
    sizes = [n for n in bias if n != 1]
    axes = len(sizes) - 1
    is_stack = axes > 0 and tuple(kernel[:axes]) == tuple(sizes[:axes])
    return axes if is_stack and sizes[-1] in kernel[axes:] and len(kernel) - axes >= 2 else 0


def _beginnings(leaf: str) -> tuple[str, ...]:
    """Return how the names begin of what belongs to one of several kernels: ``conv0_`` of ``conv0_weight``."""
    match = re.fullmatch(r"(\w+_)(weight|kernel|weights|W|w|proj)", leaf)
    return (f"{leaf}_",) if match is None else (match[1], f"{leaf}_")


def _goes_with(shape: Sequence[int], kernel: Sequence[int]) -> bool:
    """Whether an array goes with a kernel entry by entry, and is no vector: of its shape, or with axes of length 1."""
    if is_vector(shape):
        return tuple(shape) == tuple(kernel) and len(shape) > 1
    if len(shape) == len(kernel):
        return all(n in (1, m) for n, m in zip(shape, kernel, strict=True))
    return len(kernel) > 2 and tuple(shape) in (tuple(kernel[:2]), tuple(kernel[-2:]))


def _sides(shape: Sequence[int]) -> set[tuple[int, int]]:
    """Return the numbers of rows and columns of a kernel as a matrix, in each order of axes."""
    if len(shape) < 2:
        return set()
    size = math.prod(shape)
    return {(n, size // n) for n in (shape[0], shape[1], shape[-1]) if n}


def _has_kernels_of_its_own(tree: Mapping[Words, tuple[int, ...]], other: Mapping[Words, tuple[int, ...]]) -> bool:
    """Whether a kernel of a tree has no name or no shape that goes with one of another tree."""
    return any(name not in other or not _goes_with(shape, other[name]) for name, shape in tree.items())


def _is_below(array: Array, root: Words) -> bool:
    return array.words[: len(root)] == root


def _without_digits(words: Sequence[str]) -> Words:
    """Return words with their numbers, and letters that count, left open: ``Mixed_5b``, ``branch_a``, ``conv1``."""
    return tuple(_COUNT.sub("#", word) for word in words)
