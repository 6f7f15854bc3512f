"""Prove the claims of a certificate, one after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from specnorm_check.arithmetic import Array, Refused, require
from specnorm_check.networks import prove_network
from specnorm_check.statements import plain, prove_layer

LONGEST_NAME = 80  # characters that are printed
MOST_NAMES = 10  # that are printed


class Claim(NamedTuple):
    """A statement of a certificate, and the arrays that prove it.

    A claim about a network has the entry "parts", one about a layer has not.
    ``completion`` of a layer is the array 2^exponent H: `layers` proves the norm of the
    layer's kernel K by it, since K^T K + H^T H is close to a multiple of the identity. A
    claim about a network has a list of such arrays, one for each part.
    """

    statement: dict[str, Any]
    completion: Array | list[Array]


class Verdict(NamedTuple):
    """The answer to a claim: it is proven if ``reason`` is empty.

    ``statement`` says what is proven, ``reason`` why nothing is. ``name`` is the name
    that the certificate gives to the layer or network; nothing is proven of the name.
    """

    name: str
    statement: str
    reason: str
    seconds: float

    def __bool__(self) -> bool:
        """Return whether the claim is proven."""
        return not self.reason

    def __str__(self) -> str:
        """Return one line: first what is proven, last the certificate's name for it."""
        if self.reason:
            line = f"FAILED: {plain(self.reason)}"
        else:
            line = f"proven: {self.statement}"
        name = plain(self.name)[:LONGEST_NAME]
        return f"{line}; {self.seconds:.2f} s [called {name!r} by the certificate]"


def check(
    certificate: Sequence[Claim], arrays: Mapping[str, Array], content: bytes = b""
) -> Iterator[Verdict]:
    """Prove the claims of a certificate, one after the other.

    ``arrays`` are the model's by their names, as its file stores them (bfloat16 as
    float32, which is exact). Claims about networks are about the ``content`` of an ONNX
    file.
    """
    for claim in certificate:
        begin = time.perf_counter()
        statement = reason = ""
        try:
            require_subnormal_numbers()
            if "parts" in claim.statement:
                statement = prove_network(claim.statement, [*claim.completion], content)
            else:
                h = np.asarray(claim.completion)
                statement = prove_layer(claim.statement, h, arrays)
        except Refused as error:
            reason = str(error)
        except Exception as error:  # damaged statements and arrays raise many kinds
            reason = f"it is damaged ({type(error).__name__}: {error})"[:300]
        name = str(claim.statement.get("name"))
        seconds = time.perf_counter() - begin
        yield Verdict(name, statement, reason, seconds)


def without_claim(
    certificate: Sequence[Claim], shapes: Mapping[str, tuple[int, ...]], has_graph: bool
) -> str:
    """Return a line on what of a model has no claim: arrays that may be layers, a graph.

    ``shapes`` are those of the model's arrays, by their names. The line is empty if each
    array with two axes or more has a claim, and the network if the file has its graph.
    """
    claimed = {claim.statement.get("tensor") for claim in certificate}
    rest = [x for x, shape in shapes.items() if len(shape) > 1 and x not in claimed]
    others = [plain(name)[:LONGEST_NAME] for name in rest]
    if has_graph and not any("parts" in claim.statement for claim in certificate):
        others.insert(0, "the network's constant")
    if not others:
        return ""
    more = f" and {len(others) - MOST_NAMES} more" if len(others) > MOST_NAMES else ""
    names = ", ".join(others[:MOST_NAMES])
    return f"Not checked, since no claim is about it: {names}{more}."


def require_subnormal_numbers() -> None:
    """Refuse a thread that flushes subnormal numbers of either precision to zero."""
    message = "subnormal numbers are taken for zero in this thread"
    for smallest in (np.float32(2.0**-149), np.float64(2.0**-1074)):
        twice = smallest + smallest
        require(twice > 0, f"{message}, so nothing is proven here")
