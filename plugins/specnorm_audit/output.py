"""Writing a report to a file, all of it or nothing."""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from specnorm_audit.readers.safetensors import files_of

_CONTROLS = frozenset(range(32)) - frozenset(b"\t\n\r\f")


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[str]) -> None:
    """Refuse what a command could not write, or would lose by writing it, before hours of measuring.

    ``outputs`` is what each option writes; ``inputs`` what the command reads, to which a model's parts belong.
    """
    written = {option: path for option, path in outputs.items() if path is not None}
    taken = [(part, "this command reads it") for path in inputs if written for part in files_of(Path(path))]
    for option, path in written.items():
        try:
            for other, why in taken:
                if path.resolve() == other.resolve() or (path.exists() and other.exists() and path.samefile(other)):
                    raise OSError(f"{path} would be replaced, and {why}")
            check_output(path)
        except OSError as error:
            raise OSError(f"{option}: {f'{path}: {error.strerror}' if error.strerror else error}") from error
        taken.append((path, f"{option} writes it"))


def check_output(path: Path) -> None:
    """Refuse a path that `replace_file` could not write, or where something lies that is no report."""
    target = path.resolve()
    if not target.parent.is_dir():
        raise OSError(f"{path.parent} is not a folder")
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(target.stat().st_mode):
            # Replacing /dev/null by a file would be permanent.
            raise OSError(f"{path} is not a regular file")
        if not _is_report(target):
            raise OSError(f"{path} holds a model or other data, which a report would replace: name another file")
    temporary = _beside(target)
    try:
        temporary.open("xb").close()
    finally:
        temporary.unlink(missing_ok=True)


def _is_report(path: Path) -> bool:
    """Whether a file may be what an audit wrote: text that is no index of a sharded model, or a picture."""
    with path.open("rb") as file:
        start = file.read(2**16)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return start.startswith(b"\x89PNG\r\n")
    return _CONTROLS.isdisjoint(start) and files_of(path) == [path]


def _beside(target: Path) -> Path:
    import secrets  # here, since most reports are printed

    return target.with_name(f".specnorm-{secrets.token_hex(8)}.tmp")


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file so that it holds either its old content or all of the new one, whatever happens."""
    import shutil  # here, since most reports are printed

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
