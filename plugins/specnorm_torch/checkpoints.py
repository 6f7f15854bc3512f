"""PyTorch state dicts from files nobody vouches for: weights only, and only after `pickles` has looked at them."""

from __future__ import annotations

import re
import zipfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from specnorm.auditing.readers.pickles import check_checkpoint
from specnorm.errors import ModelFileError

OLDEST = (2, 6)
"""Oldest torch whose ``weights_only`` loading is trusted: before it, that ran code too (CVE-2025-32434)."""

_WRAPPERS = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params_ema",
    "params",
)  # fmt: skip
"""Keys under which training scripts put the model; their content is read as if it were the whole file."""
_NESTED = (dict, list, tuple)
"""What tensors may lie in."""
_NAMES = 2**25
"""Characters of all names: one long key at every level of a nested dictionary makes them grow with its square."""


def read_checkpoint(path: str, byte_limit: int) -> dict[str, Tensor]:
    """Read the tensors of a state dict, without executing anything in the file.

    Parameters
    ----------
    path : str
        What ``torch.save`` wrote: a state dict, or a dictionary that holds one under ``"state_dict"``, ``"model"``,
        ``"model_state_dict"`` and the like.
    byte_limit : int
        Largest file to open.

    Returns
    -------
    dict of str to torch.Tensor
        On the CPU, detached. Tensors in other nested dictionaries are named ``"outer.inner"``, in lists
        ``"outer.0.inner"``; the state of an optimizer is left out.

    Raises
    ------
    ModelFileError
        If torch is too old, or the file is damaged, too large, or holds more than a state dict: pickled modules and
        TorchScript archives are refused.
    """
    if _version(str(torch.__version__)) < OLDEST:
        raise ModelFileError(
            f"torch {torch.__version__} is installed; state dicts are read with torch {'.'.join(map(str, OLDEST))} or "
            "newer only, since older ones can be made to run code (CVE-2025-32434). Upgrade torch."
        )
    with Path(path).open("rb") as file:
        check_checkpoint(file, byte_limit)
        try:
            loaded = _load(file)
        except Exception as error:
            # Torch's own message goes on to advise weights_only=False.
            first = str(error).partition("\n")[0].partition(". ")[0]
            raise ModelFileError(f"torch cannot read it: {type(error).__name__}: {first}.") from error
    if not isinstance(loaded, _NESTED):
        raise ModelFileError(
            f"it holds a {type(loaded).__name__}, not a dictionary of tensors by name. Save model.state_dict()."
        )
    tensors: dict[str, Tensor] = {}
    for name, tensor in _tensors(loaded):
        if name in tensors:
            raise ModelFileError(f"two of its tensors are called {name!r}. Save one model's state dict alone.")
        tensors[name] = tensor.detach()
    if not tensors:
        raise ModelFileError("it holds no tensors by name. Save model.state_dict().")
    return tensors


def _load(file: BinaryIO) -> Any:
    """Load without running code, and mapped where that can be: a tensor is then read when it is used.

    Under the name of the open file: torch maps named files only, and looks at the suffix of the real name.
    """
    named = f"/proc/self/fd/{file.fileno()}"
    if zipfile.is_zipfile(file) and Path(named).exists():
        return torch.load(named, map_location="cpu", weights_only=True, mmap=True)
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


def _version(text: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _tensors(loaded: Any) -> Iterator[tuple[str, Tensor]]:
    """Tensors by dotted name, outer ones first, items of lists by number; what contains itself is visited once.

    Operators only, no methods: a pickle may have put attributes of their names on an OrderedDict.
    """
    waiting: deque[tuple[str, Any]] = deque([("", loaded)])
    seen = {id(loaded)}
    letters = 0
    while waiting:
        prefix, current = waiting.popleft()
        named = isinstance(current, dict)
        wrapper = next((key for key in _WRAPPERS if named and not prefix and key in current), None)
        for key in current if named else range(len(current)):
            value, name = current[key], f"{prefix}{key}"
            letters += len(name)
            if letters > _NAMES:
                raise ModelFileError(f"its names have more than {_NAMES} letters in all. Save model.state_dict().")
            if isinstance(value, Tensor):
                yield name, value
            elif isinstance(value, _NESTED) and id(value) not in seen and not _is_optimizer(value):
                seen.add(id(value))
                # What stands in a list is told by its number, below the list's own name.
                waiting.append(("" if key == wrapper and isinstance(value, dict) else f"{name}.", value))


def _is_optimizer(value: Any) -> bool:
    """Whether this is what ``torch.optim`` keeps, whatever it is called: of each parameter that its groups list."""
    try:
        listed = {key for group in value["param_groups"] for key in group["params"] if isinstance(key, int | str)}
        return bool(listed) and all(key in listed for key in value["state"])
    except (TypeError, KeyError, IndexError):
        return False
