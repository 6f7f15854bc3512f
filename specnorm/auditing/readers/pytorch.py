"""PyTorch state dicts. The core does not know torch: its plugin reads the file, after `pickles` has looked at it."""

from __future__ import annotations

from functools import partial
from typing import BinaryIO

from specnorm import backends
from specnorm.auditing.layers import ModelArrays, Tensor
from specnorm.backends import Backend
from specnorm.errors import BackendError, ModelFileError
from specnorm.types import AnyArray, ArrayObject

FORMAT = "pytorch"
"""Name under which a plugin's `Backend.model_formats` declares its reader."""

LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of what torch.save wrote before 1.6: a pickle of its magic number."""


def prepare() -> None:
    """Import torch, which takes more memory than most files."""
    backends.load("torch")


def read(file: BinaryIO, path: str, max_bytes: int) -> ModelArrays:
    """List the tensors of a state dict, whose file the plugin opens itself."""
    del file
    try:
        backend = backends.load("torch")
    except BackendError as error:
        raise ModelFileError(
            f"PyTorch state dicts need torch: pip install 'specnorm-bounds[torch]'. ({error}) Or save the weights as "
            "safetensors, which need no torch."
        ) from error
    if FORMAT not in backend.model_formats:
        raise ModelFileError(f"the installed torch plugin ({backend.name}) reads no state dicts. Upgrade it.")
    tensors = getattr(backend, backend.model_formats[FORMAT])(path, max_bytes)
    return ModelArrays([_describe(backend, name, x) for name, x in tensors.items()])


def _describe(backend: Backend, name: str, x: AnyArray) -> Tensor:
    return Tensor(name, tuple(int(n) for n in x.shape), str(x.dtype).rpartition(".")[2], partial(_load, backend, x))


def _load(backend: Backend, x: AnyArray) -> ArrayObject:
    """Copy to NumPy, as every other reader gives it; bfloat16 in float32, which is exact."""
    if str(x.dtype).endswith("bfloat16"):
        xp = backend.namespace(x)
        x = xp.astype(x, xp.float32)
    return backend.to_numpy(x)
