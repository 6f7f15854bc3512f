"""One backend under test: its arrays on one device, and what a check may ask of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from specnorm.array_types import Linalg, Namespace
from specnorm.backends import Backend
from specnorm.types import AnyArray

FUNCTIONS = (
    *(name for name, it in vars(Namespace).items() if callable(it) and not name.startswith("_")),
    *(f"linalg.{name}" for name, it in vars(Linalg).items() if callable(it) and not name.startswith("_")),
)
"""Every array API function that the core calls (standard 2024.12)."""

DTYPES = ("bool", "int32", "int64", "float32", "float64", "complex64", "complex128")
"""Every dtype that the core names; those of 64-bit parts may be missing on a device (`Backend.wide_dtype`)."""


@dataclass(frozen=True)
class Trial:
    """A backend under test and the device to test it on."""

    backend: Backend
    device: str | None = None

    def array(self, x: Any, dtype: str = "float32") -> AnyArray:
        """Array under test from anything NumPy takes."""
        return self.backend.asarray(np.asarray(x, dtype=dtype), self.device)

    def host(self, x: AnyArray) -> np.ndarray:
        """Bring it back."""
        return self.backend.to_numpy(x)

    @property
    def wide(self) -> bool:
        """Whether the device has float64."""
        return self.backend.wide_dtype(self.array(0.0)) == "float64"

    @property
    def dtypes(self) -> tuple[Literal["float32", "float64"], ...]:
        """Kernel dtypes to test."""
        return ("float32", "float64") if self.wide else ("float32",)


def require(condition: object, message: str) -> None:
    """Fail with a message unless a condition holds, also where assertions are switched off."""
    if not condition:
        raise AssertionError(message)


def named(x: object) -> bool:
    """Whether something is a name: a string, and not empty."""
    return isinstance(x, str) and bool(x)


def short(dtype: object) -> str:
    """A dtype's name without its library's."""
    return str(dtype).rpartition(".")[2]
