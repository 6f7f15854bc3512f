"""What the commands with reports share: options, and how files are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import click

from specnorm.proof import visible
from specnorm_audit import options
from specnorm_audit.output import check_output, is_same_file, replace_file
from specnorm_audit.readers import MAX_BYTES
from specnorm_audit.readers.safetensors import files_of
from specnorm_audit.streams import complain

RANGE = click.option(
    "--input-range", type=(float, float), metavar="LOW HIGH",
    help="Range of the entries of an ONNX network's inputs, such as 0 1; required by squares and products.",
)  # fmt: skip
LIMIT = click.option(
    "--max-bytes", type=options.limit, default=str(MAX_BYTES), metavar="N",
    help="Limit on the total size of a file's arrays.",
)  # fmt: skip


def reporting(formats: Sequence[str]) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Return a decorator that gives a command the options of a report: its format and file."""
    shared = (
        LIMIT,
        click.option(
            "-f", "--format", "output_format", type=click.Choice(formats),
            help="Format of the report. Default: by the suffix of --output, or a table.",
        ),
        click.option(
            "-o", "--output", type=click.Path(path_type=Path), callback=options.output_file, metavar="FILE",
            help="Write to this file, whose suffix selects the format; - is standard output.",
        ),
        click.option(
            "-q", "--quiet", is_flag=True, help="Print the verdict alone; do not show progress and passed gates."
        ),
    )  # fmt: skip

    def decorated(command: Callable[..., int]) -> Callable[..., int]:
        for option in reversed(shared):  # the last decorator is the first in the help
            command = option(command)
        return command

    return decorated


def check(outputs: Mapping[str, Path | None], inputs: Iterable[str]) -> None:
    """Refuse outputs that cannot be written, or that would replace an input or another output, before measuring.

    ``outputs`` has the path that each option writes. ``inputs`` are the paths that the command reads; all files of a
    sharded model count.
    """
    used = [(part, "this command reads it") for model in inputs for part in files_of(Path(model))]
    for option, path in outputs.items():
        if path is None:
            continue
        try:
            for other, use in used:
                if is_same_file(path, other):
                    raise OSError(f"{path} would be replaced, and {use}")
            check_output(path)
        except OSError as error:
            reason = f"{path}: {error.strerror}" if error.strerror else str(error)
            raise click.UsageError(visible(f"{option}: {reason}.")) from error
        used.append((path, f"{option} writes it"))


def write_file(path: Path, content: Callable[[], str | bytes], has_content: bool = True) -> bool:
    """Replace a file; return False, with a message, if that fails or if there is no content."""
    if not has_content:
        complain(f"{path} is left as it was, because its new content could not be read.")
        return False
    try:
        replace_file(path, content())
    except OSError as error:
        complain(f"{path} cannot be written: {error.strerror or error}.")
        return False
    return True
