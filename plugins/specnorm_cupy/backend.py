"""The backend of CuPy: devices, and factorizations whose status cuSOLVER reports."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import array_api_compat.cupy
import cupy
import cupyx
import numpy as np

from specnorm.plugin import AnyArray as Array
from specnorm.plugin import Backend


class CupyBackend(Backend):
    """The backend of `cupy.ndarray`."""

    name: ClassVar[str] = "cupy"
    framework: ClassVar[str] = "cupy"
    api_version: ClassVar[int] = 2

    def is_array(self, x: object) -> bool:
        return isinstance(x, cupy.ndarray)

    def namespace(self, x: Array) -> Any:
        return array_api_compat.cupy

    def devices(self) -> Sequence[str]:
        return tuple(f"cuda:{i}" for i in range(cupy.cuda.runtime.getDeviceCount()))

    def version(self) -> str:
        return str(cupy.__version__)

    def working_dtype(
        self,
        x: Array,
        dtype: Literal["float32", "float64"],
    ) -> Literal["float32", "float64"]:
        """As `Backend.working_dtype`: float64 if CUPY_TF32 lowers the precision of float32 products."""
        return "float64" if os.environ.get("CUPY_TF32", "0") not in ("", "0") else dtype

    def asynchronous(self, x: Array) -> bool:
        """True: operations are queued on the device."""
        return True

    def cholesky_ok(self, a: Array) -> Array:
        """Whether each matrix has a Cholesky factor, one after another.

        By default CuPy ignores cuSOLVER's status, and returns a matrix that looks like a factor. Here it is an error.
        """
        is_finite = cupy.asnumpy(cupy.isfinite(a).all(axis=(-2, -1)))
        has_factor = np.array(is_finite, dtype=bool, ndmin=is_finite.ndim)
        with cupyx.errstate(linalg="raise"):
            for index in np.ndindex(*a.shape[:-2]):
                if has_factor[index]:
                    try:
                        cupy.linalg.cholesky(a[index])
                    except np.linalg.LinAlgError:
                        has_factor[index] = False
        with cupy.cuda.Device(a.device.id):
            return cupy.asarray(has_factor)

    def asarray(self, x: np.ndarray, device: str | None = None) -> Array:
        """Copy a NumPy array to a device such as "cuda:1"."""
        with contextlib.nullcontext() if device is None else cupy.cuda.Device(int(device.removeprefix("cuda:"))):
            return cupy.asarray(x)

    def to_numpy(self, x: Array) -> np.ndarray:
        return np.asarray(cupy.asnumpy(x))

    def from_numpy(self, x: np.ndarray, like: Array) -> Array:
        with cupy.cuda.Device(like.device.id):
            return cupy.asarray(x)


BACKEND = CupyBackend()
