"""Read the command line's options: each function returns a value, or refuses a text in the user's words."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import click
from click.shell_completion import CompletionItem

Stated: TypeAlias = tuple[dict[str, Any], list[str]]
"""Facts that JSON states, and the file that has it, if it is one."""
FURTHEST = 1e100
"""Largest radius that labels are certified within."""
SUFFIXES = {
    "": "table",
    ".txt": "table",
    ".json": "json",
    ".csv": "csv",
    ".md": "markdown",
    ".html": "html",
    ".xml": "junit",
    ".sarif": "sarif",
}
"""Formats of reports by the endings of their names."""


def completed(*words: str, files: bool = False, several: bool = False) -> Any:
    """Return what completes an option's value in a shell: words, also files, or several words joined by commas."""

    def complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
        before, comma, last = incomplete.rpartition(",") if several else ("", "", incomplete)
        items = [CompletionItem(f"{before}{comma}{word}") for word in words if word.startswith(last)]
        return [*items, CompletionItem(incomplete, type="file")] if files else items

    return complete


def _number(wanted: str, is_accepted: Callable[[float], bool], unit: str = "") -> Callable[[str], float]:
    """Return a reader of numbers that refuses those that ``is_accepted`` does not accept.

    The text may end in ``unit``. ``wanted`` says in the error which numbers are accepted.
    """

    def read(text: str) -> float:
        try:
            x = math.nan if "_" in text else float(text.strip().removesuffix(unit))  # Python allows underscores
        except ValueError:
            x = math.nan
        if not is_accepted(x):
            raise click.BadParameter(f"{text!r} is not {wanted}.")
        return x

    return read


tolerance = _number("a number between 0 and 1", lambda x: 0 < x < 1)
seconds = _number("a time: give seconds above 0, such as 10, 10s or inf", lambda x: x > 0, "s")
bound = _number("a finite number of at least 0", lambda x: 0 <= x < math.inf)
share = _number("a share from 0 to 1", lambda x: 0 <= x <= 1)
radius = _number(f"a radius: give a number from 0 to {FURTHEST:g}", lambda x: 0 <= x <= FURTHEST)


def _natural(text: str, wanted: str) -> int:
    """Return a whole number from 1 to 999,999,999; ``wanted`` says in the error what was expected."""
    is_whole = text.isascii() and text.isdigit() and len(text) < 10
    if not is_whole or int(text) == 0:
        raise click.BadParameter(f"{text!r} is not {wanted}.")
    return int(text)


def jobs(text: str) -> int | None:
    """Return a number of processes; None: it is chosen by the number of processors."""
    if text == "auto":
        return None
    return min(_natural(text, "a number of at least 1, nor auto"), 9999)


def limit(text: str) -> int:
    """Return a number of bytes."""
    return int(_number("a number of bytes, such as 1e9", lambda x: 1 <= x < math.inf)(text))


def methods(text: str) -> tuple[str, ...]:
    """Return names of columns."""
    return tuple(word.strip() for word in text.split(","))


def geometry(text: str) -> Stated:
    """Return the geometry of layers from JSON, or from a file of JSON, and a list with the file if it is one."""
    is_json = text.lstrip().startswith("{")
    try:
        if is_json:
            return json.loads(text), []
        return json.loads(Path(text).read_text(encoding="utf-8")), [text]
    except OSError as error:
        reason = error.strerror or error
        raise click.BadParameter(f"{text!r} is no JSON in braces, nor a file with it: {reason}.") from error
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"this is not JSON: {error}.") from error


def attention(text: str) -> Stated:
    """Return facts of attention from JSON, or from a file of JSON, and a list with the file if it is one."""
    return ({}, []) if text == "auto" else geometry(text)


def size(text: str) -> tuple[str, Any]:
    """Return an input's name, "" if there is none, and its sizes: spatial ones, or after a name all of them."""
    name, _, shape = text.rpartition("=")
    if text == "file":
        return "", text
    if text.startswith("="):
        raise click.BadParameter(f"{text!r} has no name before =: give every input once, as NAME=NxM.")
    numbers = shape.replace("x", ",").split(",")
    place = "" if numbers == [text] else f" in {text!r}"
    wanted = f"a size{place}, such as 32 or 32x48"
    if not all(number.strip() for number in numbers):
        raise click.BadParameter(f"a number is missing in {text!r}: give sizes such as 32 or 32x48.")
    return name, tuple(_natural(number, wanted) for number in numbers)


def sizes(_: click.Context, __: click.Parameter, values: Sequence[tuple[str, Any]]) -> Any:
    """Return spatial sizes, "file", or shapes by the names of inputs, of an option that may be repeated."""
    if not values:
        return None
    names = [name for name, _ in values]
    if any(names):
        if not all(names) or len({*names}) < len(names):
            raise click.BadParameter("give every input once, as NAME=NxM, and no other size beside it.")
        return dict(values)
    if len(values) > 1:
        raise click.BadParameter("it is given twice; give several inputs by name, as NAME=NxM.")
    ((_name, numbers),) = values
    if numbers == "file":
        return numbers
    return numbers[0] if len(numbers) == 1 else numbers


def output_file(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    """Return the file of a report, None for ``-``, standard output."""
    return None if path == Path("-") else path


def format_of(stated: str | None, output: Path | None, formats: Sequence[str]) -> str:
    """Return the format of a report: ``stated``, or the format of the file's suffix, or a table."""
    if stated is not None:
        return stated
    if output is None:
        return "table"
    by_name = SUFFIXES.get(output.suffix.lower(), "")
    if by_name not in formats:
        suffixes = ", ".join(suffix for suffix, name in SUFFIXES.items() if suffix and name in formats)
        raise click.UsageError(
            f"--output: {output.name!r} ends in none of {suffixes}, which say the format: give --format."
        )
    return by_name
