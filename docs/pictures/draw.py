"""Draw the pictures of the site from what they show: ``python docs/pictures/draw.py`` writes the SVG files beside it.

Letters are large enough for a telephone, where a picture is some 350 pixels wide. Every picture brings its own light
background, so that it can be read in dark mode.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path

from safetensors.numpy import load_file

import specnorm

FOLDER = Path(__file__).parent
DOCS = FOLDER.parent
LAYER = "module.layer1.1.conv1.weight"
INK, PAPER = "#1d2433", "#ffffff"
PROVEN, HEURISTIC, OTHER = "#1a8a4c", "#d1343c", "#3f51b5"


def svg(width: int, height: int, parts: list[str], background: str = PAPER) -> str:
    """A picture of its parts, on a rounded card."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
    head += f'viewBox="0 0 {width} {height}" font-family="sans-serif">'
    card = f'<rect width="{width}" height="{height}" rx="10" fill="{background}"/>' if background else ""
    return "\n".join([head, *filter(None, [card]), *parts, "</svg>", ""])


def text(x: float, y: float, words: str, *, size: int = 15, colour: str = INK, **attributes: str) -> str:
    """Words that begin at a point; further attributes as SVG names them, `_` for `-`."""
    more = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}"{more}>{words}</text>'


def rectangle(x: float, y: float, width: float, height: float, colour: str) -> str:
    """A bar with slightly rounded corners."""
    return f'<rect x="{x:.1f}" y="{y:g}" width="{width:.1f}" height="{height:g}" rx="2" fill="{colour}"/>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str = INK, **attributes: str) -> str:
    """A straight line."""
    more = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<line x1="{x1:.1f}" y1="{y1:g}" x2="{x2:.1f}" y2="{y2:g}" stroke="{colour}"{more}/>'


def ladder() -> str:
    """What each number says of the norm of one trained layer."""
    kernel = load_file(DOCS / "examples" / "resnet20" / "resnet20.safetensors")[LAYER]
    found = specnorm.enclose(kernel)
    lower, upper = float(found.lower), float(found.upper)
    rows = [
        ("what “spectral normalization” divides by", float(specnorm.reshaped_norm(kernel)), HEURISTIC, math.floor),
        ("proven: not less than", lower, PROVEN, math.floor),
        ("proven: not more than", upper, PROVEN, math.ceil),
        ("a bound for jit and gradients", float(specnorm.grid_bound(kernel)), OTHER, math.ceil),
        ("the fastest bound", float(specnorm.f4_bound(kernel)), OTHER, math.ceil),
    ]
    left, scale, top, step = 16, 38.0, 82, 50
    parts = [
        text(left, 30, "How much can one trained layer", size=18, font_weight="bold"),
        text(left, 52, "stretch its input?", size=18, font_weight="bold"),
    ]
    for at, (words, value, colour, outward) in enumerate(rows):
        y = top + at * step
        shown = f"{outward(100 * value) / 100:.2f}"
        parts += [
            text(left, y, words),
            rectangle(left, y + 7, value * scale, 18, colour),
            text(left + value * scale + 6, y + 22, shown, size=16, colour=colour, font_weight="bold"),
        ]
    norm = left + (lower + upper) / 2 * scale
    parts.append(line(norm, top + 4, norm, top + len(rows) * step - 18, stroke_dasharray="3 3"))
    return svg(390, top + len(rows) * step - 8, parts)


def constraint() -> str:
    """Largest norm in each training loop, of layers that are meant to have norm 1."""
    worst: dict[str, dict[str, float]] = defaultdict(dict)
    for words in (DOCS / "benchmarks" / "constraint.jsonl").read_text(encoding="utf-8").splitlines():
        run = json.loads(words)
        earlier = worst[run["method"]].get(run["loop"], 0.0)
        worst[run["method"]][run["loop"]] = max(earlier, run["worst"])
    rows = [
        ("torch's spectral_norm", worst["torch"], HEURISTIC),
        ("TensorNorm()", worst["TensorNorm()"], OTHER),
        ("specnorm's spectral_norm", worst["default"], PROVEN),
    ]
    left, right, top, step = 24.0, 366.0, 118, 72
    largest = max(max(loops.values()) for _, loops, _ in rows)

    def place(norm: float) -> float:
        return left + (right - left) * math.log(norm) / math.log(largest)

    loops = len(rows[-1][1])
    parts = [
        text(16, 30, "Layers that should have norm 1", size=18, font_weight="bold"),
        text(16, 54, "Largest norm during training, a dot for each"),
        text(16, 73, f"of {loops} training loops"),
    ]
    bottom = top + len(rows) * step - 30
    for tick in (1, 1.5, 2, 3, 4):
        x = place(tick)
        parts.append(line(x, top - 22, x, bottom, "#c9ced8"))
        parts.append(text(x, bottom + 20, f"{tick:g}", text_anchor="middle"))
    for at, (words, norms, colour) in enumerate(rows):
        y = top + at * step
        parts.append(text(left + 4, y, words, colour=colour, font_weight="bold"))
        for norm in sorted(norms.values()):
            x = place(max(norm, 1.0))
            parts.append(f'<circle cx="{x:.1f}" cy="{y + 18}" r="6" fill="{colour}" fill-opacity="0.55"/>')
    return svg(390, bottom + 34, parts)


def training() -> str:
    """Largest norm of the layers at each step of one training run, with torch's constraint and with ours."""
    file = DOCS / "benchmarks" / "constraint-steps.jsonl"
    runs = [json.loads(words) for words in file.read_text(encoding="utf-8").splitlines()]
    norms = {run["method"]: run["largest_upper"] for run in runs}
    left, right, top, bottom, largest = 44.0, 366.0, 92.0, 268.0, 2.75
    steps = len(norms["torch"])

    def height(norm: float) -> float:
        return bottom - (bottom - top) * norm / largest

    def curve(values: list[float], colour: str) -> str:
        places = [(left + (right - left) * at / (steps - 1), height(value)) for at, value in enumerate(values)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="3"/>'

    parts = [
        text(16, 30, "Layers that should have norm 1", size=18, font_weight="bold"),
        text(16, 54, "Largest norm of three layers at each step"),
        text(16, 73, "of a training run with Adam"),
    ]
    for tick in (0, 1, 2):
        parts.append(line(left, height(tick), right, height(tick), "#c9ced8"))
        parts.append(text(left - 12, height(tick) + 5, f"{tick}", text_anchor="end"))
    for tick in range(0, steps + 1, 40):
        x = left + (right - left) * min(tick, steps - 1) / (steps - 1)
        parts.append(text(x, bottom + 22, f"{tick}", text_anchor="middle"))
    parts += [
        text((left + right) / 2, bottom + 44, "training step", text_anchor="middle"),
        curve(norms["torch"], HEURISTIC),
        text(left + 60, height(1.7) + 5, "torch's spectral_norm", colour=HEURISTIC, font_weight="bold"),
        curve(norms["default"], PROVEN),
        text(left + 60, height(1.0) + 24, "specnorm's spectral_norm", colour=PROVEN, font_weight="bold"),
    ]
    return svg(390, int(bottom) + 58, parts)


def logo(ink: str = "#ffffff", ends: str = "#7ee0a3") -> str:
    """The unit circle, its image under a layer, and the two proven ends of the longest axis."""
    axes = '<g transform="rotate(-35 32 32)" fill="none" stroke-linecap="round">'
    return svg(
        64, 64,
        [
            axes,
            f'<circle cx="32" cy="32" r="12" stroke="{ink}" stroke-width="2.5" stroke-opacity="0.6"/>',
            f'<ellipse cx="32" cy="32" rx="26" ry="15" stroke="{ink}" stroke-width="4"/>',
            f'<path d="M32 32H56" stroke="{ends}" stroke-width="4"/>',
            f'<path d="M61 25V39M3 25V39" stroke="{ends}" stroke-width="4"/>',
            "</g>",
        ],
        background="",
    )  # fmt: skip


PICTURES = {
    "ladder.svg": ladder,
    "constraint.svg": constraint,
    "training.svg": training,
    "logo.svg": logo,
    "icon.svg": lambda: logo(OTHER, PROVEN),
}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8")
