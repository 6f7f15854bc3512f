"""What unpickling a PyTorch checkpoint would do, told without doing it.

``torch.load(weights_only=True)`` runs no code, but it believes sizes: storages are allocated, and tensors built over
them, as the pickle says. Here the pickle is interpreted with inert values (nothing is imported, called or allocated),
so that what it names and how much memory it wants is known before torch sees it. No data is read this way.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from specnorm.auditing.readers.archives import stored_entries
from specnorm.errors import ModelFileError

_ITEMSIZE = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1,
    "ComplexFloat": 8, "ComplexDouble": 16,
}  # fmt: skip
_REBUILD = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
_CALLS = frozenset({
    *_REBUILD, "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state", "torch.Size",
    "torch.device", "collections.OrderedDict", "collections.Counter",
})  # fmt: skip
_DTYPES = frozenset(
    f"torch.{name}"
    for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
)
_SCALARS = (str, int, float, bytes, type(None))
_MOST_AXES = 64
"""Of a tensor; torch computes with no more."""
_WORK = 16
"""Items that its calls may be given for each byte of a pickle, however often they are given."""
_ADVICE = "Only plain state dicts are opened: in the program that made the file, torch.save(model.state_dict(), path)."


def check_checkpoint(file: BinaryIO, max_bytes: int) -> None:
    """Refuse a checkpoint that names code, or wants more memory than it brings data.

    Parameters
    ----------
    file : binary file
        Left at its start.
    max_bytes : int
        Most bytes of all tensors.
    """
    size = file.seek(0, 2)
    file.seek(0)
    if size > max_bytes:
        raise ModelFileError(
            f"it has {size} bytes, more than the limit of {max_bytes}. Raise max_bytes if you trust it."
        )
    try:
        if file.read(2) == b"PK":
            _check_zip(file)
        else:
            _check_legacy(file, size)
    except ModelFileError:
        raise
    except Exception as error:  # a hostile file can fail the parsers in any way
        raise ModelFileError(f"it is damaged or cut short: {type(error).__name__}: {error}.") from error
    finally:
        file.seek(0)


def _check_zip(file: BinaryIO) -> None:
    entries = stored_entries(file)
    folders = {name.partition("/")[0] for name in entries}
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1 or len(folders) != 1:
        raise ModelFileError(f"it has {len(pickles)} pickles in {len(folders)} folders; a state dict has one in one.")
    folder = pickles[0].removesuffix("data.pkl")
    scan = Scan()
    scan.run(io.BytesIO(entries[pickles[0]].read(file)))
    for key, claimed in scan.storages.items():
        entry = entries.get(f"{folder}data/{key}")
        stored = 0 if entry is None else entry.size
        if stored < claimed.nbytes:
            raise ModelFileError(f"storage {key!r} claims {claimed.nbytes} bytes; {stored} are stored.")


def _check_legacy(file: BinaryIO, size: int) -> None:
    file.seek(0)
    scan = Scan()
    for _ in range(5):  # magic number, version, system, the object, the keys of the storages that follow
        scan.run(file)
    wanted = sum(claimed.nbytes for claimed in scan.storages.values())
    if wanted > size - file.tell():
        raise ModelFileError(f"its tensors claim {wanted} bytes; {size - file.tell()} are stored.")


@dataclass(frozen=True)
class _Global:
    """A name the pickle would import."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """Memory the pickle would ask for: so many elements of one type."""

    kind: str
    numel: int
    nbytes: int


class _Opaque:
    """A container or object whose content does not matter here, but for how much it is."""

    size = 0


class _Ordered(_Opaque):
    """An OrderedDict: the one object whose attributes a pickle may set."""


class Scan:
    """Interprets the operations that torch's weights-only unpickler knows, on inert values.

    Attributes
    ----------
    storages : dict of str to _Storage
        What each storage claims. A storage has one type and one length: torch would read a second tensor by those of
        the first.
    """

    def __init__(self) -> None:
        self.storages: dict[str, _Storage] = {}
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._work = 0

    def run(self, file: BinaryIO) -> None:
        """Interpret one pickle, and leave the file after it.

        Raises
        ------
        ModelFileError
            If the pickle names something outside a plain state dict.
        """
        self._stack, self._marks, self._memo, self._work = [], [], {}, 0
        start = file.tell()
        for opcode, argument, _ in pickletools.genops(file):
            if self._work > _WORK * (file.tell() - start):
                raise ModelFileError(f"its pickle makes many things of one that is large. {_ADVICE}")
            operation = _OPERATIONS.get(opcode.name)
            if operation is None:
                raise ModelFileError(f"its pickle uses {opcode.name}, which no state dict needs. {_ADVICE}")
            operation(self, argument)

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

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _get(self, index: int) -> None:
        self._push(self._memo[index])

    def _tuple_of(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._push(tuple(reversed(items)))

    def _append_items(self, items: list[Any]) -> None:
        self._stack[-1].extend(items)

    def _set_items(self, items: list[Any]) -> None:
        for key in items[::2]:
            # Keys are hashed: a nested one can be made to take for ever.
            if not isinstance(key, _SCALARS):
                raise ModelFileError(f"one of its dictionaries has a key that is no plain name. {_ADVICE}")
        self._stack[-1].size += len(items)

    def _name_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if full not in _CALLS and full not in _DTYPES and _itemsize(full) is None:
            raise ModelFileError(
                f"it holds more than tensors: opening it would import {full!r}, which could run code. {_ADVICE}"
            )
        self._push(_Global(full))

    def _call(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, _Global) or function.name not in _CALLS or not isinstance(arguments, tuple):
            raise ModelFileError(f"its pickle calls something that is no part of a state dict. {_ADVICE}")
        self._work += sum(map(_size, arguments))
        if function.name in _REBUILD:
            _check_tensor(*arguments[:4])
            self._push(_Opaque())
        elif function.name == "torch.Size":
            self._push(arguments[0])
        elif function.name == "collections.OrderedDict":
            self._push(_Ordered())
            self._set_items([item for pair in (arguments[0] if arguments else ()) for item in pair[:2]])
        elif function.name == "collections.Counter" and not all(isinstance(x, _Opaque) for x in arguments):
            raise ModelFileError(f"its pickle counts something that is no part of a state dict. {_ADVICE}")
        else:
            self._push(_Opaque())

    def _build(self, _: Any) -> None:
        state = self._pop()
        self._work += _size(state)
        if not isinstance(state, _Opaque) or not isinstance(self._stack[-1], _Ordered):
            raise ModelFileError(f"its pickle changes an object after building it. {_ADVICE}")

    def _persistent(self, _: Any) -> None:
        kind, storage, key, _location, numel, *views = self._pop()
        itemsize = _itemsize(storage.name)
        # Views of storages, which PyTorch wrote before 0.4, could be pointed at storages of other sizes.
        plain = kind == "storage" and type(key) is str and not any(views)
        if not plain or itemsize is None or not _counts(numel):
            raise ModelFileError(f"its pickle asks for something that is no plain storage. {_ADVICE}")
        claimed = _Storage(storage.name.rpartition(".")[2], numel, numel * itemsize)
        first = self.storages.setdefault(key, claimed)
        if first != claimed:
            raise ModelFileError(
                f"storage {key!r} is used as {first.numel} elements of {first.kind} and as {numel} of {claimed.kind}, "
                "which torch would not tell apart. Save its tensors with .clone()."
            )
        self._push(claimed)


def _itemsize(name: str) -> int | None:
    module, _, storage = name.rpartition(".")
    if module not in ("torch", "torch.cuda", "torch.storage") or not storage.endswith("Storage"):
        return None
    return 1 if storage == "UntypedStorage" else _ITEMSIZE.get(storage.removesuffix("Storage"))


def _size(value: Any) -> int:
    """Items of a container, 1 of anything else."""
    return 1 + (len(value) if isinstance(value, list | tuple) else value.size if isinstance(value, _Opaque) else 0)


def _counts(*values: Any) -> bool:
    return all(type(value) is int and 0 <= value < 2**63 for value in values)


def _check_tensor(storage: object, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    fits = len(shape) == len(strides) <= _MOST_AXES
    if not isinstance(storage, _Storage) or not fits or not _counts(offset, *shape, *strides):
        raise ModelFileError("one of its tensors has no proper shape.")
    reach = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1
    if 0 not in shape and (math.prod(shape) > storage.numel or reach > storage.numel):
        raise ModelFileError(
            f"a tensor of shape {shape} is built over {storage.numel} stored elements. Expanded tensors are not "
            "opened: save them with .contiguous()."
        )


def _nothing(scan: Scan, argument: Any) -> None:
    del scan, argument


_OPERATIONS: dict[str, Callable[[Scan, Any], None]] = {
    "PROTO": _nothing,
    "STOP": _nothing,
    "GLOBAL": Scan._name_global,
    "REDUCE": Scan._call,
    "BUILD": Scan._build,
    "BINPERSID": Scan._persistent,
    "MARK": Scan._mark,
    "TUPLE": lambda scan, _: scan._push(tuple(scan._pop_mark())),
    "TUPLE1": lambda scan, _: scan._tuple_of(1),
    "TUPLE2": lambda scan, _: scan._tuple_of(2),
    "TUPLE3": lambda scan, _: scan._tuple_of(3),
    "EMPTY_TUPLE": lambda scan, _: scan._push(()),
    "EMPTY_LIST": lambda scan, _: scan._push([]),
    "EMPTY_DICT": lambda scan, _: scan._push(_Opaque()),
    "APPEND": lambda scan, _: scan._append_items([scan._pop()]),
    "APPENDS": lambda scan, _: scan._append_items(scan._pop_mark()),
    "SETITEM": lambda scan, _: scan._set_items([scan._pop(), scan._pop()][::-1]),
    "SETITEMS": lambda scan, _: scan._set_items(scan._pop_mark()),
    "NONE": lambda scan, _: scan._push(None),
    "NEWTRUE": lambda scan, _: scan._push(True),
    "NEWFALSE": lambda scan, _: scan._push(False),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), Scan._put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), Scan._get),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"), Scan._push),
}
