"""What the command line's options may be: each function gives a value, or refuses a text in the user's words."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from specnorm.proof import visible
from specnorm_audit import plots
from specnorm_audit.rows import CIRCULAR, STANDARD

FURTHEST = 1e100
"""Largest radius that labels are certified within."""
_LETTERS = "KMGTI "
SUFFIXES = {"": "table", ".txt": "table", ".json": "json", ".csv": "csv", ".md": "markdown", ".html": "html"}
"""How the names of reports end -> their format."""


def _number(asked: str, accepted: Callable[[float], bool], unit: str = "") -> Callable[[str], float]:
    """Numbers that are ``accepted``, which is what is ``asked`` for, maybe with a unit behind."""

    def read(text: str) -> float:
        try:
            found = math.nan if "_" in text else float(text.strip().removesuffix(unit))
        except ValueError:
            found = math.nan
        if not accepted(found):
            raise click.BadParameter(f"{text!r} is not {asked}.")
        return found

    return read


tolerance = _number("a number between 0 and 1", lambda x: 0 < x < 1)
seconds = _number("a time: give seconds above 0, such as 10, 10s or inf", lambda x: x > 0, "s")
bound = _number("a finite number of at least 0", lambda x: 0 <= x < math.inf)
share = _number("a share from 0 to 1", lambda x: 0 <= x <= 1)
margin = _number("a margin: give a finite number of at least 0", lambda x: 0 <= x < math.inf)
radius = _number(f"a radius: give a number from 0 to {FURTHEST:g}", lambda x: 0 <= x <= FURTHEST)


def _natural(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise click.BadParameter(f"{text!r} is not {what}.")
    return int(text)


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def size_in_bytes(text: str) -> int:
    """A number of bytes, maybe with a unit: 1GB is 10^9, 1GiB is 2^30."""
    number = text.strip().upper().removesuffix("B").rstrip(_LETTERS)
    unit = text.strip().upper().removesuffix("B")[len(number) :]
    try:
        found = float(number) * _UNITS[unit.strip()] if number.replace(".", "", 1).strip().isascii() else math.nan
    except (KeyError, ValueError):
        found = math.nan
    if "_" in text or not 1 <= found < 2**63:
        raise click.BadParameter(f"{text!r} is not a number of bytes of at least 1, such as 1000000000, 1GB or 8GiB.")
    return int(found)


def jobs(text: str) -> int | None:
    """A number of processes; None: as many as pay."""
    return None if text == "auto" else min(_natural(text, "a number of at least 1, nor auto"), 9999)


def methods(text: str) -> tuple[str, ...]:
    """Names of columns."""
    return tuple(word.strip() for word in text.split(","))


def geometry(text: str) -> tuple[dict[str, Any], list[str]]:
    """What is known of layers, in JSON or a file of it; and that file."""
    files = [] if text.lstrip().startswith("{") else [text]
    try:
        return json.loads(Path(text).read_text(encoding="utf-8") if files else text), files
    except OSError as error:
        raise click.BadParameter(f"{text!r} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"this is no JSON: {error}.") from error


def size(text: str) -> tuple[str, Any]:
    """Spatial sizes, or the shape of an input after its name."""
    name, _, shape = text.rpartition("=")
    if text == "file":
        return "", text
    if text.startswith("="):
        raise click.BadParameter(f"{text!r} has no name before =: give every input once, as NAME=NxM.")
    wanted = f"a size in {text!r}, such as 32 or 32x48"
    return name, tuple(_natural(n, wanted) for n in shape.replace("x", ",").split(","))


def sizes(_: click.Context, __: click.Parameter, given: Sequence[tuple[str, Any]]) -> Any:
    """Spatial sizes, ``file``, or shapes by the names of inputs: of an option that may be repeated."""
    if not given:
        return None
    names = [name for name, _ in given]
    if any(names):
        if not all(names) or len({*names}) < len(names):
            raise click.BadParameter("give every input once, as NAME=NxM, and no other size beside it.")
        return dict(given)
    if len(given) > 1:
        raise click.BadParameter("it is given twice; give several inputs by name, as NAME=NxM.")
    found = given[0][1]
    return found[0] if len(found) == 1 else found


def plot(text: str) -> Path:
    """A file to draw."""
    try:
        plots.check_plot(Path(text))
    except (ValueError, ImportError) as error:
        raise click.BadParameter(visible(f"{error}.")) from error
    return Path(text)


def output(text: str) -> Path | None:
    """A file to write; None: standard output."""
    return None if text == "-" else Path(text)


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
            f"--output: {output.name!r} ends in none of {known}, which say the format: give --format."
        )
    return found
