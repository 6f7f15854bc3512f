"""What the command line's options may be: each callback returns a value, or refuses it in the user's words."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm.errors import SpecnormError
from specnorm.text import visible
from specnorm_audit import plots
from specnorm_audit.geometry import overrides
from specnorm_audit.readers import MAX_BYTES
from specnorm_audit.rows import CIRCULAR, COLUMNS, STANDARD

if TYPE_CHECKING:
    import click

FURTHEST = 1e100
"""Largest radius that labels are certified within."""


def tolerance(ctx: click.Context, param: click.Parameter, value: float) -> float:
    """A relative width."""
    import click

    if not 0 < value < 1:
        raise click.BadParameter(f"{value:g} is not between 0 and 1.", ctx, param)
    return value


def seconds(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """A time."""
    import click

    if value is not None and not value > 0:
        raise click.BadParameter(f"{value:g} is no time: give seconds above 0.", ctx, param)
    return value


def methods(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Names of columns."""
    import click

    words = tuple(word.strip() for word in value.split(",")) if value is not None else ()
    for word in words:
        if word not in COLUMNS:
            raise click.BadParameter(f"{visible(word)!r} is not one of {', '.join(COLUMNS)}.", ctx, param)
    return words


def standard(input_shape: Any) -> tuple[str, ...]:
    """Columns of JSON and CSV, and of tables that are asked for all."""
    sized = input_shape is not None and not isinstance(input_shape, dict)
    return (*STANDARD, CIRCULAR) if sized else STANDARD


def geometry(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[dict[str, Any] | None, list[str]]:
    """What is known of layers, in JSON or a file of it; and that file."""
    import click

    if value is None:
        return None, []
    files = [] if value.lstrip().startswith("{") else [value]
    try:
        text = Path(value).read_text(encoding="utf-8") if files else value
        found: dict[str, Any] = json.loads(text, object_pairs_hook=_without_repeats)
        overrides(found)
    except OSError as error:
        raise click.BadParameter(visible(f"{value} cannot be read: {error.strerror or error}."), ctx, param) from error
    except json.JSONDecodeError as error:
        raise click.BadParameter(visible(f"this is no JSON: {error}."), ctx, param) from error
    except (SpecnormError, ValueError, RecursionError) as error:
        raise click.BadParameter(visible(str(error)), ctx, param) from error
    return found, files


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object of a JSON text; of two values under one name, one would be lost."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object.")
    return found


def of_inputs(command: Any) -> Any:
    """Add the options that say which inputs a network has."""
    import click

    shape = (
        "Spatial input sizes, such as 32 or 32x48, or those that the file states. Or the whole "
        "shape of a network's input by its name, such as audio=1x16000; repeatable."
    )
    between = "Range of every entry of an ONNX network's inputs, such as 0 1: squares and products need one."
    made = [
        click.option("--input-shape", multiple=True, callback=sizes, metavar="N|NxM|file|NAME=NxM", help=shape),
        click.option("--input-range", type=(float, float), callback=ends, metavar="LOW HIGH", help=between),
        click.option("--radius", type=float, metavar="R", help="Bound an ONNX network within R of --centre."),
        click.option(
            "--centre", callback=array, metavar="FILE.npy|npz",
            help="An input, with its batch axis: an array, or one for each name of an input.",
        ),
    ]  # fmt: skip
    for option in reversed(made):
        command = option(command)
    return command


def of_samples(command: Any) -> Any:
    """Add what ``specnorm certify`` takes."""
    import click

    between = "Range of every entry of the inputs, such as 0 1: labels are certified for changes that stay in it."
    made = [
        click.argument("model", metavar="MODEL.onnx", type=click.Path(path_type=str)),
        click.argument("data", metavar="DATA.npz", type=click.Path(path_type=str)),
        click.option(
            "--radius", "radii", type=float, multiple=True, required=True, callback=distances, metavar="R",
            help="Largest change of a sample, in the 2-norm; repeatable.",
        ),
        click.option("--input-range", type=(float, float), callback=ends, metavar="LOW HIGH", help=between),
        click.option(
            "--execution", type=click.Choice(("float64", "float32", "float16", "bfloat16")),
            help="Precision that the network is executed in. Default: real arithmetic.",
        ),
        click.option(
            "--budget", type=float, callback=seconds, metavar="SECONDS",
            help="Time for each sample and radius. Default: a fixed number of steps, whatever the machine.",
        ),
        click.option("--max-bytes", type=click.IntRange(min=1), default=MAX_BYTES, show_default=False, metavar="N",
            help=f"Refuse files whose arrays claim more in all; {MAX_BYTES >> 30} GiB unless given.",
        ),
        click.option(
            "--format", "output_format", type=click.Choice(("table", "json", "csv", "markdown")), default="table",
            help="Form of the report.",
        ),
        click.option("--output", type=click.Path(path_type=Path), help="Write to this file instead."),
        click.option(
            "--plot", type=click.Path(path_type=Path), callback=plot, metavar="FILE.png|svg",
            help="Also draw the share that is certified over the radius; needs the extra 'plot'.",
        ),
        click.option(
            "--fail-below", type=click.FloatRange(0, 1), callback=bound, metavar="SHARE",
            help="Exit with 1 unless at least this share of the labels is certified, from 0 to 1, at every radius.",
        ),
    ]  # fmt: skip
    for each in reversed(made):
        command = each(command)
    return command


def distances(ctx: click.Context, param: click.Parameter, value: tuple[float, ...]) -> tuple[float, ...]:
    """Radii, of which the squares are numbers, too."""
    import click

    for each in value:
        if not 0 <= each <= FURTHEST:
            raise click.BadParameter(f"{each:g} is no radius: give a number from 0 to {FURTHEST:g}.", ctx, param)
    return value


def sizes(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> Any:
    """Spatial sizes, ``file``, or shapes by the names of inputs."""
    import click

    named = [word.rpartition("=")[::2] for word in value if "=" in word]
    if named:
        found = {name: _numbers(ctx, param, shape) for name, shape in named if name}
        if len(found) != len(value):
            raise click.BadParameter("give every input once, as NAME=NxM, and no other size beside it.", ctx, param)
        return found
    if len(value) > 1:
        raise click.BadParameter("it is given twice; give several inputs by name, as NAME=NxM.", ctx, param)
    if not value or value[0] == "file":
        return value[0] if value else None
    found_sizes = _numbers(ctx, param, value[0])
    return found_sizes[0] if len(found_sizes) == 1 else found_sizes


def _numbers(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    import click

    words = value.replace("x", ",").split(",")
    if not all(word.isascii() and word.isdigit() and len(word) < 10 and int(word) > 0 for word in words):
        raise click.BadParameter(f"{visible(value)!r} is not a size such as 32 or 32x48.", ctx, param)
    return tuple(int(word) for word in words)


def array(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    """An array of a file, or several by name."""
    import click

    if value is None:
        return None
    try:
        found = np.load(value, allow_pickle=False)
        return found if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise click.BadParameter(
            visible(f"{value} is no .npy or .npz file of numbers: {error}."), ctx, param
        ) from error


def ends(ctx: click.Context, param: click.Parameter, value: tuple[float, float] | None) -> tuple[float, float] | None:
    """Two numbers, the smaller one first."""
    import click

    if value is not None and not value[0] < value[1]:
        raise click.BadParameter(
            f"{value[0]:g} {value[1]:g} is no range: give two numbers, the smaller one first.", ctx, param
        )
    return value


def jobs(ctx: click.Context, param: click.Parameter, value: str) -> int | None:
    """A number of processes; None: as many as pay."""
    import click

    if value == "auto":
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 5 and int(value) > 0):
        raise click.BadParameter(f"{visible(value)!r} is neither a number of at least 1 nor auto.", ctx, param)
    return int(value)


def bound(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """A norm."""
    import click

    if value is not None and not (math.isfinite(value) and value >= 0):
        raise click.BadParameter("give a number of at least 0.", ctx, param)
    return value


def plot(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """A picture that can be drawn."""
    import click

    if value is not None:
        try:
            plots.check_plot(value)
        except (ValueError, ImportError) as error:
            raise click.BadParameter(visible(f"{error}."), ctx, param) from error
    return value
