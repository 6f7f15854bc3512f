"""Interpret the pickle of a PyTorch checkpoint without unpickling it.

Nothing in the pickle is imported, called or allocated. A tensor becomes a `StoredTensor`: its storage, dtype, offset,
shape and strides. Any other object that unpickling would build (arguments of a training run, dates, whole modules)
becomes an `Inert` with the object's arguments, so that tensors in it are not lost.
"""

from __future__ import annotations

import math
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from specnorm.errors import ModelFileError

_TYPES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32",
    "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "ComplexFloat": "complex64",
    "ComplexDouble": "complex128", "Untyped": "uint8",
}  # fmt: skip
"""Dtypes of the numbers in storages, by the names of torch's storage classes."""
ITEMSIZE = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1,
    "bool": 1, "complex64": 8, "complex128": 16, "uint16": 2, "uint32": 4, "uint64": 8, "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1, "float8_e5m2": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
}  # fmt: skip
"""Number of bytes of a number, by the names of torch's dtypes."""
_TENSOR = "torch._utils._rebuild_tensor"
_TENSOR_WITH_DTYPE = "torch._utils._rebuild_tensor_v3"
_LEAST = {_TENSOR: 4, f"{_TENSOR}_v2": 6, _TENSOR_WITH_DTYPE: 7}
"""Smallest number of arguments of torch's functions that build tensors."""
_PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_CALLS = frozenset({
    *_LEAST, *_PARAMETERS, "torch.Size", "torch.device", "collections.OrderedDict",
})  # fmt: skip
_DTYPES = frozenset(f"torch.{name}" for name in ITEMSIZE)
SCALARS = (str, int, float, bytes, type(None))
_MOST_AXES = 64
"""Largest number of axes of a tensor, as in torch."""
_WORK = 16
"""Largest number of items that calls of a pickle may take together, for each byte of the pickle."""
_ADVICE = "Only plain state dicts are opened: in the program that made the file, torch.save(model.state_dict(), path)."


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a storage; offset and strides are counted in numbers, not bytes."""

    key: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def reach(self) -> int:
        """Number of consecutive numbers of the storage, from the tensor's first number to its last one."""
        if 0 in self.shape:
            return 0
        return 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))


@dataclass(frozen=True)
class Storage:
    """A storage that the pickle refers to: ``numel`` numbers of one kind."""

    key: str
    kind: str
    numel: int
    nbytes: int


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(eq=False)
class Inert:
    """An object that a call of ``name`` would build.

    ``items`` has pairs: arguments with their number, entries and attributes with their key.
    """

    name: str
    items: list[tuple[Any, Any]] = field(default_factory=list)


class Scan:
    """Interpreter of the operations that torch's weights-only unpickler knows.

    ``states_views``: whether each storage says of which other one it is a view, as before torch 1.6.
    """

    def __init__(self, *, states_views: bool = False) -> None:
        self.no_view = [None] if states_views else []
        self.storages: dict[str, Storage] = {}
        """Storages by their keys. Each has one kind and length: torch would read all its tensors by the first ones."""
        self.inert: list[str] = []
        """Names that unpickling would import and call, and that are no part of a state dict."""

    def run(self, file: BinaryIO) -> Any:
        """Return the object in a pickle, made of dictionaries, lists, tuples, numbers, `StoredTensor` and `Inert`."""
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._work = 0
        start = file.tell()
        for opcode, argument, _ in pickletools.genops(file):
            if self._work > _WORK * (file.tell() - start):
                raise ModelFileError(
                    f"its pickle copies a large object many times, which no state dict does. {_ADVICE}"
                )
            operation = _OPERATIONS.get(opcode.name)
            if operation is None:
                raise ModelFileError(f"its pickle uses {opcode.name}, which no state dict needs. {_ADVICE}")
            operation(self, argument)
        return self._pop()

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        return self._stack.pop()

    def _mark(self, _: Any) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _put(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self._stack[-1]

    def _get(self, index: int) -> None:
        self._push(self._memo[index])

    def _tuple_of(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._push(tuple(reversed(items)))

    def _append_items(self, items: list[Any]) -> None:
        if isinstance(top := self._stack[-1], Inert):
            self._add_arguments(top, items)
        else:
            top.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        self._set(list(zip(items[::2], items[1::2], strict=True)))

    def _set(self, items: list[Any]) -> None:
        top = self._stack[-1]
        if not isinstance(top, dict | Inert):
            raise ModelFileError(f"its pickle sets entries of an object that is not a dictionary. {_ADVICE}")
        for key, value in items:
            # Keys are hashed, and hashing a nested key may take for ever: it is kept in the entry instead.
            if not isinstance(key, SCALARS):
                value = Inert("entry", [("key", key), ("value", value)])
                key = Inert("key")
            if isinstance(top, Inert):
                top.items.append((key, value))
            else:
                top[key] = value

    def _add_arguments(self, inert: Inert, values: Sequence[Any]) -> None:
        """Add values without names to the items of an `Inert`."""
        self._work += sum(map(_size, values))
        inert.items += enumerate(values)

    def _name_on_stack(self, _: Any) -> None:
        name = self._pop()
        module = self._pop()
        self._name_global(f"{module} {name}")

    def _name_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        self._push(_Global(full))

    def _make(self, _: Any) -> None:
        """Push an `Inert` for an object that is built by its class's ``__new__``."""
        function, arguments = self._pop_call()
        if function.name in _CALLS:
            raise ModelFileError(f"its pickle builds something that is no part of a state dict. {_ADVICE}")
        self._push_inert(function, arguments)

    def _pop_call(self) -> tuple[_Global, tuple[Any, ...]]:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise ModelFileError(f"its pickle calls something that is no part of a state dict. {_ADVICE}")
        return function, arguments

    def _push_inert(self, function: _Global, arguments: Sequence[Any]) -> None:
        if function.name in _DTYPES or _itemsize(function.name) is not None:
            raise ModelFileError(f"its pickle calls {function.name}, which is a type. {_ADVICE}")
        if function.name not in self.inert:
            self.inert.append(function.name)
        inert = Inert(function.name)
        self._add_arguments(inert, arguments)
        self._push(inert)

    def _call(self, _: Any) -> None:
        function, arguments = self._pop_call()
        name = function.name
        if name not in _CALLS:
            self._push_inert(function, arguments)
            return
        self._work += sum(map(_size, arguments))
        if name.startswith(_TENSOR):
            if len(arguments) < _LEAST[name]:
                raise ModelFileError("one of its tensors lacks arguments.")
            self._push(_tensor(*arguments, has_dtype=name == _TENSOR_WITH_DTYPE))
        elif name in _PARAMETERS:
            if not isinstance(arguments[0], StoredTensor):
                raise ModelFileError("one of its parameters is not a tensor.")
            self._push(arguments[0])
        elif name == "torch.Size":
            if not _counts(*arguments[0]):
                raise ModelFileError("one of its shapes has an entry that is not a number.")
            self._push(tuple(arguments[0]))
        elif name == "torch.device":
            self._push(None)
        else:
            self._push(OrderedDict())
            self._set(list(arguments[0]) if arguments else [])

    def _build(self, _: Any) -> None:
        state = self._pop()
        self._work += _size(state)
        top = self._stack[-1]
        if isinstance(top, Inert):
            if isinstance(state, dict):
                self._set(list(state.items()))
            else:
                self._add_arguments(top, state if isinstance(state, tuple) else (state,))
        elif not isinstance(state, dict) or not isinstance(top, OrderedDict):
            raise ModelFileError(f"its pickle changes an object after building it. {_ADVICE}")

    def _persistent(self, _: Any) -> None:
        kind, storage, key, _location, numel, *views = self._pop()
        itemsize = _itemsize(storage.name)
        # PyTorch wrote views of storages before 0.4; a view could refer to a storage of another size.
        is_plain = kind == "storage" and type(key) is str and views == self.no_view
        if not is_plain or itemsize is None or not _counts(numel):
            raise ModelFileError(f"its pickle asks for something that is not a plain storage. {_ADVICE}")
        stated = Storage(key, storage.name.rpartition(".")[2], numel, numel * itemsize)
        first = self.storages.setdefault(key, stated)
        if first != stated:
            raise ModelFileError(
                f"storage {key!r} is used as {first.numel} elements of {first.kind} and as {numel} of {stated.kind}, "
                "which torch would not tell apart. Save its tensors with .clone()."
            )
        self._push(stated)


def _itemsize(name: str) -> int | None:
    """Return the number of bytes of a number in a storage class; None: the name is no storage class of torch."""
    module, _, storage = name.rpartition(".")
    kind = _TYPES.get(storage.removesuffix("Storage")) if storage.endswith("Storage") else None
    return ITEMSIZE[kind] if kind and module in ("torch", "torch.cuda", "torch.storage") else None


def _size(value: Any) -> int:
    """Return 1, and 1 more for each item of a container."""
    return 1 + (len(value) if isinstance(value, list | tuple | dict) else 0)


def _counts(*values: Any) -> bool:
    """Whether all values are whole numbers from 0 to 2^63 - 1."""
    return all(type(value) is int and 0 <= value < 2**63 for value in values)


def _tensor(
    storage: Any, offset: int, shape: Any, strides: Any, _grad: Any = False, _hooks: Any = None, *rest: Any,
    has_dtype: bool,
) -> StoredTensor:  # fmt: skip
    """Return the tensor that one of torch's functions would build; ``has_dtype``: ``rest`` begins with its dtype."""
    if has_dtype:
        stated_dtype, *metadata = rest
        dtype = stated_dtype.name.removeprefix("torch.")
    else:
        metadata = list(rest)
        dtype = ""
    if not isinstance(storage, Storage) or len(metadata) > 1:
        raise ModelFileError("one of its tensors has no proper storage.")
    if any(metadata):
        raise ModelFileError(
            "one of its tensors is to be conjugated or negated when it is read. Save it with .clone()."
        )
    if not has_dtype:
        dtype = _TYPES[storage.kind.removesuffix("Storage")]
    if dtype not in ITEMSIZE or (has_dtype and storage.kind != "UntypedStorage"):
        raise ModelFileError(f"one of its tensors is of type {dtype} over a {storage.kind}.")
    has_axes = len(shape) == len(strides) <= _MOST_AXES
    if not has_axes or not _counts(offset, *shape, *strides):
        raise ModelFileError("one of its tensors has no proper shape.")
    tensor = StoredTensor(storage.key, dtype, offset, tuple(shape), tuple(strides))
    last = 0 if 0 in shape else offset + tensor.reach
    if max(math.prod(shape), last) * ITEMSIZE[dtype] > storage.nbytes:
        raise ModelFileError(
            f"a tensor of shape {tensor.shape} is built over {storage.numel} stored elements. Expanded tensors are not "
            "opened: save them with .contiguous()."
        )
    return tensor


_OPERATIONS: dict[str, Callable[[Scan, Any], None]] = {
    **dict.fromkeys(("PROTO", "STOP", "FRAME"), lambda *_: None),
    "GLOBAL": Scan._name_global,
    "STACK_GLOBAL": Scan._name_on_stack,
    "REDUCE": Scan._call,
    "NEWOBJ": Scan._make,
    "EMPTY_SET": lambda scan, _: scan._push([]),
    **dict.fromkeys(("ADDITEMS", "APPENDS"), lambda scan, _: scan._append_items(scan._pop_mark())),
    "BUILD": Scan._build,
    "BINPERSID": Scan._persistent,
    "MARK": Scan._mark,
    **dict.fromkeys(("TUPLE", "FROZENSET"), lambda scan, _: scan._push(tuple(scan._pop_mark()))),
    "TUPLE1": lambda scan, _: scan._tuple_of(1),
    "TUPLE2": lambda scan, _: scan._tuple_of(2),
    "TUPLE3": lambda scan, _: scan._tuple_of(3),
    "EMPTY_TUPLE": lambda scan, _: scan._push(()),
    "EMPTY_LIST": lambda scan, _: scan._push([]),
    "EMPTY_DICT": lambda scan, _: scan._push({}),
    "APPEND": lambda scan, _: scan._append_items([scan._pop()]),
    "SETITEM": lambda scan, _: scan._set_items([scan._pop(), scan._pop()][::-1]),
    "SETITEMS": lambda scan, _: scan._set_items(scan._pop_mark()),
    "NONE": lambda scan, _: scan._push(None),
    "NEWTRUE": lambda scan, _: scan._push(True),
    "NEWFALSE": lambda scan, _: scan._push(False),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), Scan._put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), Scan._get),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), Scan._push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"), Scan._push),
}
