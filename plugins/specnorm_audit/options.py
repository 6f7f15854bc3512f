"""What the command line's options may be: each type gives a value, or refuses it in the user's words."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from specnorm import SpecnormError
from specnorm.proof import visible
from specnorm_audit import plots
from specnorm_audit.geometry import overrides
from specnorm_audit.rows import CIRCULAR, COLUMNS, STANDARD

FURTHEST = 1e100
"""Largest radius that labels are certified within."""
SUFFIXES = {"": "table", ".txt": "table", ".json": "json", ".csv": "csv", ".md": "markdown", ".html": "html"}
"""How the names of reports end -> their format."""


class Type(click.types.ParamType):  # type: ignore[type-arg,unused-ignore]  # click 8.1 has none
    """A type by a function that raises ValueError, with the reason."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self.read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value of a text."""
        if not isinstance(value, str):
            return value
        try:
            return self.read(value)
        except (ValueError, ImportError, SpecnormError, RecursionError) as error:
            self.fail(visible(f"{error}."), param, ctx)


def number(asked: str, accepted: Callable[[float], bool], unit: str = "") -> Type:
    """Numbers that are ``accepted``, which is what is ``asked`` for, maybe with a unit behind."""

    def read(text: str) -> float:
        try:
            found = math.nan if "_" in text else float(text.strip().removesuffix(unit))
        except ValueError:
            found = math.nan
        if not accepted(found):
            raise ValueError(f"{text!r} is not {asked}")
        return found

    return Type("number", read)


TOLERANCE = number("a number between 0 and 1", lambda x: 0 < x < 1)
SECONDS = number("a time: give seconds above 0, such as 10, 10s or inf", lambda x: x > 0, "s")
BOUND = number("a finite number of at least 0", lambda x: 0 <= x < math.inf)
SHARE = number("a share from 0 to 1", lambda x: 0 <= x <= 1)
RADIUS = number(f"a radius: give a number from 0 to {FURTHEST:g}", lambda x: 0 <= x <= FURTHEST)
REAL = number("a number", lambda _: True)


def _natural(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise ValueError(f"{text!r} is not {what}")
    return int(text)


def _jobs(text: str) -> int | None:
    return None if text == "auto" else min(_natural(text, "a number of at least 1, nor auto"), 9999)


JOBS = Type("jobs", _jobs)
"""A number of processes; None: as many as pay."""


def _methods(text: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(","))
    for word in words:
        if word not in COLUMNS:
            raise ValueError(f"{word!r} is not one of {', '.join(COLUMNS)}")
    return words


METHODS = Type("methods", _methods)


def _geometry(text: str) -> tuple[dict[str, Any], list[str]]:
    files = [] if text.lstrip().startswith("{") else [text]
    try:
        found: dict[str, Any] = json.loads(
            Path(text).read_text(encoding="utf-8") if files else text, object_pairs_hook=_without_repeats
        )
    except OSError as error:
        raise ValueError(f"{text} cannot be read: {error.strerror or error}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"this is no JSON: {error}") from error
    overrides(found)
    return found, files


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object of a JSON text; of two values under one name, one would be lost."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


GEOMETRY = Type("geometry", _geometry)
"""What is known of layers, in JSON or a file of it; and that file."""


def _size(text: str) -> tuple[str, Any]:
    name, _, shape = text.rpartition("=")
    if text == "file":
        return "", text
    if text.startswith("="):
        raise ValueError(f"{text!r} has no name before =: give every input once, as NAME=NxM")
    return name, tuple(
        _natural(n, f"a size in {text!r}, such as 32 or 32x48") for n in shape.replace("x", ",").split(",")
    )


SIZE = Type("size", _size)


def sizes(_: click.Context, __: click.Parameter, given: Sequence[tuple[str, Any]]) -> Any:
    """Spatial sizes, ``file``, or shapes by the names of inputs: of an option that may be repeated."""
    if not given:
        return None
    if any(name for name, _ in given):
        found = {name: shape for name, shape in given if name}
        if len(found) != len(given):
            raise click.BadParameter("give every input once, as NAME=NxM, and no other size beside it.")
        return found
    if len(given) > 1:
        raise click.BadParameter("it is given twice; give several inputs by name, as NAME=NxM.")
    size = given[0][1]
    return size[0] if len(size) == 1 else size


def ends(_: click.Context, __: click.Parameter, value: tuple[float, float] | None) -> tuple[float, float] | None:
    """Two numbers, the smaller one first."""
    if value is not None and not value[0] < value[1]:
        raise click.BadParameter(f"{value[0]:g} {value[1]:g} is no range: give two numbers, the smaller one first.")
    return value


def _plot(path: str) -> Path:
    plots.check_plot(Path(path))
    return Path(path)


PLOT = Type("plot", _plot)
FILE = click.Path(path_type=Path)
OUTPUT = Type("file", lambda text: None if text == "-" else Path(text))
"""None: standard output."""


def standard(input_shape: Any) -> tuple[str, ...]:
    """Columns of JSON and CSV, and of tables that are asked for all."""
    sized = input_shape is not None and not isinstance(input_shape, dict)
    return (*STANDARD, CIRCULAR) if sized else STANDARD


def format_of(given: str | None, output: Path | None, formats: Sequence[str]) -> str:
    """The format of a report: what was given, or what the file's name ends in."""
    if given is not None or output is None:
        return given or "table"
    found = SUFFIXES.get(output.suffix.lower(), "")
    if found not in formats:
        known = ", ".join(suffix for suffix, name in SUFFIXES.items() if suffix and name in formats)
        raise click.UsageError(
            visible(f"--output: {output.name} ends in none of {known}, which say the format: give --format.")
        )
    return found
