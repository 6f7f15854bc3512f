"""Kernels reach the device that was named, however the library calls its devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from specnorm_audit.devices import check_target, place

from specnorm import backends
from specnorm.backends import Backend
from specnorm.errors import BackendError


@dataclass(frozen=True)
class _Device:
    """A device that is an object, and prints as something."""

    index: int
    prefix: str

    def __str__(self) -> str:
        return f"{self.prefix}{self.index}"


@dataclass(frozen=True)
class _Placed:
    """An array on a device."""

    data: NDArray[Any]
    device: _Device

    @property
    def dtype(self) -> Any:
        return self.data.dtype


class _Library:
    """A namespace that takes device objects alone."""

    def __init__(self, prefix: str) -> None:
        self.known = [_Device(i, prefix) for i in range(2)]

    def __array_namespace_info__(self) -> _Library:
        return self

    def devices(self) -> list[_Device]:
        return self.known

    def zeros(self, shape: tuple[int, ...], device: Any = None) -> _Placed:
        if isinstance(device, str):
            raise TypeError("not a device")
        return _Placed(np.zeros(shape), device or self.known[0])


class _Plugin(Backend):
    name = "objects"
    framework = "objects"

    def __init__(self, prefix: str) -> None:
        self.library = _Library(prefix)

    def namespace(self, x: Any) -> Any:
        del x
        return self.library

    def devices(self) -> tuple[str, ...]:
        return ("gpu:0", "gpu:1")

    def from_numpy(self, x: NDArray[Any], like: Any) -> Any:
        return _Placed(x, like.device)


@pytest.mark.parametrize("prefix", ["gpu:", "<Device "])
def test_devices_that_are_objects(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    backends.load("numpy")  # which owns the kernel: found before finding is replaced
    plugin = _Plugin(prefix)
    monkeypatch.setattr(backends, "load", lambda _: plugin)
    kernel = np.ones((2, 2))
    assert place(kernel, "objects", "gpu:1").device.index == 1
    assert place(kernel, "objects").device.index == 0
    check_target("objects", "gpu:1")
    with pytest.raises(BackendError, match="gpu:0, gpu:1"):
        check_target("objects", "gpu:2")
    with pytest.raises(BackendError, match="not a device"):
        place(kernel, "objects", "gpu:2")
