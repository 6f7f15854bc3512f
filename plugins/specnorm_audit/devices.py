"""Moving a kernel to the array library and device that the caller asked for."""

from __future__ import annotations

from specnorm import BackendError
from specnorm.proof import ArrayObject, backends


def check_target(name: str | None, device: str | None) -> None:
    """Refuse a plugin's name or a device of it that is not there, before any file is read."""
    if name is None:
        if device is not None:
            raise BackendError(f"device={device!r} needs a backend to go with it: say which array library to use.")
        return
    backend = backends.load(name)
    if device is not None and device not in backend.devices():
        raise BackendError(
            f"device={device!r} is not one of {name}'s devices here: {', '.join(backend.devices()) or 'none'}."
        )


def place(kernel: ArrayObject, name: str, device: str | None = None) -> ArrayObject:
    """Copy a kernel to another library, by its plugin's name; refused if that cannot hold the dtype or device."""
    host = backends.backend_for(kernel).to_numpy(kernel)
    target = backends.load(name)
    moved: ArrayObject = target.asarray(host, device)
    if str(moved.dtype).rpartition(".")[2] != host.dtype.name:
        raise BackendError(
            f"{name} turned a {host.dtype.name} kernel into {moved.dtype}, which would change what is measured. Use "
            "another backend (JAX does so unless 64-bit values are enabled: set JAX_ENABLE_X64=1)."
        )
    return moved
