"""Prove the claims of a certificate, one after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from specnorm_check.layers import Numbers, Refused
from specnorm_check.networks import prove_network
from specnorm_check.statements import plain, prove_layer


class Claim(NamedTuple):
    """What a certificate states, and what proves it.

    ``completion`` is 2^exponent H of a layer; of a network the list of these, one for
    each part.
    """

    statement: dict[str, Any]
    completion: Any


class Verdict(NamedTuple):
    """What became of a claim: it is proven if there is no reason against it."""

    name: str
    statement: str
    reason: str
    seconds: float

    def __str__(self) -> str:
        """Say it in one line."""
        if self.reason:
            line = f"FAILED {self.name}: {self.reason}"
        else:
            line = f"proven {self.name}: {self.statement}"
        return f"{plain(line)}; {self.seconds:.2f} s"


def check(
    certificate: Sequence[Claim],
    arrays: Mapping[str, Numbers],
    content: bytes = b"",
) -> Iterator[Verdict]:
    """Prove the claims of a certificate, one after the other.

    ``arrays`` are the model's by their names, as its file stores them (bfloat16 as
    float32, which is exact). Claims about networks are about the ``content`` of an ONNX
    file.
    """
    for claim in certificate:
        begin = time.perf_counter()
        statement, reason = "", ""
        try:
            if "parts" in claim.statement:
                statement = prove_network(*claim, content)
            else:
                statement = prove_layer(*claim, arrays)
        except Refused as error:
            reason = str(error)
        except Exception as error:  # what is damaged proves nothing
            text = f"it is damaged ({type(error).__name__}: {error})"
            reason = text[:300]
        name = plain(claim.statement.get("name"))
        unlike_a_bound = name.replace("<", "?")
        seconds = time.perf_counter() - begin
        yield Verdict(unlike_a_bound, statement, reason, seconds)
