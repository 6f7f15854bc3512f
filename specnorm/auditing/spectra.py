"""One layer's `Picture` -> matplotlib figures: its norm over the frequencies, its singular values in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm.auditing.plots import COLOURS, style
from specnorm.auditing.rows import Picture, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FEW = 64
"""Singular values up to which each is a step of its own."""


def frequencies(picture: Picture) -> Figure | None:
    """Largest singular value over the torus: a line in one dimension, a map in two, a slice of three.

    Returns
    -------
    Figure or None
        None for a matrix and for kernels with one tap.
    """
    from matplotlib.figure import Figure

    wide = [axis for axis, n in enumerate(picture.grid) if n > 1]
    if not wide:
        return None
    norms = np.reshape(np.asarray(picture.norms), [picture.grid[axis] for axis in wide])
    names = [_axis_name(axis, len(picture.grid)) for axis in wide]
    with style():
        figure = Figure(figsize=(3.7, 3.1), layout="constrained")
        axes = figure.subplots()
        if norms.ndim == 1:
            _line(axes, norms, names[0])
        elif norms.ndim == 2:
            _map(figure, axes, norms, names)
        else:
            top = int(np.unravel_index(int(np.argmax(norms)), norms.shape)[0])
            _map(figure, axes, norms[top], names[1:])
            angle = (2 * top / norms.shape[0] + 1) % 2 - 1
            axes.set_title(f"slice at {names[0]} = {f'{angle:.2f}π' if angle else '0'}", loc="left")
    return figure


def _axis_name(axis: int, axes: int) -> str:
    return ("depth", "height", "width")[3 - axes :][axis] if axes > 1 else "length"


def _centred(n: int) -> np.ndarray:
    """Angles of the frequencies, in units of π, from -1 to 1 with both ends."""
    return np.asarray((np.arange(n + 1) - n // 2) * 2 / n)


def _line(axes: Axes, norms: np.ndarray, name: str) -> None:
    n = len(norms)
    x = _centred(n)
    axes.plot(x, np.take(norms, (np.arange(n + 1) - n // 2) % n), color=COLOURS["proven"], linewidth=1.4, gid="norms")
    axes.set_xlim(-1, 1)
    axes.set_ylim(0, float(norms.max()) * 1.06 or 1.0)
    axes.grid()
    _angles(axes.xaxis)
    axes.set_xlabel(f"frequency, {name}")
    axes.set_ylabel("largest singular value")


def _map(figure: Figure, axes: Axes, norms: np.ndarray, names: Sequence[str]) -> None:
    index = [(np.arange(n + 1) - n // 2) % n for n in norms.shape]
    shown = norms[np.ix_(*index)]
    edges = [(-1 - 1 / n, 1 + 1 / n) for n in norms.shape]
    image = axes.imshow(
        shown, origin="lower", extent=(*edges[1], *edges[0]), aspect="auto", cmap="viridis", interpolation="none",
        gid="norms",
    )  # fmt: skip
    row, column = np.unravel_index(int(np.argmax(norms)), norms.shape)
    here = [(2 * i / n + 1) % 2 - 1 for i, n in zip((row, column), norms.shape, strict=True)]
    for size, colour in ((7, "#ffffff"), (9, "#000001")):
        axes.plot(here[1], here[0], "o", ms=size, mfc="none", mec=colour, clip_on=False, gid=f"top{size}")
    axes.set_xlim(-1, 1)
    axes.set_ylim(-1, 1)
    _angles(axes.xaxis)
    _angles(axes.yaxis)
    axes.set_xlabel(f"frequency, {names[1]}")
    axes.set_ylabel(f"frequency, {names[0]}")
    for side in axes.spines.values():
        side.set_visible(False)
    bar = figure.colorbar(image, ax=axes, pad=0.03)
    bar.outline.set_visible(False)
    if bar.solids is not None:
        bar.solids.set_rasterized(True)


def _angles(axis: Any) -> None:
    axis.set_ticks([-1, -0.5, 0, 0.5, 1], ["−π", "−π/2", "0", "π/2", "π"])  # noqa: RUF001


def spectrum(picture: Picture, row: Row) -> Figure:
    """Singular values in descending order, with what Miyato's heuristic takes for the norm.

    Parameters
    ----------
    row : Row
        Of the same layer.

    Returns
    -------
    Figure
        Values below a millionth of the largest are drawn there.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    values = np.asarray(picture.spectrum)
    values = np.maximum(values, values[0] * 1e-6) if values[0] > 0 else np.ones_like(values)
    share = 100 * (np.asarray(picture.ranks) + 1) / (picture.ranks[-1] + 1)
    with style():
        figure = Figure(figsize=(3.7, 3.1), layout="constrained")
        axes = figure.subplots()
        steps = "steps-mid" if len(values) <= _FEW else "default"
        axes.plot(share, values, color=COLOURS["proven"], linewidth=1.6, gid="spectrum", drawstyle=steps)
        reshaped = row.values.get("reshaped")
        if isinstance(reshaped, float) and values[-1] <= reshaped <= values[0]:
            axes.axhline(reshaped, color=COLOURS["reshaped"], linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                "reshaped", (100, reshaped), xytext=(-2, 3), textcoords="offset points", ha="right", fontsize=8,
                color=COLOURS["reshaped"],
            )  # fmt: skip
        axes.set_yscale("log")
        low, high = float(values[-1]), float(values[0])
        axes.set_ylim(low / (high / low) ** 0.04 / 1.02, high * (high / low) ** 0.04 * 1.02)
        narrow = high / low < 4
        axes.yaxis.set_major_locator(MaxNLocator(6) if narrow else LogLocator(subs=_subs(high / low)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.set_xlim(0, 100)
        axes.grid()
        axes.set_xlabel("share of the singular values, %")
        axes.set_ylabel("singular value, logarithmic")
    return figure


def _subs(ratio: float) -> tuple[int, ...]:
    return (1, 2, 5) if ratio < 60 else (1, 3) if ratio < 2000 else (1,)
