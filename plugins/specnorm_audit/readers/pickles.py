"""What unpickling a PyTorch checkpoint would give, without doing it.

The pickle is interpreted with inert values: nothing in it is imported, called or allocated. Its tensors are told by
where they lie: the storage, the type, the place in it, the shape and the strides. What else it would build (arguments
of a training run, dates, whole modules) becomes an `Inert` that holds what it was given, so that no tensor in it is
lost.
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
"""What storages hold."""
ITEMSIZE = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1,
    "bool": 1, "complex64": 8, "complex128": 16, "uint16": 2, "uint32": 4, "uint64": 8, "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1, "float8_e5m2": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
}  # fmt: skip
"""Bytes of a number, by the names of torch's types."""
_TENSOR, _TENSOR_OF = "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v3"
_LEAST = {_TENSOR: 4, f"{_TENSOR}_v2": 6, _TENSOR_OF: 7}
"""Arguments of torch's functions."""
_PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_CALLS = frozenset({
    *_LEAST, *_PARAMETERS, "torch.Size", "torch.device", "collections.OrderedDict",
})  # fmt: skip
_DTYPES = frozenset(f"torch.{name}" for name in ITEMSIZE)
SCALARS = (str, int, float, bytes, type(None))
_MOST_AXES = 64
"""Of a tensor; torch computes with no more."""
_WORK = 16
"""Items that its calls may be given for each byte of a pickle, however often they are given."""
_ADVICE = "Only plain state dicts are opened: in the program that made the file, torch.save(model.state_dict(), path)."


@dataclass(frozen=True)
class StoredTensor:
    """A tensor, by where its numbers lie: offset and strides count numbers of its storage."""

    key: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def reach(self) -> int:
        """One more than the distance of its last number from its first."""
        return 0 if 0 in self.shape else sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)) + 1


@dataclass(frozen=True)
class Storage:
    """Memory the pickle would ask for: so many numbers of one type."""

    key: str
    kind: str
    numel: int
    nbytes: int


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(eq=False)
class Inert:
    """Stands for what a call of ``name`` would give: holds arguments by their place, entries and attributes by name."""

    name: str
    items: list[tuple[Any, Any]] = field(default_factory=list)


class Scan:
    """Interprets the operations that torch's weights-only unpickler knows, on inert values."""

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}
        """What each claims. One has one type and one length: torch would read a second tensor by those of the first."""
        self.inert: list[str] = []
        """Names that torch would import and call, and that are no part of a state dict: nothing was."""

    def run(self, file: BinaryIO) -> Any:
        """What a pickle holds: dictionaries, lists and tuples as such, `StoredTensor`, `Inert`."""
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._work = 0
        start = file.tell()
        for opcode, argument, _ in pickletools.genops(file):
            if self._work > _WORK * (file.tell() - start):
                raise ModelFileError(f"its pickle makes many things of one that is large. {_ADVICE}")
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
            self._hold(top, items)
        else:
            top.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        self._set(list(zip(items[::2], items[1::2], strict=True)))

    def _set(self, items: list[Any]) -> None:
        top = self._stack[-1]
        if not isinstance(top, dict | Inert):
            raise ModelFileError(f"its pickle sets entries of what is no dictionary. {_ADVICE}")
        for key, value in items:
            # Keys are hashed, and a nested one can be made to take for ever: another one stands for it.
            plain = isinstance(key, SCALARS)
            entry = (key, value) if plain else (Inert("key"), Inert("entry", [("key", key), ("value", value)]))
            if isinstance(top, Inert):
                top.items.append(entry)
            else:
                top[entry[0]] = entry[1]

    def _hold(self, inert: Inert, values: Sequence[Any]) -> None:
        """Keep what a stand-in is given without names."""
        self._work += sum(map(_size, values))
        inert.items += enumerate(values)

    def _name_on_stack(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        self._name_global(f"{module} {name}")

    def _name_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        self._push(_Global(full))

    def _make(self, _: Any) -> None:
        """What would be built without a call of its class."""
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, _Global) or function.name in _CALLS or not isinstance(arguments, tuple):
            raise ModelFileError(f"its pickle builds something that is no part of a state dict. {_ADVICE}")
        self._stand_in(function, arguments)

    def _stand_in(self, function: _Global, arguments: Sequence[Any]) -> None:
        if function.name in _DTYPES or _itemsize(function.name) is not None:
            raise ModelFileError(f"its pickle calls {function.name}, which is a type. {_ADVICE}")
        if function.name not in self.inert:
            self.inert.append(function.name)
        found = Inert(function.name)
        self._hold(found, arguments)
        self._push(found)

    def _call(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise ModelFileError(f"its pickle calls something that is no part of a state dict. {_ADVICE}")
        name = function.name
        if name not in _CALLS:
            self._stand_in(function, arguments)
            return
        self._work += sum(map(_size, arguments))
        if name.startswith(_TENSOR):
            if len(arguments) < _LEAST[name]:
                raise ModelFileError("one of its tensors is built from too little.")
            self._push(_tensor(*arguments, of=name == _TENSOR_OF))
        elif name in _PARAMETERS:
            if not isinstance(arguments[0], StoredTensor):
                raise ModelFileError("one of its parameters is no tensor.")
            self._push(arguments[0])
        elif name == "torch.Size":
            if not _counts(*arguments[0]):
                raise ModelFileError("one of its shapes holds what is no number.")
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
                self._hold(top, state if isinstance(state, tuple) else (state,))
        elif not isinstance(state, dict) or not isinstance(top, OrderedDict):
            raise ModelFileError(f"its pickle changes an object after building it. {_ADVICE}")

    def _persistent(self, _: Any) -> None:
        kind, storage, key, _location, numel, *views = self._pop()
        itemsize = _itemsize(storage.name)
        # Views of storages, which PyTorch wrote before 0.4, could be pointed at storages of other sizes.
        plain = kind == "storage" and type(key) is str and not any(views)
        if not plain or itemsize is None or not _counts(numel):
            raise ModelFileError(f"its pickle asks for something that is no plain storage. {_ADVICE}")
        claimed = Storage(key, storage.name.rpartition(".")[2], numel, numel * itemsize)
        first = self.storages.setdefault(key, claimed)
        if first != claimed:
            raise ModelFileError(
                f"storage {key!r} is used as {first.numel} elements of {first.kind} and as {numel} of {claimed.kind}, "
                "which torch would not tell apart. Save its tensors with .clone()."
            )
        self._push(claimed)


def _itemsize(name: str) -> int | None:
    module, _, storage = name.rpartition(".")
    kind = _TYPES.get(storage.removesuffix("Storage")) if storage.endswith("Storage") else None
    return ITEMSIZE[kind] if kind and module in ("torch", "torch.cuda", "torch.storage") else None


def _size(value: Any) -> int:
    """Items of a container, 1 of anything else."""
    return 1 + (len(value) if isinstance(value, list | tuple | dict) else 0)


def _counts(*values: Any) -> bool:
    return all(type(value) is int and 0 <= value < 2**63 for value in values)


def _tensor(
    storage: Any, offset: int, shape: Any, strides: Any, _grad: Any = False, _hooks: Any = None, *rest: Any, of: bool
) -> StoredTensor:
    """What one of torch's functions would build; ``of``: the third of them, which is given a type as well."""
    if not isinstance(storage, Storage) or len(rest) > 1 + of:
        raise ModelFileError("one of its tensors has no proper storage.")
    if any(rest[of:]):
        raise ModelFileError("one of its tensors is to be conjugated or negated as it is read. Save it with .clone().")
    dtype = rest[0].name.removeprefix("torch.") if of else _TYPES[storage.kind.removesuffix("Storage")]
    if dtype not in ITEMSIZE or (of and storage.kind != "UntypedStorage"):
        raise ModelFileError(f"one of its tensors is of type {dtype} over a {storage.kind}.")
    fits = len(shape) == len(strides) <= _MOST_AXES
    if not fits or not _counts(offset, *shape, *strides):
        raise ModelFileError("one of its tensors has no proper shape.")
    found, held = StoredTensor(storage.key, dtype, offset, tuple(shape), tuple(strides)), storage.nbytes
    if max(math.prod(shape), offset * (0 not in shape) + found.reach) * ITEMSIZE[dtype] > held:
        raise ModelFileError(
            f"a tensor of shape {found.shape} is built over {storage.numel} stored elements. Expanded tensors are not "
            "opened: save them with .contiguous()."
        )
    return found


_OPERATIONS: dict[str, Callable[[Scan, Any], None]] = {
    **dict.fromkeys(("PROTO", "STOP", "FRAME"), lambda *_: None),
    "GLOBAL": Scan._name_global,
    "STACK_GLOBAL": Scan._name_on_stack,
    "REDUCE": Scan._call,
    "NEWOBJ": Scan._make,
    "EMPTY_SET": lambda scan, _: scan._push([]),
    "ADDITEMS": lambda scan, _: scan._append_items(scan._pop_mark()),
    "FROZENSET": lambda scan, _: scan._push(tuple(scan._pop_mark())),
    "BUILD": Scan._build,
    "BINPERSID": Scan._persistent,
    "MARK": Scan._mark,
    "TUPLE": lambda scan, _: scan._push(tuple(scan._pop_mark())),
    "TUPLE1": lambda scan, _: scan._tuple_of(1),
    "TUPLE2": lambda scan, _: scan._tuple_of(2),
    "TUPLE3": lambda scan, _: scan._tuple_of(3),
    "EMPTY_TUPLE": lambda scan, _: scan._push(()),
    "EMPTY_LIST": lambda scan, _: scan._push([]),
    "EMPTY_DICT": lambda scan, _: scan._push({}),
    "APPEND": lambda scan, _: scan._append_items([scan._pop()]),
    "APPENDS": lambda scan, _: scan._append_items(scan._pop_mark()),
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
