"""Moving a kernel to the array library and device that the caller asked for."""

from __future__ import annotations

from typing import Any

from specnorm import BackendError
from specnorm.proof import AnyArray, ArrayObject, backends


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
    moved: ArrayObject = target.from_numpy(host, _scalar_on(target, device))
    if str(moved.dtype).rpartition(".")[2] != host.dtype.name:
        raise BackendError(
            f"{name} turned a {host.dtype.name} kernel into {moved.dtype}, which would change what is measured. Use "
            "another backend (JAX does so unless 64-bit values are enabled: set JAX_ENABLE_X64=1)."
        )
    return moved


def _scalar_on(backend: backends.Backend, device: str | None) -> AnyArray:
    """Return a 0-d array on a device: what `Backend.from_numpy` wants to be shown."""
    xp: Any = backend.namespace(None)  # `__array_namespace_info__` is asked for nowhere else
    if device is None:
        return xp.zeros(())
    try:
        return xp.zeros((), device=device)
    except Exception as error:
        # Libraries whose devices are objects list them: under the names they print as (JAX, array-api-strict), or else
        # in the order of the plugin's own list (CuPy).
        names, known = list(backend.devices()), list(xp.__array_namespace_info__().devices())
        found = [d for d in known if str(d) == device]
        if not found and len(known) == len(names) and device in names:
            found = [known[names.index(device)]]
        if not found:
            raise BackendError(f"{backend.name} does not take device={device!r}: {error}") from error
        return xp.zeros((), device=found[0])
