"""docs/benchmarks/index.md, gpu.md and their plots, made from their lines alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.facts import Row, read
from bench.markdown import every, measured, picture, span, table, times

NOTES = Path(__file__).with_name("notes.md")
"""What was tried where an aim is missed: written by hand, and put at the end."""
MIB = 2**20
TEXTS = {
    "tensor norm": ("The tensor norm, and the norm itself", "HOPM: 100 sweeps from a random start, by einsum, at least "
                    "as fast as the published code."),
    "circular": ("Circular layers at one size", "FFT of the padded kernel and all singular values (torch), where a "
                 "call takes at most a few seconds: at half the frequencies, since a real kernel's symbol at the "
                 "others is conjugate, and in float32.\n\n![seconds against the input size](circular.svg)"),
    "unfoldings": ("Fantastic Four", "The smallest of the unfoldings' norms, 3x3 kernels: by 50 power steps on four of "
                   "them, which is no bound, and proven."),
    "uniform grid": ("Uniform grid", "10 (k - 1) points an axis, singular values, LipGrid's factor."),
    "gram": ("Gram iteration", "Circular: five steps at half the frequencies, as published; no rounding is counted."),
    "gram, zeros": ("Gram iteration for every size", "Zero padding: three steps by torch's convolution."),
    "power": ("Power method", "100 steps; *as near* is `power_norm` with as few steps as reach what those do."),
    "PROPACK": ("PROPACK", "SciPy's, on the same layer by torch's convolution, to the same six digits."),
    "rescaling": ("AOL", "`aol` as published."),
    "rescaling, backward": ("AOL with its gradient", ""),
    "tolerance": ("What digits cost", "Every size."),
    "network": ("Every layer of a network", "One after the other; 1x is the time of a 768x768 matrix product."),
    "network bound": ("A network's constant", "Beside the same product; [more](networks.md)."),
    "training step": ("A training step", "What following every layer's norm adds to it; [more](training.md)."),
}  # fmt: skip
"""Section -> its heading and words."""


def write(source: Path) -> None:
    rows = read(source)
    if source.stem == "gpu":
        text = gpu(rows, source.name)
    else:
        plots(rows, source.parent)
        notes = NOTES.read_text(encoding="utf-8")
        text = "\n".join([head(rows, source.name), aims(rows), *sections(rows), left_out(rows), notes])
    out = source.with_name("gpu.md" if source.stem == "gpu" else "index.md")
    out.write_text(text.rstrip() + "\n", encoding="utf-8")


def sections(rows: list[Row]) -> list[str]:
    tables = [(heading, text, section(rows, key)) for key, (heading, text) in TEXTS.items()]
    found = [
        "\n\n".join(word for word in (f"## {heading}", text, told) if word) for heading, text, told in tables if told
    ]
    return [*found, libraries(rows)]


def pick(rows: list[Row], section: str, **fixed: Any) -> list[Row]:
    return [
        row for row in rows
        if row["section"] == section and not row.keys() & {"skipped", "error"}
        and all(row[key] == value for key, value in fixed.items())
    ]  # fmt: skip


# -- tables ----------------------------------------------------------------------------------------------------------
def section(rows: list[Row], title: str) -> str:
    """A line a problem; a column for the textbook method, and for each contestant; values and memory after them."""
    mine = pick(rows, title)
    problems: dict[tuple[Any, ...], dict[tuple[str, str], Row]] = {}
    for row in mine:
        key = (row["name"], row["family"], row["dtype"], row["n"])
        problems.setdefault(key, {})[row["library"], row["contestant"]] = row
    columns = list(dict.fromkeys((row["library"], row["contestant"]) for row in mine))
    columns.sort(key=lambda column: column[1] not in {row["yardstick"] for row in mine})
    several = len({library for library, contestant in columns}) > 2
    labels = [f"`{name}`{', ' + library if several else ''}" for library, name in columns]
    figures: list[tuple[str, Callable[[Row], str]]] = [("", lambda row: cell(row))]
    if any("value_over_norm" in row for row in mine):
        figures.append(("value: ", lambda row: f"{row['value_over_norm']:.4f}"))
    if any("peak_bytes" in row for row in mine):
        figures.append(("MiB: ", lambda row: f"{row['peak_bytes'] / MIB:.0f}" if "peak_bytes" in row else "-"))
    lines = [
        [*map(shown, key), *(tell(found[c]) if c in found else "-" for _, tell in figures for c in columns)]
        for key, found in problems.items()
    ]
    header = ["kernel", "", "dtype", "n", *(word + label for word, _ in figures for label in labels)]
    dull = {at for at in range(1, 4) if len({line[at] for line in lines}) <= 1}
    told = [[word for at, word in enumerate(line) if at not in dull] for line in (header, *lines)]
    return table(told[0], told[1:]) if mine else ""


def shown(word: Any) -> str:
    return "every" if word is None else str(word).removesuffix(" channels")


def cell(row: Row) -> str:
    told = span(row["seconds"])
    return told if row["contestant"] == row["yardstick"] or "faster" not in row else f"{told} ({times(row)})"


def libraries(rows: list[Row]) -> str:
    found = [row for row in pick(rows, "libraries") if row["contestant"] != row["yardstick"]]
    if not found:
        return ""
    columns = list(dict.fromkeys((row["library"], row["dtype"]) for row in found))
    cells = {(row["contestant"], row["library"], row["dtype"]): span(row["seconds"]) for row in found}
    names = dict.fromkeys(row["contestant"] for row in found)
    lines = [[f"`{name}`", *(cells.get((name, *column), "-") for column in columns)] for name in names]
    first = [row["first_call_seconds"] for row in found if row["library"].startswith("jax")]
    said = f" A first call of a shape, compilation included: {min(first):.1g} to {max(first):.2g} s." if first else ""
    shape = "x".join(map(str, found[0]["shape"]))
    text = f"A {shape} kernel. JAX: compiled, but for `enclose`, whose search runs in NumPy on the host.{said}"
    return f"## Libraries\n\n{text}\n\n" + table(["", *(f"{lib}, {dtype}" for lib, dtype in columns)], lines)


def left_out(rows: list[Row]) -> str:
    """What has no figure, and why."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if why := row.get("skipped") or row.get("error"):
            words = (row.get(key) for key in ("section", "name", "family", "n", "library", "contestant"))
            reasons.setdefault(why.replace("|", "\\|"), []).append(", ".join(str(word) for word in words if word))
    lines = [[why, f"{len(what)}: {what[0]}" + ("; ..." if len(what) > 1 else "")] for why, what in reasons.items()]
    return "## Not measured\n\n" + table(["why", "what"], lines) if lines else ""


# -- the suite -------------------------------------------------------------------------------------------------------
def head(rows: list[Row], name: str) -> str:
    return f"""# Benchmarks

Textbook methods, written plainly from their papers (`tests/bench/yardsticks.py`), and specnorm's on the same kernel: in
turn in one process, so that whatever else the machine does falls on both. "3x" is three times as fast, the median of
the paired ratios; below 1x it is slower. "Value" is divided by the norm itself, proven to 1e-4. "MiB" is what the
process grows by at most.

Measured {measured(rows, "threads")}.
Seconds are {every(rows, "clock")} time; the machine was shared with other work, which slows memory and caches too, so
compare ratios. Every line: [{name}]({name}). This page is made from it by `python -m bench page` in `tests`;
`python -m bench run --size full --out FILE` measures again, and `python -m bench compare FILE` lists what got slower
than noise allows. More: [what a proof costs](price.md), [training](training.md).

Kernels: real ones of published networks; "trained-like" ones of ResNet-18's shapes, made of real layers by rotations of
the channels, strides left out; "flat" ones are Gaussian, the worst case of a search.
"""


LIKE, C64 = {"family": "trained-like"}, {"name": "64 channels", "family": "trained-like", "contestant": "conv_norm"}
WHOLE = {"contestant": "enclose 1e-3"}
AIMS: tuple[tuple[str, str, str, Row, str], ...] = (
    ("HOPM, trained-like", "≥ 5x, never slower", "tensor norm", {**LIKE, "contestant": "tn_bound, estimate"}, "faster"),
    ("HOPM, trained-like", "≥ 1x", "tensor norm", {**LIKE, "contestant": "tn_bound, proven"}, "faster"),
    ("`rfft2` + `svdvals`, 64 channels, n = 32", "≥ 10x", "circular", {**C64, "n": 32}, "faster"),
    ("memory, 64 channels, n = 1024", "≤ 3 kernels + 256 MiB", "circular", {**C64, "n": 1024}, "peak_bytes"),
    ("every layer of ResNet-20", "1 s on 2 cores", "network", {**WHOLE, "name": "ResNet-20, trained"}, "seconds"),
    ("ResNet-18's shapes", "20 s on 2 cores", "network", {**WHOLE, "name": "ResNet-18, trained-like"}, "seconds"),
    ("50 power steps, trained-like", "≥ 1x up to 128 channels, ≥ 0.5x above", "unfoldings",
     {**LIKE, "contestant": "f4_bound"}, "faster"),
    ("50 power steps, flat", "≥ 1x up to 128 channels, ≥ 0.5x above", "unfoldings",
     {"family": "flat", "contestant": "f4_bound"}, "faster"),
)  # fmt: skip


def aims(rows: list[Row]) -> str:
    """From the least to the largest figure of each, with the mean of ratios."""
    lines = []
    for what, aim, title, fixed, key in AIMS:
        found = sorted(row[key] for row in pick(rows, title, **fixed) if key in row)
        if found:
            ends = [found[0], found[-1]] if len(found) > 1 else found
            told = " to ".join(
                {"faster": "{:.2g}x", "seconds": "{:.2g} s"}.get(key, "{:.3g} bytes").format(x) for x in ends
            )
            mean = f", {statistics.geometric_mean(found):.2g}x in the mean of {len(found)}" if len(found) > 1 else ""
            lines.append([f"`{fixed['contestant']}`: {what}", aim, told + mean])
    return "## Aims, and what was reached\n\n" + table(["what", "aim", "reached"], lines)


def plots(rows: list[Row], folder: Path) -> None:
    with picture(folder / "circular.svg", figsize=(7, 4)) as axes:
        for at, channels in enumerate((16, 64, 256)):
            same = {"name": f"{channels} channels", "family": "trained-like"}
            for word, name, style in (("FFT + SVD", "rfft_svd", "x--"), ("conv_norm", "conv_norm", "o-")):
                points = sorted((row["n"], row["seconds"]) for row in pick(rows, "circular", contestant=name, **same))
                if points:
                    label = f"{word}, {channels} channels"
                    axes.loglog(*zip(*points, strict=True), style, color=f"C{at}", label=label)
        axes.set(xlabel="input size n", ylabel="seconds")
        axes.legend(*axes.get_legend_handles_labels(), fontsize=8)


# -- a GPU -----------------------------------------------------------------------------------------------------------
def gpu(rows: list[Row], name: str) -> str:
    """Its page; a trial without a GPU makes none."""
    if faked := [row for row in rows if row["device"] == "cpu" or row["size"] != "full"]:
        raise ValueError(f"{name}: {len(faked)} lines are of a trial without a GPU: the page is of a GPU alone")
    told = every([row for row in rows if "gpu" in row], "gpu")
    text = (
        f"# On a GPU\n\n{told}. Measured {measured(rows)}. Wall time, the device waited for. JAX searches on the host, "
        f"so `enclose` of its arrays is none of the GPU's work. Lines: [{name}]({name}). `python -m bench gpu --out "
        "FILE` in `tests` measures again, within eight minutes; `python -m bench page FILE` makes this page.\n"
    )
    checks = [
        [row["section"], row["library"], str(row["passed"]), str(row["failed"]), str(row["skipped tests"])]
        for row in rows if "passed" in row
    ]  # fmt: skip
    header = ["", "library", "passed", "failed", "skipped"]
    tests = "## Tests\n\nAs many as there was time for.\n\n" + table(header, checks) if checks else ""
    return "\n".join(part for part in (text, *sections(rows), tests, left_out(rows)) if part)
