"""Unit roundoffs of floating-point formats, and their smallest positive numbers, which bound losses by underflow."""

from __future__ import annotations

UNITS = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
}
"""Unit roundoffs; TensorFloat-32 has that of float16."""
_SMALLEST = {
    "float64": 2.0**-1074,
    "float32": 2.0**-149,
    "float16": 2.0**-24,
    "bfloat16": 2.0**-133,
}
"""Smallest positive numbers."""


def smallest_positive(unit: float) -> float:
    """Return the smallest positive number of the format with this unit roundoff; of float32 for any other unit."""
    names = {unit_of_format: name for name, unit_of_format in UNITS.items()}
    return _SMALLEST[names.get(unit, "float32")]
