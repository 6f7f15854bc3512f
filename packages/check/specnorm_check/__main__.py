"""The command: python -m specnorm_check FILE.npz MODEL.

Its exit code is 0 if every claim is proven, 1 if one is not, 2 if a file cannot be read.
Layers of the model without a claim are named, and change nothing in it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from specnorm_check import (
    Refused,
    check,
    read_certificate,
    read_content,
    read_model,
    shapes_of,
    without_claim,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each claim, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="specnorm_check", description="Prove the claims of a certificate."
    )
    parser.add_argument("certificate", type=Path, help="FILE.npz")
    parser.add_argument("model", type=Path, help=".npz, .safetensors or .onnx")
    paths = parser.parse_args(arguments)
    try:
        claims = read_certificate(paths.certificate)
        arrays = read_model(paths.model)
        # A claim about a network states the digest of the whole file, one about a layer
        # the digest of an array.
        is_network = paths.model.suffix == ".onnx"
        content = read_content(paths.model) if is_network else b""
    except Refused as error:
        print(f"specnorm_check: {error}", file=sys.stderr)
        return 2
    failed = 0
    for verdict in check(claims, arrays, content):
        if verdict.reason:
            failed += 1
        print(verdict, flush=True)
    subject = "claim is" if len(claims) == 1 else "claims are"
    print(f"{len(claims) - failed} of {len(claims)} {subject} proven.")
    rest = without_claim(claims, shapes_of(arrays), is_network)
    if rest:
        print(rest)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
