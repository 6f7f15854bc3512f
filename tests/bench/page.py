"""docs/benchmarks/index.md and its plots, made from the committed lines alone."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from bench.kernels import RESNET18

Row = dict[str, Any]
NOTES = Path(__file__).with_name("notes.md")
"""What was tried where an aim is missed: written by hand, and put at the end."""
MIB = 2**20


def write(rows: list[Row], source: Path) -> None:
    folder = source.parent
    plots(rows, folder)
    parts = [
        head(rows, source.name), aims(rows), tensor_norms(rows), circular(rows), unfoldings(rows), others(rows),
        tolerances(rows), libraries(rows), left_out(rows), NOTES.read_text(encoding="utf-8"),
    ]  # fmt: skip
    (folder / "index.md").write_text("\n".join(part for part in parts if part).rstrip() + "\n", encoding="utf-8")


# -- picking ---------------------------------------------------------------------------------------------------
def pick(rows: list[Row], section: str, **fixed: Any) -> list[Row]:
    return [
        row for row in rows
        if row["section"] == section and "skipped" not in row and all(row[key] == value for key, value in fixed.items())
    ]  # fmt: skip


def textbook(rows: list[Row], section: str, **fixed: Any) -> list[Row]:
    """Rows of the textbook method itself."""
    return [row for row in pick(rows, section, **fixed) if row["contestant"] == row["yardstick"]]


def one(rows: list[Row], section: str, **fixed: Any) -> Row | None:
    found = pick(rows, section, **fixed)
    return found[-1] if found else None


def table(header: list[str], lines: list[list[str]]) -> str:
    rule = "|" + "---|" * len(header)
    return (
        "\n".join(["| " + " | ".join(header) + " |", rule, *("| " + " | ".join(line) + " |" for line in lines)]) + "\n"
    )


def times(row: Row | None) -> str:
    """How many times as fast as the textbook method."""
    return f"{float(format(row['faster'], '.2g')):g}x" if row and "faster" in row else "-"


def span(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def geometric(values: list[float]) -> float:
    return math.exp(statistics.fmean(math.log(x) for x in values))


# -- the page --------------------------------------------------------------------------------------------------
def head(rows: list[Row], name: str) -> str:
    def every(key: str) -> str:
        return ", ".join(sorted({str(row[key]) for row in rows}))

    versions = ", ".join(f"{key} {value}" for key, value in rows[-1]["versions"].items())
    return f"""# Benchmarks

Textbook methods, written plainly from their papers (`tests/bench/yardsticks.py`), and specnorm's on the same kernel: in
turn in one process, so that whatever else the machine does falls on both. "3x" is three times as fast, the median of
the paired ratios; below 1x it is slower. "Value" is divided by the norm itself, proven to 1e-4.

Measured {every("date")} at commit {every("commit")} on {every("machine")}; threads: {every("threads")}; {versions}.
Seconds are {every("clock")} time; the machine was shared with other work, which slows memory and caches too, so compare
ratios. Every line: [{name}]({name}). This page is made from it by `python -m bench page` in `tests`;
`python -m bench run --size full --out FILE` measures again, and `python -m bench compare FILE` lists what got slower
than noise allows. More: [what a proof costs](price.md), [training](training.md).

Kernels: real ones of published networks; "trained-like" ones of ResNet-18's shapes, made of real layers by rotations of
the channels, strides left out; "flat" ones are Gaussian, the worst case of a search.
"""


def aims(rows: list[Row]) -> str:
    lines = [[what, aim, reached] for what, aim, reached in _aims(rows)]
    return "## Aims, and what was reached\n\n" + table(["what", "aim", "reached"], lines)


def _aims(rows: list[Row]) -> list[tuple[str, str, str]]:
    found = []
    for contestant, aim in (("tn_bound, estimate", "≥ 5x, never slower"), ("tn_bound, proven", "≥ 1x")):
        mine = [r for r in pick(rows, "tensor norm", contestant=contestant) if r["name"] in RESNET18]
        if mine:
            ratios = [r["faster"] for r in mine]
            reached = f"{geometric(ratios):.2g}x (geometric mean), {min(ratios):.2g}x at worst"
            what = f"`{contestant}` and HOPM, {len(mine)} of ResNet-18's {len(RESNET18)} shapes"
            found.append((what, aim, reached))
    both = [
        (ours["value"], theirs["value"])
        for ours in pick(rows, "tensor norm", contestant="tn_bound, estimate")
        for theirs in textbook(rows, "tensor norm", name=ours["name"], family=ours["family"])
    ]
    if both:
        least = min(a / b for a, b in both)
        found.append(
            ("its value over HOPM's", "≥ 1", f"{least:.6f} at least, {max(a / b for a, b in both):.3f} at most")
        )
    for n, family, factor in (
        (32, "trained-like", 10),
        (112, "trained-like", 100),
        (32, "flat", None),
        (112, "flat", None),
    ):
        row = one(rows, "circular", contestant="conv_norm", name="64 channels", family=family, n=n)
        if row:
            what = f"`conv_norm` and `rfft2` + `svdvals`, 64 channels, n = {n}, {family}, float32"
            found.append((what, f"≥ {factor}x" if factor else "-", times(row)))
    for row in pick(rows, "circular", contestant="conv_norm", name="64 channels", family="trained-like", n=1024):
        if "peak_bytes" in row:
            kernel = 4 * math.prod(row["shape"]) / MIB
            peak = f"{row['peak_bytes'] / MIB:.0f} MiB beyond a kernel of {kernel:.2g} MiB"
            found.append(("memory of `conv_norm`, 64 channels, n = 1024", "≤ 3 kernels + 256 MiB", peak))
    for name, aim in (("ResNet-20, trained", "1 s on 2 cores"), ("ResNet-18, trained-like", "20 s on 2 cores")):
        row = one(rows, "network", name=name)
        if row:
            found.append((f"`enclose` 1e-3, every layer of {name}", aim, f"{span(row['seconds'])}, one thread"))
    found.append(("`enclose` 1e-3, ResNet-50's shapes on an H200", "1 s", "not measured: no GPU"))
    for family in ("trained-like", "flat"):
        for low, aim in ((True, "≥ 1x"), (False, "≥ 0.5x")):
            mine = [
                r
                for r in pick(rows, "unfoldings", contestant="f4_bound", family=family)
                if (r["shape"][0] <= 128) == low
            ]
            if mine:
                where = ("up to" if low else "above") + " 128 channels"
                reached = ", ".join(f"{r['shape'][0]}: {r['faster']:.2g}x" for r in mine)
                found.append((f"`f4_bound` and 50 power steps, {where}, {family}", aim, reached))
    return found


def tensor_norms(rows: list[Row]) -> str:
    names = ("tn_bound, estimate", "tn_bound, proven", "enclose 1e-3")
    lines = []
    for base in textbook(rows, "tensor norm"):
        same = {"name": base["name"], "family": base["family"]}
        others = [one(rows, "tensor norm", contestant=name, **same) for name in names]
        values = [f"{row['value_over_norm']:.4f}" if row else "-" for row in (base, *others)]
        lines.append([
            base["name"], "x".join(map(str, base["shape"])), span(base["seconds"]), *map(times, others), *values,
        ])  # fmt: skip
    header = ["kernel", "shape", "HOPM", "estimate", "proven", "`enclose` 1e-3"]
    header += ["value: HOPM", "estimate", "proven", "`enclose`, upper"]
    text = "HOPM: 100 sweeps from a random start, by einsum, at least as fast as the published code."
    return f"## The tensor norm, and the norm itself\n\n{text}\n\n" + table(header, lines)


def circular(rows: list[Row]) -> str:
    lines = []
    for row in pick(rows, "circular", contestant="conv_norm"):
        same = {"name": row["name"], "family": row["family"], "n": row["n"]}
        base = next(iter(textbook(rows, "circular", **same)), None)
        interval = one(rows, "circular", contestant="enclose 1e-3", **same)
        lines.append([
            row["name"].removesuffix(" channels"), row["family"], str(row["n"]), span(base["seconds"]) if base else "-",
            span(row["seconds"]), times(row), span(interval["seconds"]) if interval else "-", times(interval),
            *(f"{r['peak_bytes'] / MIB:.0f}" if r and "peak_bytes" in r else "-" for r in (base, row)),
        ])  # fmt: skip
    header = [
        "channels",
        "kernel",
        "n",
        "FFT + SVD",
        "`conv_norm`",
        "",
        "`enclose` 1e-3",
        "",
        "MiB: FFT",
        "`conv_norm`",
    ]
    text = (
        "FFT of the padded kernel and all singular values (torch), where a call takes at most a few seconds: at half "
        "the frequencies, since a real kernel's symbol at the others is conjugate, and in float32."
    )
    picture = "![seconds against the input size](circular.svg)"
    return f"## Circular layers at one size\n\n{text}\n\n{picture}\n\n" + table(header, lines)


def unfoldings(rows: list[Row]) -> str:
    lines = []
    for row in pick(rows, "unfoldings", contestant="f4_bound"):
        base = one(rows, "unfoldings", contestant="unfolding_power", name=row["name"], family=row["family"])
        if base:
            peak = f"{row['peak_over_kernel']:.1f}" if "peak_over_kernel" in row else "-"
            lines.append([
                row["name"].removesuffix(" channels"), row["family"],
                span(base["seconds"]), span(row["seconds"]), times(row),
                f"{base['value'] / row['value'] - 1:+.1e}", peak,
            ])  # fmt: skip
    header = ["channels", "kernel", "50 power steps", "`f4_bound`", "", "their value less ours", "peak, in kernels"]
    return (
        "## Fantastic Four\n\nThe smallest of the unfoldings' norms, 3x3 kernels: by 50 power steps on four of them, "
        "which is no bound, and proven.\n\n![times as fast as 50 power steps](unfoldings.svg)\n\n"
        + table(header, lines)
    )


OTHERS = (
    "uniform grid", "gram", "gram, zeros", "power", "PROPACK", "rescaling", "rescaling, backward",
)  # fmt: skip
TEXTBOOK = {
    "gram_rfft": "Gram iteration, circular: five steps at half the frequencies, as published; no rounding is counted.",
    "gram_conv": "Zero padding, every size: three steps by torch's convolution.",
    "power_at_size": "Power method: 100 steps; *as near* is `power_norm` with as few steps as reach what those do.",
    "propack": "PROPACK: SciPy's, on the same layer by torch's convolution, to the same six digits.",
    "aol": "AOL: `aol` as published, and with its gradient.",
}


def others(rows: list[Row]) -> str:
    lines = []
    for section in OTHERS:
        for base in textbook(rows, section):
            same = {"name": base["name"], "family": base["family"], "n": base["n"]}
            for row in pick(rows, section, **same):
                if row is not base:
                    values = [f"{r['value_over_norm']:.4f}" if "value_over_norm" in r else "-" for r in (base, row)]
                    lines.append([
                        f"`{row['contestant']}`", f"`{base['contestant']}`", base["name"], base["family"],
                        str(base["n"] or "every"), span(base["seconds"]), span(row["seconds"]), times(row), *values,
                    ])  # fmt: skip
    header = ["ours", "textbook", "kernel", "", "n", "textbook", "ours", "", "value: textbook", "ours"]
    said = {row["yardstick"] for row in rows if row["section"] in OTHERS}
    text = " ".join(words for yardstick, words in TEXTBOOK.items() if yardstick in said)
    grid = "Uniform grid: 10 (k - 1) points an axis, singular values, LipGrid's factor."
    return f"## Uniform grid, Gram iteration, power method, rescaling\n\n{grid} {text}\n\n" + table(header, lines)


def tolerances(rows: list[Row]) -> str:
    found = [row for row in pick(rows, "tolerance") if row["contestant"] != row["yardstick"]]
    names = list(dict.fromkeys(row["contestant"] for row in found))
    lines = []
    for family, dtype in dict.fromkeys((row["family"], row["dtype"]) for row in found):
        picked = [one(rows, "tolerance", contestant=name, family=family, dtype=dtype) for name in names]
        lines.append([family, dtype, *(span(row["seconds"]) if row else "-" for row in picked)])
    return "## What digits cost\n\nA 64x64x3x3 kernel, every size.\n\n" + table(
        ["kernel", "dtype", *(f"`{name}`" for name in names)], lines
    )


def libraries(rows: list[Row]) -> str:
    found = [row for row in pick(rows, "libraries") if row["contestant"] != row["yardstick"]]
    columns = list(dict.fromkeys((row["library"], row["dtype"]) for row in found))
    lines = []
    for name in dict.fromkeys(row["contestant"] for row in found):
        picked = [one(rows, "libraries", contestant=name, library=lib, dtype=dtype) for lib, dtype in columns]
        lines.append([f"`{name}`", *(span(row["seconds"]) if row else "-" for row in picked)])
    first = [row["first_call_seconds"] for row in found if "first_call_seconds" in row]
    said = (
        f" A first call of a shape in JAX, compilation included: {min(first):.1g} to {max(first):.2g} s."
        if first
        else ""
    )
    shape = "x".join(map(str, found[0]["shape"])) if found else "no"
    text = f"A {shape} kernel. JAX: compiled, but for `enclose`, whose search runs in NumPy on the host.{said}"
    return f"## Libraries\n\n{text}\n\n" + table(["", *(f"{lib}, {dtype}" for lib, dtype in columns)], lines)


def left_out(rows: list[Row]) -> str:
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if "skipped" in row:
            size = f", n = {row['n']}" if row["n"] else ""
            what = row["contestant"] if row["contestant"] != "every one" else row["library"]
            reasons.setdefault(row["skipped"], []).append(f"{what} ({row['name']}, {row['family']}{size})")
    lines = [[why, f"{len(what)}: {what[0]}" + (", ..." if len(what) > 1 else "")] for why, what in reasons.items()]
    return "## Not measured\n\n" + table(["why", "what"], lines) if lines else ""


# -- plots -----------------------------------------------------------------------------------------------------
def plots(rows: list[Row], folder: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "specnorm"  # the same figures give the same file
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for channels, colour in ((16, "C0"), (64, "C1"), (256, "C2")):
        same = {"name": f"{channels} channels", "family": "trained-like"}
        mine = pick(rows, "circular", contestant="conv_norm", **same)
        for word, every, style in (
            ("FFT + SVD", textbook(rows, "circular", **same), "x--"), ("conv_norm", mine, "o-"),
        ):  # fmt: skip
            points = sorted((row["n"], row["seconds"]) for row in every)
            if points:
                axes.loglog(*zip(*points, strict=True), style, color=colour, label=f"{word}, {channels} channels")
    axes.set_xlabel("input size n")
    axes.set_ylabel("seconds")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    save(figure, folder / "circular.svg")
    figure, axes = plt.subplots(figsize=(7, 4))
    for family in ("trained-like", "flat"):
        found = pick(rows, "unfoldings", contestant="f4_bound", family=family)
        found.sort(key=lambda row: int(row["shape"][0]))
        x = [row["shape"][0] for row in found]
        low, high = ([row["faster_range"][side] for row in found] for side in (0, 1))
        axes.fill_between(x, low, high, alpha=0.2)
        axes.semilogx(x, [row["faster"] for row in found], "o-", base=2, label=family)
    axes.axhline(1, color="gray", linewidth=0.8)
    axes.set_xlabel("channels")
    axes.set_ylabel("times as fast as 50 power steps")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    save(figure, folder / "unfoldings.svg")
    plt.close("all")


def save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
