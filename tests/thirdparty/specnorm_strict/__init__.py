"""array-api-strict for specnorm: what a plugin for a library that specnorm has never heard of looks like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import array_api_strict
import numpy as np

from specnorm.plugin import Backend

_ARRAY = type(array_api_strict.asarray(0.0))
_HOST = array_api_strict.Device("CPU_DEVICE")


class StrictBackend(Backend):
    """Arrays of array-api-strict, on any of its pretended devices."""

    name: ClassVar[str] = "array_api_strict"
    framework: ClassVar[str] = "array_api_strict"
    api_version: ClassVar[int] = 2

    def is_array(self, x: object) -> bool:
        """Its one array class."""
        return isinstance(x, _ARRAY)

    def namespace(self, x: Any) -> Any:
        """The library itself: it follows the standard to the letter."""
        del x
        return array_api_strict

    def devices(self) -> Sequence[str]:
        """The CPU and the devices pretended on it."""
        return tuple(str(device) for device in array_api_strict.__array_namespace_info__().devices())

    def version(self) -> str:
        return str(array_api_strict.__version__)

    def asarray(self, x: np.ndarray, device: str | None = None) -> Any:
        """Copy to a device, by the name it has in `devices`."""
        known = {str(d): d for d in array_api_strict.__array_namespace_info__().devices()}
        return array_api_strict.asarray(np.array(x), device=None if device is None else known[device])

    def to_numpy(self, x: Any) -> np.ndarray:
        """Move to the CPU device first: arrays elsewhere refuse to become NumPy arrays."""
        return np.asarray(x.to_device(_HOST))

    def from_numpy(self, x: np.ndarray, like: Any) -> Any:
        """Copy to the device of ``like``."""
        return array_api_strict.asarray(np.asarray(x), device=like.device)

    def cholesky_ok(self, a: Any) -> Any:
        """Matrix by matrix: the standard's Cholesky raises for a whole stack, and lets NaN and infinities through."""
        host = self.to_numpy(a)
        ok = np.asarray(np.isfinite(host).all(axis=(-2, -1)))  # one matrix would give a scalar, which cannot be set
        for index in np.ndindex(*host.shape[:-2]):
            if ok[index]:
                try:
                    factor = np.linalg.cholesky(host[index])
                except np.linalg.LinAlgError:
                    ok[index] = False
                else:
                    ok[index] = np.isfinite(factor).all()
        return self.from_numpy(ok, a)


BACKEND = StrictBackend()
