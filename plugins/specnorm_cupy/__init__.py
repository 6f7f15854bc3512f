"""CuPy for specnorm. No automatic differentiation; use `specnorm.value_and_grad`."""

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
    """cupy.ndarray."""

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
        """float64 where CUPY_TF32 lowers float32 products."""
        return "float64" if os.environ.get("CUPY_TF32", "0") not in ("", "0") else dtype

    def asynchronous(self, x: Array) -> bool:
        """Always: reading a value waits for the device."""
        return True

    def cholesky_ok(self, a: Array) -> Array:
        """Per matrix, with cuSOLVER's verdict asked for: by default CuPy drops it and returns a plausible factor."""
        finite = cupy.asnumpy(cupy.isfinite(a).all(axis=(-2, -1)))
        ok = np.array(finite, dtype=bool, ndmin=finite.ndim)
        with cupyx.errstate(linalg="raise"):
            for index in np.ndindex(*a.shape[:-2]):
                if ok[index]:
                    try:
                        cupy.linalg.cholesky(a[index])
                    except np.linalg.LinAlgError:
                        ok[index] = False
        with cupy.cuda.Device(a.device.id):
            return cupy.asarray(ok)

    def asarray(self, x: np.ndarray, device: str | None = None) -> Array:
        """Copy to a device such as "cuda:1"."""
        with contextlib.nullcontext() if device is None else cupy.cuda.Device(int(device.removeprefix("cuda:"))):
            return cupy.asarray(x)

    def to_numpy(self, x: Array) -> np.ndarray:
        return np.asarray(cupy.asnumpy(x))

    def from_numpy(self, x: np.ndarray, like: Array) -> Array:
        with cupy.cuda.Device(like.device.id):
            return cupy.asarray(x)


BACKEND = CupyBackend()
