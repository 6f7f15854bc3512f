"""Write the bounds that `test_stored_bounds` keeps: ``python -m networks.stored.measure [NAME ...]`` in ``tests``.

A stored bound becomes smaller, or is added. Only with ``--larger`` may one grow or be lost, which a commit has to say.
``--missing`` measures what is not stored. ``--certificates`` writes nothing, and prints the ratio of each certified
constant to the default bound, or the rules that the checker lacks.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path

from networks.stored.networks import CASES, bound, build
from specnorm_networks import network_bound

from specnorm.errors import CertificateError

FILE = Path(__file__).with_name("bounds.json")


def stored() -> dict[str, dict[str, float | None]]:
    """Return the bound of each network by each method; None: it is refused."""
    found: dict[str, dict[str, float | None]] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def main(*names: str, may_grow: bool = False, only_missing: bool = False) -> None:
    """Measure networks whose names hold one of some words, or all, and write what became smaller."""
    bounds = stored() if FILE.exists() else {}
    for name, case in CASES.items():
        is_meant = not names or any(word in name for word in names)
        if not is_meant or (only_missing and name in bounds):
            continue
        for method in case.methods:
            start = time.perf_counter()
            found = bound(name, method)
            upper = found.upper
            before = bounds.get(name, {}).get(method)
            reason = "" if upper is not None else f"{found.unknown[0].operator}: {found.unknown[0].reason}"[:120]
            seconds = time.perf_counter() - start
            line = f"{name:45s} {method:12s} {before!s:20s} -> {upper!s:20s} {seconds:5.1f} s  {reason}"
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
            is_smaller = upper is not None and (before is None or upper < before)
            if is_smaller or may_grow or method not in bounds.get(name, {}):
                bounds.setdefault(name, {})[method] = upper
        bounds = {name: bounds[name] for name in CASES if name in bounds}
        FILE.write_text(json.dumps(bounds, indent=1) + "\n", encoding="utf-8")


def certificates(*names: str) -> None:
    """Print for each network the bound, and its certificate's ratio to it or what the certificate says."""
    for name, case in CASES.items():
        if names and not any(word in name for word in names):
            continue
        found = network_bound(build(name), case.shape)
        if found.upper is None:
            continue
        try:
            certificate = found.certificate()
            number = float.fromhex(certificate.claims[0].statement["upper"])
            said = f"{number / found.upper:.6f} {certificate.note}"
        except CertificateError as error:
            said = str(error)
        sys.stdout.write(f"{name:45s} {found.upper:<20} {said}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    words = sys.argv[1:]
    if "--certificates" in words:
        certificates(*(word for word in words if word != "--certificates"))
        sys.exit()
    flags = {"--larger", "--missing"}
    main(
        *(word for word in words if word not in flags), may_grow="--larger" in words, only_missing="--missing" in words
    )
