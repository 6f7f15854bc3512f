"""What is written: a file whole or not at all; and standard streams, which may be missing or full, without raising."""

from __future__ import annotations

import codecs
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from specnorm.proof import visible
from specnorm_audit.readers.safetensors import files_of

Tick = Callable[[int, int, str], None]
"""Is called with what is done, how much there is, and the name of what was done last."""
_BAR = 24
"""Characters of a bar."""
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


# -- standard streams -------------------------------------------------------------------------------------------------
def complete() -> None:
    """Put streams in the place of those that this process was started without.

    Their numbers are taken then, so that no file is written to in their stead. Standard output refuses what is written,
    since it is lost; messages are dropped.
    """
    for name, flags in (("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            file = os.open(os.devnull, flags)
            setattr(sys, name, os.fdopen(file, "r" if name == "stdin" else "w", encoding="utf-8"))


def write(stream: TextIO, text: str, raw: bool = False) -> str | None:
    """Write at once; as escapes what the stream's encoding lacks and, on a terminal, what would control it (not raw).

    Why the text is lost, or None. A reader that has gone (head, less) has read what it wanted.
    """
    encoding = stream.encoding or "utf-8"
    try:
        if stream.isatty() and not raw:
            text = "\n".join(map(visible, text.split("\n")))
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except (OSError, ValueError) as error:
        with suppress(OSError, ValueError):  # else the interpreter tries once more, at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return None if isinstance(error, BrokenPipeError) else getattr(error, "strerror", None) or str(error)
    return None


def complain(message: str, prefix: str = "specnorm: ") -> None:
    """Say something on stderr, in one line."""
    write(sys.stderr, f"{prefix}{visible(message)}\n")


@contextmanager
def progress(model: str, shown: bool) -> Iterator[Tick | None]:
    """A line on stderr that says what is done, if that is a terminal, and gone at the end."""
    if not shown or not sys.stderr.isatty():
        yield None
        return
    longest = 0

    def line(text: str) -> None:
        nonlocal longest
        shortened = visible(text)[: shutil.get_terminal_size().columns - 1]
        write(sys.stderr, f"\r{shortened:<{longest}}\r{shortened}", raw=True)
        longest = len(shortened)

    def tick(done: int, total: int, name: str) -> None:
        full = _BAR * done // max(total, 1)
        line(f"{'#' * full}{'.' * (_BAR - full)} {done}/{total} {name}")

    try:
        line(Path(model).name)
        yield tick
    finally:
        line("")
