"""docs/benchmarks/gpu.md, from the lines of `bench gpu` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.page import span, table

Row = dict[str, Any]
AIM = 1.0
"""Seconds for all of ResNet-50's convolutions."""


def write(rows: list[Row], source: Path) -> None:
    """The page beside its lines.

    Raises
    ------
    ValueError
        If they were measured with the device faked.
    """
    faked = [row["device"] for row in rows if row["device"] == "cpu" or row["size"] != "full"]
    if faked:
        raise ValueError(f"{source}: {len(faked)} lines are of a trial without a GPU: the page is of a GPU alone")
    (source.parent / "gpu.md").write_text(page(rows, source.name), encoding="utf-8")


def page(rows: list[Row], name: str) -> str:
    """All of it."""
    parts = [
        head(rows, name), shapes(rows), methods(rows), training(rows), conformance(rows), tests(rows), failed(rows),
    ]  # fmt: skip
    return "\n".join(part for part in parts if part).rstrip() + "\n"


def pick(rows: list[Row], part: str, **fixed: Any) -> list[Row]:
    """Rows of a part that were measured."""
    return [
        row for row in rows
        if row["part"] == part and not row.keys() & {"error", "missing"}
        and all(row.get(key) == value for key, value in fixed.items())
    ]  # fmt: skip


def head(rows: list[Row], name: str) -> str:
    """On what, and when."""
    told = ""
    for row in pick(rows, "machine"):
        memory = f" with {row['memory_bytes'] / 2**30:.0f} GiB" if row["memory_bytes"] else ""
        versions = ", ".join(f"{key} {value}" for key, value in row["versions"].items())
        told = f"{row['name']}{memory}, {row['cores']} cores of {row['host']}; {versions}. "
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    dates = ", ".join(sorted({row["date"] for row in rows}))
    return (
        f"# On a GPU\n\n{told}Measured {dates} at commit {commits}. Wall time, the device waited for; a first call "
        "includes what is compiled and loaded. JAX searches on the host, so `enclose` of its arrays is none of the "
        f"GPU's work. Every line: [{name}]({name}). `python -m bench gpu --out FILE` in `tests` measures again, within "
        "eight minutes, and `python -m bench gpu-page FILE` makes this page of it.\n"
    )


def shapes(rows: list[Row]) -> str:
    """ResNet-50."""
    lines = [
        [row["library"], str(row["count"]), span(row["seconds"]), span(row["first_call_seconds"]), f"{row['gap']:.1e}"]
        for row in pick(rows, "shapes", what="all")
    ]  # fmt: skip
    layers = [
        [row["library"], f"`{row['what']}`", "x".join(map(str, row["shape"])), str(row["count"]),
         span(row["seconds"]), span(row["first_call_seconds"])]
        for row in pick(rows, "shapes") if row["what"] != "all"
    ]  # fmt: skip
    if not layers:
        return ""
    return (
        "## ResNet-50's convolutions, each enclosed to 1e-3\n\n"
        f"Kernels like trained ones, over every size. The aim is {AIM:g} s for all.\n\n"
        + table(["library", "layers", "all", "first calls", "widest gap"], lines)
        + "\n"
        + table(["library", "layer", "kernel", "of them", "one", "first call"], layers)
    )


def methods(rows: list[Row]) -> str:
    """The suite's methods, a column a library and dtype."""
    found = pick(rows, "suite")
    parts = []
    for channels in sorted({row["channels"] for row in found}):
        mine = [row for row in found if row["channels"] == channels]
        columns = list(dict.fromkeys((row["library"], row["dtype"]) for row in mine))
        cells = {(row["what"], row["library"], row["dtype"]): row for row in mine}
        lines = []
        for what in dict.fromkeys(row["what"] for row in mine):
            picked = [cells.get((what, *column)) for column in columns]
            told = [f"{span(r['seconds'])} ({span(r['first_call_seconds'])})" if r else "-" for r in picked]
            lines.append([f"`{what}`", *told])
        parts.append(table([f"{channels} channels", *(f"{lib}, {dtype}" for lib, dtype in columns)], lines))
    text = "3x3 kernels like trained ones; in parentheses the first call.\n\n"
    return "## Methods\n\n" + text + "\n".join(parts) if parts else ""


def training(rows: list[Row]) -> str:
    """What following norms adds to a step."""
    lines = [
        [f"`{row['method']}`", span(row["plain_step_s"]), f"{row['share']:.1%}", span(row["penalty_alone_s"]),
         f"{row['share_alone']:.1%}"]
        for row in pick(rows, "training")
    ]  # fmt: skip
    header = ["method", "plain step", "more within the step", "penalty alone", "share, alone"]
    text = "A network of ResNet-20's layers, a batch of 128 images, paired steps with and without the penalty.\n\n"
    return "## A training step\n\n" + text + table(header, lines) if lines else ""


def conformance(rows: list[Row]) -> str:
    """Checks passed of those run."""
    lines = []
    for library in dict.fromkeys(row["library"] for row in rows if row["part"] == "conformance"):
        every = [row for row in rows if row["part"] == "conformance" and row["library"] == library]
        passed = pick(rows, "conformance", library=library)
        if passed:
            seconds = sum(row.get("seconds", 0.0) for row in every)
            lines.append([library, passed[0]["on"], f"{len(passed)} of {len(every)}", span(seconds)])
    header = ["library", "on", "checks passed", "in"]
    text = "`specnorm.testing`'s checks of a plugin, on the device.\n\n"
    return "## Conformance\n\n" + text + table(header, lines) if lines else ""


def tests(rows: list[Row]) -> str:
    """Counts, the last of each library."""
    last = {row["library"]: row for row in pick(rows, "tests", what="all")}
    lines = [
        [library, *(str(row[key]) for key in ("passed", "failed", "skipped")), "yes" if row["ended"] else "no"]
        for library, row in last.items()
    ]
    text = "The tests that take a library's arrays, on the device, for as long as there was time.\n\n"
    return "## Tests\n\n" + text + table(["library", "passed", "failed", "skipped", "ended"], lines) if lines else ""


def failed(rows: list[Row]) -> str:
    """What has no figure, and why."""
    lines = []
    for row in rows:
        why = row.get("error") or row.get("missing")
        if why:
            lines.append([row["part"], row["library"], str(row.get("what", "")), why.replace("|", "\\|")])
    return "## What failed\n\n" + table(["part", "library", "what", "why"], lines) if lines else ""
