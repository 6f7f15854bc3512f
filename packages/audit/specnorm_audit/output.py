"""Write files, completely or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from contextlib import suppress
from pathlib import Path


def is_same_file(path: Path, other: Path) -> bool:
    """Whether two paths are one file, by their names or by a link."""
    if path.resolve() == other.resolve():
        return True
    return path.exists() and other.exists() and path.samefile(other)


def check_output(path: Path) -> None:
    """Refuse a path that `replace_file` could not write."""
    target = path.resolve()
    if not target.parent.is_dir():
        raise OSError(f"{path.parent} is not a folder")
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(target.stat().st_mode):
            # Replacing /dev/null by a file would be permanent.
            raise OSError(f"{path} is not a regular file")
    temporary = _beside(target)
    try:
        temporary.open("xb").close()
    finally:
        temporary.unlink(missing_ok=True)


def _beside(target: Path) -> Path:
    """Return a path for a temporary file in the target's folder."""
    return target.with_name(f".specnorm-{secrets.token_hex(8)}.tmp")


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file so that it holds either its old content or all of the new one, whatever happens."""
    check_output(path)
    target = path.resolve()
    temporary = _beside(target)
    try:
        with temporary.open("xb") as file:
            file.write(content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
