"""Writing a report to a file, all of it or nothing."""

from __future__ import annotations

import os
from pathlib import Path


def check_output(path: Path) -> None:
    """Refuse a path that `replace_file` could not write, before hours of measuring.

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


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file so that it holds either its old content or all of the new one, whatever happens.

    Parameters
    ----------
    path : Path
        A link is followed.
    content : str or bytes
        Text is written in UTF-8, with escapes for lone surrogates.

    Raises
    ------
    OSError
    """
    import secrets  # here, since most reports are printed
    import shutil

    check_output(path)
    target = path.resolve()
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.tmp")
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
