"""Subjects of claims about networks (`claim.what`): a map between two values, the network's bits, and its region.

All three are part of the subject, since claims that name the same values may be about different networks, about one
network with other weights, or hold on different balls. Bits are named by digests, by which proofs are kept, too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any, Protocol, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from specnorm.errors import SpecnormError

Inputs: TypeAlias = dict[str, NDArray[np.float64]]
"""Values of a network's inputs, by name."""
INFINITE_END = 1e3
"""Number in place of infinity where inputs are taken from a box that has no end."""
_random_digests: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
"""Digests of what has no bits to read: operators with fields that cannot be read, and classes whose name is taken. They
are random, each different from all others."""
_classes: dict[str, type] = {}
"""The first class of each name, kept so that no later one has its digest: classes made by one function share a name."""


@dataclass(frozen=True)
class Domain:
    """The network and the region of its inputs for which a claim holds."""

    digest: str
    """Digest of the original network: of its nodes, in order, and of all numbers in them."""
    regions: frozenset[Region] = frozenset()
    """The inputs lie in all of these regions; if there are none, they may be anything."""

    def includes(self, other: Domain) -> bool:
        """Whether a claim on the domain ``other`` holds here, too: for the same network, on these regions or larger."""
        return self.digest == other.digest and other.regions <= self.regions

    def __str__(self) -> str:
        return "".join(f", in {region}" for region in sorted(self.regions, key=str))


@dataclass(frozen=True)
class Map:
    """The map from values of a network to others, while values that do not depend on the first ones stay the same."""

    start: str
    """Names of the values at the start, joined by ", "."""
    end: str
    """Names of the values at the end, joined by ", "."""
    domain: Domain

    def __str__(self) -> str:
        return f"{self.end} by {self.start}{self.domain}"


@dataclass(frozen=True)
class Region:
    """A region as claims about a network name it; see `Area.region`."""

    words: str
    """Description for people."""
    digest: str
    """SHA-256 of the bits of the numbers that describe it, such as the ends of a box."""

    def __str__(self) -> str:
        return self.words

    @staticmethod
    def of(words: str, *numbers: Mapping[str, NDArray[np.float64]]) -> Region:
        """Return a region by its description and the numbers for each input that it consists of."""
        return Region(words, digest_of_bits((words, numbers)))


class Area(Protocol):
    """A region from which inputs are taken."""

    @property
    def region(self) -> Region:
        """The region as claims name it."""
        ...

    def nearest(self, x: Inputs) -> Inputs:
        """Return inputs moved into the region."""
        ...

    def around(self, x: Inputs) -> Inputs:
        """Return inputs in the region for numbers of a size of about 1, which lead there from its middle."""
        ...


@dataclass(frozen=True, eq=False)
class Box:
    """Every entry of the inputs between two numbers, which may be infinite.

    Parameters
    ----------
    low, high : mapping of str to array
        Ends of each input of the network, in the input's shape.
    """

    low: Mapping[str, NDArray[np.float64]]
    high: Mapping[str, NDArray[np.float64]]

    @property
    def region(self) -> Region:
        """The box as claims name it."""
        return Region.of("a box", self.low, self.high)

    def nearest(self, x: Inputs) -> Inputs:
        """Return inputs with each entry moved into its interval."""
        return {name: np.clip(value, self.low[name], self.high[name]) for name, value in x.items()}

    def around(self, x: Inputs) -> Inputs:
        """Return inputs in the box: its middle for 0, its ends from -1 and 1 on; an infinite end is `INFINITE_END`."""
        inputs = {}
        for name, share in x.items():
            low, high = (np.clip(ends[name], -INFINITE_END, INFINITE_END) for ends in (self.low, self.high))
            inputs[name] = np.clip((low + high) / 2 + share * (high - low) / 2, low, high)
        return inputs


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
