"""Where the arrays of a file stand: which are accounted for, and which kernels are in doubt because one is not.

An array is accounted for if its name is in the table (`specnorm_audit.accounts.names`), and its shape and what stands
around it fit. Any other array may be a part of a kernel that stands near it:

- in the kernel's own scope (the words of its name before the last one) and below it;
- one scope above, and in a neighbour that has no kernel;
- in a tree beside, with the kernel's name: masks, scores, scales.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeAlias

from specnorm_networks.model_arrays import Tensor

from specnorm_audit.accounts import names
from specnorm_audit.accounts.conventions.recipe import Shape, is_vector

Words: TypeAlias = tuple[str, ...]
Role: TypeAlias = Literal["only kernel", "one of several kernels", "explained", "other"]
_COUNT = re.compile(r"(\d+[a-zA-Z]?|(?<=_)[a-zA-Z])(?![a-zA-Z])|\d+")
_LAST: Words = ("\U0010ffff",)
"""A word that is sorted after all others."""
_LONGEST_MODULATION = 16
"""Largest number of rows of a table of shifts and scales."""


@dataclass(frozen=True)
class Array:
    """An array of a file, by its words and its role."""

    name: str
    words: Words
    shape: Shape
    dtype: str
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
        """Whether this is a kernel by its name and its number of axes."""
        return self.role in ("only kernel", "one of several kernels")

    @property
    def is_vector(self) -> bool:
        """Whether this is a number, or a vector along one of its axes."""
        return is_vector(self.shape)

    @property
    def is_whole(self) -> bool:
        """Whether its numbers are integers or truth values."""
        return self.dtype.startswith(("int", "uint", "bool"))


def role_of(tensor: Tensor, words: Words, *, has_names: bool) -> Role:
    """Return the role of an array by its name, number of axes and dtype alone."""
    leaf = words[-1]
    if tensor.kind in ("none", "unknown"):
        return "explained"
    # Keras numbers the variables of a layer; its reader knows them, and what stands beside them.
    is_of_keras = leaf.isdigit() and ("layout" in tensor.geometry or tensor.refusal is not None)
    if tensor.kind is not None or is_of_keras:
        return "one of several kernels" if is_of_keras else "only kernel"
    is_of_weight = "parametrizations" in words or any(map(names.ADDED.fullmatch, words))
    is_state = any(map(names.TRAINING_STATE.fullmatch, words))
    if len(tensor.shape) < 2 or is_of_weight or is_state or tensor.dtype == "bool":
        return "other"
    if is_vector(tensor.shape) and len(words) > 1 and names.NORM.fullmatch(words[-2]):
        return "other"
    if leaf in names.KERNELS:
        return "only kernel"
    if not has_names:
        return "one of several kernels"
    is_whole = tensor.dtype.startswith(("int", "uint", "float8"))
    if is_whole and names.is_quantised(leaf):
        return "only kernel"
    if names.ONE_OF_SEVERAL.fullmatch(leaf):
        return "one of several kernels"
    is_flat = names.flat_layer(leaf) is not None and len(words) == 1
    return "one of several kernels" if is_flat and not is_vector(tensor.shape) else "other"


class File:
    """The arrays of a file, by their places."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        kernels = [x for x in arrays if x.is_kernel and len(x.words) > 1]
        self._wrapped = {x.words[:-2] for x in kernels if x.words[-2] in names.WRAPPED}
        self.arrays = [
            replace(x, role="other") if x.is_kernel and self._adapter_of(x) is not None else x for x in arrays
        ]
        self.kernels = [x for x in self.arrays if x.is_kernel]
        self._direct: dict[Words, list[Array]] = defaultdict(list)
        for array in self.arrays:
            self._direct[array.scope].append(array)
        self._with_kernels = {x.words[:n] for x in self.kernels for n in range(len(x.words))}

    @cached_property
    def _sorted(self) -> dict[int, tuple[list[Words], list[Array]]]:
        """Arrays sorted by their words without the first 0, 1, 2."""
        tables = {}
        for skipped in range(3):
            rows = [(x.words[skipped:], x) for x in self.arrays if len(x.words) > skipped]
            rows.sort(key=lambda row: row[0])
            tables[skipped] = ([words for words, _ in rows], [array for _, array in rows])
        return tables

    @cached_property
    def _parameters(self) -> set[Shape]:
        """Shapes of all kernels."""
        return {x.shape for x in self.kernels}

    def direct(self, scope: Words) -> list[Array]:
        """Arrays directly in a scope."""
        return self._direct.get(scope, [])

    def under(self, scope: Words, skipped: int = 0) -> list[Array]:
        """Arrays whose words, without the first ``skipped``, begin with a scope."""
        keys, arrays = self._sorted[skipped]
        return arrays[bisect_left(keys, scope) : bisect_left(keys, scope + _LAST)]

    def _only_kernels(self, scope: Words) -> list[Array]:
        return [x for x in self.direct(scope) if x.role == "only kernel"]

    def is_known(self, array: Array) -> bool:
        """Whether an array that is no kernel is accounted for."""
        if array.role == "explained":
            return True
        if self._adapter_of(array) is not None:
            return False
        if self._is_of_training(array):
            return True
        layer = self._layer_of(array)
        if layer is not None and array.scope != layer and not names.NORM.fullmatch(array.words[-2]):
            return False  # below a layer stands a normalization, or nothing
        return any(getattr(self, fits)(array) for fits in names.conditions_of(array.words))

    def _adapter_of(self, array: Array) -> Words | None:
        """Return the scope of the adapter to which an array belongs; None: to none, or to the layer inside it."""
        for n, word in enumerate(array.words):
            is_beside = array.words[:n] in self._wrapped and word not in names.WRAPPED
            if is_beside or names.ADDED.fullmatch(word):
                return array.words[:n]
        return None

    def _layer_of(self, array: Array) -> Words | None:
        """Return the scope around an array that has a layer's only kernel; None: there is none."""
        depths = range(len(array.scope), 0, -1)
        return next((array.scope[:n] for n in depths if self._only_kernels(array.scope[:n])), None)

    def _is_of_training(self, array: Array) -> bool:
        """Whether an optimizer keeps this of a parameter: a vector, or an array of a kernel's shape."""
        is_state = any(map(names.TRAINING_STATE.fullmatch, array.words))
        is_moment = names.MOMENTS.fullmatch(array.leaf) is not None
        if array.is_vector:
            return is_state or (is_moment and self.in_block(array))
        return (is_state or is_moment) and array.shape in self._parameters

    # -- conditions of the table ----------------------------------------------------------------------------------
    def in_block(self, array: Array) -> bool:
        """Whether a block with kernels is around an array, and no layer's kernel beside it."""
        has_kernels = any(scope in self._with_kernels for scope in (array.scope, array.scope[:-1]))
        return has_kernels and not self._only_kernels(array.scope)

    def is_free(self, array: Array) -> bool:
        """Whether a block is around an array, and no kernel in its scope or directly below has its shape."""
        near = [x for x in self.under(array.scope) if x.is_kernel and len(x.words) <= len(array.words) + 1]
        return self.in_block(array) and not any(x.shape in (array.shape, array.shape[1:]) for x in near)

    def is_bias(self, array: Array) -> bool:
        """Whether a bias has a length of its kernel, or is one of each member of a stack."""
        kernels = [x for x in self.direct(array.scope) if x.is_kernel]
        return any(_fits_bias(array, x.shape) for x in kernels)

    def is_bias_of_flat_file(self, array: Array) -> bool:
        """Whether a bias has the name of a kernel beside it, and a length of it."""
        layer = array.leaf.rpartition("_")[0]
        kernels = [x for x in self.direct(array.scope) if names.flat_layer(x.leaf) == layer or x.leaf == layer]
        return any(_fits_bias(array, x.shape) for x in kernels)

    def is_added(self, array: Array) -> bool:
        """Whether a bias of a block is a vector."""
        is_alone = array.leaf in names.BIASES and len(array.shape) == 1 and not self._only_kernels(array.scope)
        is_row = math.prod(array.shape) == math.prod(array.shape[-1:])
        return (is_alone and bool(self.kernels)) or (is_row and self.in_block(array))

    def is_statistic(self, array: Array) -> bool:
        """Whether a running statistic is a vector, and no kernel stands beside it."""
        return array.is_vector and not self._only_kernels(array.scope)

    def is_of_norm(self, array: Array) -> bool:
        """Whether a parameter of a normalization is a vector, by its scope's name or by its twin beside it."""
        if not array.is_vector or any(x.is_kernel for x in self.direct(array.scope)):
            return False
        twins = [x for x in self.direct(array.scope) if x is not array and x.shape == array.shape]
        pairs = ({"weight", "bias"}, {"scale", "bias"}, {"gamma", "beta"}, {"mean", "var"}, {"alpha", "beta"},
                 {"scale", "offset"}, {"moving_mean", "gamma"}, {"moving_mean", "beta"}, {"mean", "scale"},
                 {"translate", "log_scale"})  # fmt: skip
        is_named = any(map(names.NORM.fullmatch, array.scope[-1:]))
        return is_named or any({array.leaf, x.leaf} in pairs for x in twins)

    def is_average_of_norm(self, array: Array) -> bool:
        """Whether an average stands below a normalization."""
        return array.is_vector and any(map(names.NORM.fullmatch, array.scope[:-1]))

    def is_of_activation(self, array: Array) -> bool:
        """Whether a parameter of an activation is a vector in a scope of its own; of a list, if it is called weight."""
        scope = "".join(array.scope[-1:])
        is_named = names.ACTIVATION.fullmatch(scope) is not None or (scope.isdigit() and array.leaf == "weight")
        return is_named and array.is_vector and array.scope not in self._with_kernels

    def is_vector_of_block(self, array: Array) -> bool:
        """Whether a factor of a block's features is a number or a vector."""
        return array.is_vector and self.in_block(array)

    def is_sequence(self, array: Array) -> bool:
        """Whether what a block adds is a vector, or a batch of one of vectors, and goes with no kernel."""
        is_batch = len(array.shape) > 2 and array.shape[0] == 1
        return self.in_block(array) if array.is_vector else is_batch and self.is_free(array)

    def is_table_of_positions(self, array: Array) -> bool:
        """Whether a matrix has the width of a token or an embedding beside it, and is no kernel's shape."""
        depth = len(array.words)
        around = [x for x in self.under(array.scope) if len(x.words) <= depth + 1 and x is not array]
        widths = [x.shape[-1:] for x in around if re.search(r"token|embed", ".".join(x.words[depth - 1 :]))]
        return len(array.shape) == 2 and array.shape[-1:] in widths and self.is_free(array)

    def is_table_of_modulation(self, array: Array) -> bool:
        """Whether a matrix has a few rows: a shift and a scale of each of a block's steps."""
        is_short = len(array.shape) == 2 and array.shape[0] <= _LONGEST_MODULATION < array.shape[1]
        return is_short and self.is_free(array)

    def is_table_of_attention(self, array: Array) -> bool:
        """Whether a matrix has an entry for each head, or a row for each difference of positions on an axis."""
        if array.is_vector or len(array.shape) > 3 or not self.is_free(array):
            return False
        *others, rows, columns = array.shape
        if others or not array.leaf.endswith(("_table", "_biases")):
            return rows % 2 == 1 and (not others or columns % 2 == 1)
        is_table = array.leaf.endswith("_table")
        is_odd = bool(rows % 2) or math.isqrt(max(rows - 3, 0)) ** 2 == rows - 3  # three more entries for a token
        block = array.scope if array.scope in self._with_kernels else array.scope[:-1]
        widths = [n for x in self.under(block) if x.is_kernel for n in x.shape]
        return (is_odd or not is_table) and any(n % (columns if is_table else rows) == 0 for n in widths)

    def is_bias_of_heads(self, array: Array) -> bool:
        """Whether a matrix (heads, width of a head) has as many entries as an axis of a kernel beside it."""
        size = math.prod(array.shape)
        kernels = [x for x in self.under(array.scope) if x.is_kernel]
        fits = any(size in x.shape or math.prod(x.shape[1:]) == size for x in kernels)
        return len(array.shape) == 2 and fits and self.is_free(array)

    def is_decay(self, array: Array) -> bool:
        """Whether a parameter of a recurrence stands beside others of it, and the projections of its block."""
        own = {x.leaf for x in self.direct(array.scope)}
        is_recurrence = bool(own & {"time_decay", "recurrent_param", "slope_rate"})
        is_recurrence |= "A_log" in own and bool(own & {"D", "dt_bias"})
        return is_recurrence and self.is_free(array)

    def is_constant(self, array: Array) -> bool:
        """Whether a constant of a block is a vector, a truth value, or a table that begins with axes of length 1."""
        is_row = array.is_vector or array.shape[:1] == (1,)
        return is_row and self.is_free(array) and (array.leaf != "bias" or array.is_whole)

    def is_mask_of_attention(self, array: Array) -> bool:
        """Whether a mask is one number, of truth values or integers, or a table: a vector may be one of channels."""
        is_vector = array.is_vector and math.prod(array.shape) > 1
        return (array.is_whole or not is_vector) and self.is_constant(array)

    def is_alone(self, array: Array) -> bool:
        """Whether a vector is in no layer's scope."""
        return array.is_vector and bool(self.kernels) and self._layer_of(array) is None

    def is_boxes(self, array: Array) -> bool:
        """Whether boxes have two or four numbers each."""
        is_alone = self._layer_of(array) is None and array.shape not in self._parameters
        return is_alone and bool(self.kernels) and array.shape[-1:] in ((2,), (4,))

    def is_counter(self, array: Array) -> bool:
        """Whether a counter is one number."""
        return math.prod(array.shape) == 1

    def is_index(self, array: Array) -> bool:
        """Whether positions are integers."""
        return array.is_whole and array.dtype != "bool" and self.in_block(array)

    # -- kernels in doubt -----------------------------------------------------------------------------------------
    def near(self, array: Array) -> Iterator[Array]:
        """Yield the kernels of which an array that is not understood may be a part."""
        adapter = self._adapter_of(array)
        scope = array.scope if adapter is None else adapter
        has_kernel = any(x.is_kernel or is_part(x) for x in self.direct(scope))
        for kernel in self.kernels:
            own = kernel.scope
            is_inside = array.words[: len(own)] == own
            if not own and kernel.role != "only kernel":  # of a file without scopes
                is_inside = array.words[0].startswith(names.flat_layer(kernel.leaf) or kernel.leaf)
            is_above = bool(own) and own[:-1] == scope
            is_other = not has_kernel or array.shape == kernel.shape
            is_neighbour = bool(own) and bool(scope) and own[:-1] == scope[:-1] and is_other
            is_beside = (is_above or is_neighbour) and _shares_length(array, kernel, is_number=is_above)
            if is_inside or is_beside or (is_above and adapter is not None) or self._is_in_tree_of(array, kernel):
                yield kernel

    def _is_in_tree_of(self, array: Array, kernel: Array) -> bool:
        """Whether an array has the name of a kernel or of its layer in another tree, or lies below such a name."""
        scope = kernel.scope or (kernel.leaf,)
        inner = () if all(word.isdigit() for word in scope[1:]) else scope[1:]
        return any(x and array.words[n : n + len(x)] == x for x in (scope, inner) for n in (1, 2))

    def doubtful(self) -> Iterator[tuple[Array, Array]]:
        """Yield kernels that may not be used as stored, each with the kernel or other array that may change it."""
        for kernel in self.kernels:
            for other in (*self._kernels_beside(kernel), *self._in_trees_beside(kernel)):
                yield kernel, other

    def _kernels_beside(self, kernel: Array) -> Iterator[Array]:
        """Yield kernels in or below the scope of a layer's only kernel, and of a kernel without a scope."""
        scope = kernel.scope
        is_only = kernel.role == "only kernel"
        layer = None if scope or is_only else names.flat_layer(kernel.leaf)
        if layer is not None:
            yield from (x for x in self.kernels if x.scope and x.words[0].startswith(f"{layer}_"))
        for other in self.under(scope) if is_only else ():
            if other is kernel or not other.is_kernel:
                continue
            if not scope and other.scope and other.shape != kernel.shape:
                continue  # a kernel without a scope may be one of a model's own parameters
            is_recurrent = other.leaf.startswith("recurrent_") and kernel.leaf == "kernel"
            is_inside_matrix = len(kernel.shape) == 2 and other.scope != scope and other.shape != kernel.shape
            if not (is_recurrent or is_inside_matrix or (not scope and other.role != "only kernel")):
                yield other

    def _in_trees_beside(self, kernel: Array) -> Iterator[Array]:
        """Yield kernels and vectors under a kernel's name in another tree, whose tree is no model of its own."""
        inner = kernel.scope[1:]
        are_counted = all(word.isdigit() for word in inner)
        for own, skipped in ((0, 1), (0, 2), (1, 1), (1, 2)):
            own_root, name = kernel.words[:own], kernel.words[own:]
            is_name_alone = len(name) == 1 and (own or kernel.role != "only kernel")
            for array in () if is_name_alone else self.under(name, skipped):
                root = array.words[:skipped]
                is_own = root == own_root or array.role == "explained"
                if is_own or array.words[: len(kernel.scope)] == kernel.scope:
                    continue
                has_same = array.shape == kernel.shape and not self._has_same_leaves(array, kernel)
                # Lists of layers and of normalizations beside each other have counted names.
                is_of_list = own and are_counted and not has_same
                if not is_of_list and not self._is_twin(array, kernel, root, own_root):
                    yield array

    def _is_twin(self, array: Array, kernel: Array, root: Words, own_root: Words) -> bool:
        """Whether an array under a kernel's name in a tree beside is a layer of its own, and no mask or scale."""
        is_vector_of_axis = array.is_vector and math.prod(array.shape) in {*kernel.shape} - {1}
        if not is_vector_of_axis and not _goes_with(array.shape, kernel.shape):
            return True
        is_state = names.TRAINING_STATE.fullmatch(root[0])
        if is_state or array.is_computed or _without_digits(root) == _without_digits(own_root):
            return True
        # Masks are of kernels alone; a model has biases and normalizations besides, and more than another one's names.
        beside, of_kernel = self._shapes(root), self._shapes(own_root)
        has_own = _has_kernels_of_its_own(beside, of_kernel)
        has_kernels_alone = all(x.is_kernel for x in self.under(root))
        if has_own and not has_kernels_alone:
            return True
        if not self._has_same_leaves(array, kernel):
            return False
        is_second = all(map(names.is_second_model, {*root} - {*own_root}))
        if has_kernels_alone:
            own_is_alike = all(x.is_kernel for x in self.under(own_root))
            return (is_second and own_is_alike) or (has_own and _has_kernels_of_its_own(of_kernel, beside))
        if is_second:
            return True
        return any(x.words[: len(root)] != root and x.words[: len(own_root)] != own_root for x in self.kernels)

    def _has_same_leaves(self, array: Array, kernel: Array) -> bool:
        """Whether the scopes of two arrays hold arrays of the same names."""
        return {x.leaf for x in self.direct(array.scope)} == {x.leaf for x in self.direct(kernel.scope)}

    def _shapes(self, root: Words) -> dict[Words, Shape]:
        """Shapes of kernels below a root, by their names without it."""
        return {x.words[len(root) :]: x.shape for x in self.under(root) if x.is_kernel and x.words != root}


def is_part(array: Array) -> bool:
    """Whether the name of a matrix or kernel says that a layer's weight is computed from it, or added to one."""
    words = array.words
    is_named = "parametrizations" in words or array.leaf.startswith(("weight_", "kernel_", "original"))
    return not array.is_vector and (is_named or any(map(names.ADDED.fullmatch, words)))


def stacked(kernel: Shape, bias: Shape) -> int:
    """Return how many axes in front count the members of a stack of matrices, by a bias of each; 0: it is no stack."""
    sizes = tuple(n for n in bias if n != 1)
    axes = len(sizes) - 1
    is_stack = axes > 0 and kernel[:axes] == sizes[:axes]
    return axes if is_stack and sizes[-1] in kernel[axes:] and len(kernel) - axes >= 2 else 0


def _fits_bias(bias: Array, kernel: Shape) -> bool:
    """Whether a bias has the length of one of a kernel's axes, or of several, or goes with a stack or a recurrence."""
    if bias.is_vector:
        return math.prod(bias.shape) == 1 or any(math.prod(bias.shape) % n == 0 for n in kernel if n > 1)
    is_of_heads = len(kernel) == 3 and bias.shape == kernel[1:]  # Flax's attention: (in, heads, width)
    is_of_gates = len(kernel) == 2 and bias.shape == (2, kernel[1])  # Keras's GRU
    return is_of_heads or is_of_gates or stacked(kernel, bias.shape) > 0


def _shares_length(array: Array, kernel: Array, *, is_number: bool) -> bool:
    """Whether an array has a length of a kernel's axes, or of its columns as a matrix; or is a number."""
    size = math.prod(kernel.shape)
    lengths = {*kernel.shape, *(size // n for n in kernel.shape if n)} - {1}
    own = {*array.shape, math.prod(array.shape)} - {1}
    return bool(own & lengths) if own else is_number


def has_one_output(kernel: Shape, bias: Shape) -> bool:
    """Whether a kernel may be a stack of matrices with one output, (member, in, 1), by its bias (member, 1)."""
    return len(bias) > 1 and bias[-1] == 1 and (*kernel[: len(bias) - 1], kernel[-1]) == bias


def _goes_with(shape: Shape, kernel: Shape) -> bool:
    """Whether an array goes with a kernel entry by entry, and is no vector: of its shape, or with axes of length 1."""
    if is_vector(shape):
        return shape == kernel and len(shape) > 1
    if len(shape) == len(kernel):
        return all(n in (1, m) for n, m in zip(shape, kernel, strict=True))
    return len(kernel) > 2 and shape in (kernel[:2], kernel[-2:])


def _has_kernels_of_its_own(tree: Mapping[Words, Shape], other: Mapping[Words, Shape]) -> bool:
    """Whether a kernel of a tree has no name or no shape that goes with one of another tree."""
    return any(name not in other or not _goes_with(shape, other[name]) for name, shape in tree.items())


def _without_digits(words: Sequence[str]) -> Words:
    """Return words with their numbers, and letters that count, left open: ``Mixed_5b``, ``branch_a``, ``conv1``."""
    return tuple(_COUNT.sub("#", word) for word in words)
