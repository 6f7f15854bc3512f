"""What an audit is off by where a file states no geometry: ``python unknown_geometry.py`` prints a table.

Each convolution of the published models twice, for every input size: as it is, and as an audit assumes it.
"""

from __future__ import annotations

import statistics
from typing import Any

from real_weights import MODELS, real_layers

import specnorm

RTOL = 1e-4
_ASSUMED: dict[str, Any] = {"stride": 1, "dilation": 1, "groups": 1, "transposed": False, "padding_mode": "zeros"}


def table() -> str:
    """One row a model."""
    lines = [
        "| model | convolutions | not as assumed | assumed / real: median | largest | `lower` above the norm |",
        "|---|---|---|---|---|---|",
    ]
    for model in MODELS:
        ratios, above, layers = [], 0, real_layers(model)
        for _, kernel, geometry in layers:
            plain = max(*geometry["stride"], *geometry["dilation"], geometry["groups"]) == 1
            if plain and not geometry["transposed"]:
                continue
            real = specnorm.enclose(kernel, rtol=RTOL, **geometry)
            assumed = specnorm.enclose(kernel, rtol=RTOL, **_ASSUMED)
            ratios.append(float(assumed.upper) / float(real.upper))
            above += float(assumed.lower) > float(real.upper)
        median, largest = (f"{f(ratios):.2f}" if ratios else "-" for f in (statistics.median, max))
        lines.append(f"| {model} | {len(layers)} | {len(ratios)} | {median} | {largest} | {above} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())  # noqa: T201
