"""Writing a report to a file, all of it or nothing."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path


def check_output(path: Path) -> None:
    """Refuse a path that `replace_file` could not write, before hours of measuring.

    Parameters
    ----------
    path : Path

    Raises
    ------
    OSError
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        # Replacing /dev/null by a file would be permanent.
        raise OSError(f"{path} is not a regular file")
    if not target.parent.is_dir():
        raise OSError(f"{path.parent} is not a folder")


def replace_file(path: Path, text: str) -> None:
    """Write a file so that it holds either its old content or all of the new one, whatever happens.

    Parameters
    ----------
    path : Path
        A link is followed.
    text : str

    Raises
    ------
    OSError
    """
    check_output(path)
    target = path.resolve()
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("x", encoding="utf-8", errors="backslashreplace", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
