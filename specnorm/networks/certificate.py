"""What proves a network's bound anew without a search: the weights of its runs, as plain data."""

from __future__ import annotations

import hashlib
import json
import math
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from specnorm.certified.network.affine_maps import Subnetwork
from specnorm.certified.network.boxes import stated
from specnorm.certified.network.graph import Graph, Layer
from specnorm.certified.network.operators.base import FloatArray, Operator
from specnorm.certified.network.operators.sources import Constant
from specnorm.certified.network.regions import Ball
from specnorm.certified.network.segments import parts_from, segments, usable
from specnorm.errors import CertificateError

FORMAT = 2
LONGEST = 2**26
"""Bytes of a file that are read at most."""
MOST_PARTS = 2**20
"""Lists, objects and strings of a file at most: empty ones take 20 times the memory of their text."""
FINEST = 1e-10
"""The least `Certificate.rtol` that is proven anew: a search for less takes many times as long, for rounding errors."""
LARGEST = 1e100
"""What a number of a ball is at most."""


@dataclass(frozen=True, eq=False)
class RunWeights:
    """The weights of one run.

    Parameters
    ----------
    start, end : str
        Names of its first and last node.
    parts : tuple of int
        The first link of each part that is bounded together.
    weights : tuple of array
        One number a channel of each link's value.
    """

    start: str
    end: str
    parts: tuple[int, ...]
    weights: tuple[FloatArray, ...]


@dataclass(frozen=True, eq=False)
class Near:
    """The inputs that a claim speaks of.

    Parameters
    ----------
    units : bool
        Whether each unit is a channel of the runs.
    """

    ball: Ball
    units: bool


@dataclass(frozen=True, eq=False)
class Certificate:
    """A claim about one network, and what proves it. A method like any other: it proposes what was found before.

    Parameters
    ----------
    upper : float
        The Lipschitz constant that is claimed.
    digest : str
        Of the network: see `digest`.
    rtol : float
        Of the enclosures that proved it.
    near : Near or None
        The ball that it speaks of; None: all inputs.
    units : bool
        Of all inputs, whether the weights are of single units.
    """

    upper: float
    digest: str
    rtol: float
    runs: tuple[RunWeights, ...]
    near: Near | None = None
    units: bool = False

    def _of(self, run: Subnetwork) -> RunWeights | None:
        return next((known for known in self.runs if (known.start, known.end) == (run.start, run.end)), None)

    def parts(self, run: Subnetwork) -> list[tuple[int, int]]:
        """As they were when the weights were found.

        Raises
        ------
        CertificateError
            If no proof can speak of one of them.
        """
        known = self._of(run)
        try:
            return segments(run, widest=0) if known is None else parts_from(run, known.parts)
        except ValueError as error:
            raise CertificateError(f"The weights from {run.start} to {run.end} prove nothing: {error}.") from error

    def weights(self, run: Subnetwork, parts: Sequence[tuple[int, int]], share: float = 1.0) -> list[FloatArray] | None:
        """As the certificate has them.

        Raises
        ------
        CertificateError
            If they do not fit the run.
        """
        del parts, share
        known = self._of(run)
        if known is None:
            return None
        sizes = [link.width for link in run.links]
        if [len(each) for each in known.weights] != sizes or not all(map(usable, known.weights)):
            raise CertificateError(
                f"The weights from {run.start} to {run.end} do not fit {len(sizes)} layers with {sizes} channels."
            )
        return list(known.weights)

    def save(self, path: str | Path) -> None:
        """Write a file of JSON, which `Certificate.load` and ``specnorm verify`` read."""
        Path(path).write_text(self.dumps(), encoding="utf-8")

    def dumps(self) -> str:
        """The file's text."""
        return json.dumps(self.to_dict(), allow_nan=False) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Plain data; every number is read back as it was."""
        return {
            "specnorm_certificate": FORMAT,
            "upper": self.upper,
            "network_sha256": self.digest,
            "rtol": self.rtol,
            "runs": [
                {"start": r.start, "end": r.end, "parts": list(r.parts), "weights": [w.tolist() for w in r.weights]}
                for r in self.runs
            ],
            **({"units": True} if self.units else {}),
            **({} if self.near is None else {"near": _said(self.near)}),
        }

    @classmethod
    def load(cls, path: str | Path) -> Certificate:
        """Read a file that `save` wrote.

        Raises
        ------
        CertificateError
            If it is none.
        """
        try:
            return cls.from_dict(json.loads(_text_of(Path(path))))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, MemoryError) as error:
            raise CertificateError(
                f"{Path(path).name} is no certificate of a network ({type(error).__name__}: {str(error)[:80]}): "
                "expected the JSON that found.certificate.save wrote."
            ) from error

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Certificate:
        """The inverse of `to_dict`; nothing in it is believed."""
        if data["specnorm_certificate"] != FORMAT:
            raise ValueError(f"format {str(data['specnorm_certificate'])[:20]}, expected {FORMAT}: make it anew")
        upper, rtol = _number(data["upper"], 0, math.inf), _number(data["rtol"], FINEST, 1)
        runs = tuple(
            RunWeights(
                _word(r["start"]), _word(r["end"]), tuple(_count(n) for n in _list(r["parts"])),
                tuple(_numbers(w) for w in _list(r["weights"])),
            )
            for r in _list(data["runs"])
        )  # fmt: skip
        if len({(run.start, run.end) for run in runs}) != len(runs):
            raise ValueError("two of its runs are one")
        near = None if data.get("near") is None else _near(data["near"])
        return cls(upper, _word(data["network_sha256"]), rtol, runs, near, _flag(data.get("units", False)))


def _text_of(path: Path) -> str:
    """What a file holds, if JSON of it takes no more memory than a few times its length.

    Raises
    ------
    ValueError
        If it is too long, of too many parts, or no regular file: a pipe would block, a device never end.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        content = file.read(LONGEST + 1)
    if len(content) > LONGEST:
        raise ValueError(f"it has more than {LONGEST} bytes")
    if sum(map(content.count, (b"[", b"{", b'"'))) > MOST_PARTS:
        raise ValueError(f"it has more than {MOST_PARTS} lists, objects and strings")
    return content.decode("utf-8")


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise TypeError("a list was expected")
    return value


def _word(value: Any) -> str:
    if type(value) is not str:
        raise TypeError("a text was expected")
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError("true or false was expected")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**31:
        raise ValueError("a count was expected")
    return value


def _number(value: Any, least: float, most: float) -> float:
    if type(value) not in (int, float) or not least <= value < most:
        raise ValueError(f"a number of {least:g} to {most:g} was expected")
    return float(value)


def _numbers(value: Any) -> FloatArray:
    if any(type(x) not in (int, float) for x in _list(value)):
        raise TypeError("a list of numbers was expected")
    return np.asarray(value, dtype=np.float64)


def _said(near: Near) -> dict[str, Any]:
    centre = {
        name: {"shape": list(x.shape), "values": np.asarray(x, dtype=np.float64).reshape(-1).tolist()}
        for name, x in near.ball.centre.items()
    }
    return {"radius": near.ball.radius, "units": near.units, "centre": centre}


def _near(data: Mapping[str, Any]) -> Near:
    centre = {
        name: _numbers(x["values"]).reshape([_count(n) for n in _list(x["shape"])])
        for name, x in data["centre"].items()
    }
    if not all(np.all(abs(x) < LARGEST) for x in centre.values()):
        raise ValueError("the centre of its ball is too far away")
    return Near(Ball(centre, _number(data["radius"], 0, LARGEST)), _flag(data["units"]))


def digest(graph: Graph, near: Near | None = None) -> str:
    """SHA-256 of a network: its nodes, their operators' fields, every kernel's bits.

    Symbols for sizes are numbered in the order in which they occur. What is added (biases, constants) counts where
    ranges of values do: in a box, and near one input, with the ball.
    """
    symbols: dict[str, int] = {}
    whole = hashlib.sha256()
    ranged = near is not None or bool(stated(graph))

    def add(value: Any) -> None:
        whole.update(_text(value))

    for node in graph.nodes:
        shape = node.shape and tuple(
            f"?{symbols.setdefault(n, len(symbols))}" if isinstance(n, str) else n for n in node.shape
        )
        left_out = () if ranged else ("load",) if isinstance(node.operator, Constant) else ("bias", "offset")
        add((node.name, node.inputs, shape, _fields(node.operator, left_out)))
    add(graph.outputs)
    if near is not None:
        add(("near", near.ball.radius, near.units, {name: np.asarray(x) for name, x in near.ball.centre.items()}))
    return whole.hexdigest()


def _fields(whole: Any, left_out: Sequence[str] = ()) -> tuple[Any, ...]:
    """An operator or the like as plain data: its class, and its fields by name."""
    parts = whole.named() if isinstance(whole, Operator) else ((f.name, getattr(whole, f.name)) for f in fields(whole))
    return (type(whole).__qualname__, *((name, value) for name, value in parts if name not in left_out))


def _text(value: Any) -> bytes:
    """Bytes of plain data, with the size of whatever could be read in two ways; of a callable what it gives."""
    if isinstance(value, Layer):
        kernel, error = value.kernel(), value.error and np.asarray(value.error())
        value = (kernel.T if value.transposed else kernel, dict(value.geometry), value.spatial, value.transposed, error)
    elif is_dataclass(value) and not isinstance(value, type):
        value = _fields(value)
    elif callable(value):
        try:
            value = value()
        except TypeError:  # a function of numbers, of an operator that somebody registered
            value = getattr(value, "__qualname__", repr(type(value)))
    if hasattr(value, "tobytes") and not isinstance(value, np.generic):
        return f"<{value.dtype.str}{value.shape}".encode() + np.ascontiguousarray(value).tobytes() + b">"
    if isinstance(value, Mapping):
        return b"{" + b"".join(_text((key, value[key])) for key in sorted(value)) + b"}"
    if isinstance(value, (tuple, list)):
        return b"(" + b"".join(map(_text, value)) + b")"
    said = repr(value.item() if isinstance(value, np.generic) else value)
    return f"{len(said)}:{said}".encode()
