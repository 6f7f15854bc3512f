"""The backend under test, with helpers for checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from specnorm.backends import Backend
from specnorm.backends.array_types import Linalg, Namespace
from specnorm.backends.types import AnyArray

FUNCTIONS = (
    *(name for name, member in vars(Namespace).items() if callable(member) and not name.startswith("_")),
    *(f"linalg.{name}" for name, member in vars(Linalg).items() if callable(member) and not name.startswith("_")),
)
"""Names of all array API functions that the core calls (standard 2024.12)."""

DTYPES = ("bool", "int32", "int64", "float32", "float64", "complex64", "complex128")
"""Names of all dtypes that the core uses. A device may lack float64 and complex128 (`Backend.wide_dtype`)."""


@dataclass(frozen=True)
class Trial:
    """A backend under test and the device to test it on."""

    backend: Backend
    device: str | None = None

    def array(self, x: Any, dtype: str = "float32") -> AnyArray:
        """An array of the library on the device, from anything that `numpy.asarray` takes."""
        return self.backend.asarray(np.asarray(x, dtype=dtype), self.device)

    def host(self, x: AnyArray) -> np.ndarray:
        """Copy an array of the library to the host."""
        return self.backend.to_numpy(x)

    @property
    def wide(self) -> bool:
        """Whether the device has float64."""
        return self.backend.wide_dtype(self.array(0.0)) == "float64"

    @property
    def dtypes(self) -> tuple[Literal["float32", "float64"], ...]:
        """The dtypes of kernels to test."""
        return ("float32", "float64") if self.wide else ("float32",)


def require(condition: object, message: str) -> None:
    """Raise an `AssertionError` with the message unless the condition holds; also if ``python -O`` drops assertions."""
    if not condition:
        raise AssertionError(message)


def named(x: object) -> bool:
    """Whether an object is a string that is not empty."""
    return isinstance(x, str) and bool(x)


def short(dtype: object) -> str:
    """Name of a dtype without its library: "float32" for ``torch.float32``."""
    return str(dtype).rpartition(".")[2]
