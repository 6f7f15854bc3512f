"""Digests of bits: what claims name networks, operators and regions by, and proofs are kept by."""

from __future__ import annotations

import dataclasses
import hashlib
import uuid
from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from specnorm.errors import SpecnormError

_random_digests: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
"""Digests of what has no bits to read: operators with fields that cannot be read, and classes whose name is taken. They
are random, each different from all others."""
_classes: dict[str, type] = {}
"""The first class of each name, kept so that no later one has its digest: classes made by one function share a name."""


def digest_of_bits(value: Any) -> str:
    """Return the SHA-256 of numbers, texts and arrays, and of collections, dataclasses and functions that have them.

    Of an object with an attribute ``digested`` this attribute counts alone; of a function what it returns. Slopes on
    ranges do not count. `TypeError` of a value whose bits cannot be read.
    """
    whole = hashlib.sha256()
    _add(value, whole)
    return whole.hexdigest()


def digest_of_operator(operator: Any) -> str:
    """Return the digest of an operator's class and fields.

    It is a random one if its bits cannot be read: kernels that cannot be loaded, arrays without bits. The rules refuse
    such an operator, with the reason.
    """
    try:
        return digest_of_bits(operator)
    except (SpecnormError, OSError, TypeError):
        return _random_digest(operator)


def _random_digest(value: Any) -> str:
    return _random_digests.setdefault(value, uuid.uuid4().hex)


def _add(value: Any, whole: Any) -> None:
    """Add the bits of a value to a digest."""
    if isinstance(value, type):
        name = f"{value.__module__}.{value.__qualname__}"
        is_first = _classes.setdefault(name, value) is value
        whole.update((name if is_first else _random_digest(value)).encode())
    elif hasattr(value, "digested"):
        _add(type(value), whole)
        _add(value.digested, whole)
    elif hasattr(value, "dtype"):
        array = np.asarray(value)
        if array.dtype.hasobject:
            raise TypeError(f"an array of {array.dtype}")
        whole.update(f"{array.dtype.str} {array.shape}".encode())
        whole.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    elif value is None or isinstance(value, (Number, str, bytes)):
        whole.update(f"{value!r};".encode())  # the semicolon tells 1, 12 from 11, 2
    elif isinstance(value, Mapping):
        _add(sorted(value.items()), whole)
    elif isinstance(value, Sequence):
        whole.update(f"{len(value)}:".encode())
        for part in value:
            _add(part, whole)
    elif dataclasses.is_dataclass(value):
        _add(type(value), whole)
        names = [field.name for field in dataclasses.fields(value) if field.name != "slopes_on_range"]
        _add([(name, getattr(value, name)) for name in names], whole)
    elif callable(value):
        _add(value(), whole)
    else:
        raise TypeError(f"a {type(value).__name__}")
