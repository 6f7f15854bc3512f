"""The picture of the landing page: the norm of one trained layer, and what each method says about it.

    python -m bench.ladder

The layer is ResNet-20's `layer1.1.conv1`, 16 to 16 channels, at every input size.
"""

from __future__ import annotations

from pathlib import Path

from real_weights import real_layers

import specnorm
from bench.page import save
from specnorm import FantasticFour, Gram, Grid, Method, Reshaped, TensorNorm

PICTURE = Path(__file__).parents[2] / "docs" / "_static" / "ladder.svg"
LAYER = "layer1.1.conv1"
METHODS: dict[str, tuple[str, Method]] = {
    "reshaped_norm": ("what spectral normalisation divides by", Reshaped()),
    "grid_bound": ("proven, also under jit", Grid()),
    "tn_bound": ("proven, smooth", TensorNorm()),
    "gram_bound": ("proven, also under jit", Gram(n_iter=3)),
    "f4_bound": ("proven, fastest", FantasticFour()),
}


def values() -> dict[str, float]:
    """Each method's value, and the bounds of `enclose`, ascending."""
    (kernel,) = (kernel for name, kernel, _ in real_layers("resnet20") if LAYER in name)
    found = specnorm.enclose(kernel)
    rungs = {name: float(specnorm.measure(kernel, method).value) for name, (_, method) in METHODS.items()}
    rungs |= {"enclose: lower": float(found.lower), "enclose: upper": float(found.upper)}
    return dict(sorted(rungs.items(), key=lambda rung: rung[1]))


def draw(rungs: dict[str, float], path: Path) -> None:
    """One bar a method, from 0."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "specnorm"  # the same figures give the same file
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3))
    for at, (name, value) in enumerate(reversed(rungs.items())):
        proven = name.startswith("enclose")
        below = value <= rungs["enclose: lower"]
        axes.barh(at, value, color="C2" if proven else "C3" if below else "C0", height=0.6)
        words = {"enclose: lower": "proven", "enclose: upper": "proven"}.get(name) or METHODS[name][0]
        axes.text(value, at, f" {value:.3f}  {words}", va="center", fontsize=9)
    axes.axvline(rungs["enclose: lower"], color="0.3", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(rungs)), list(reversed(rungs)), fontsize=9)
    axes.set_xlim(0, 1.5 * max(rungs.values()))
    axes.set_xticks([])
    axes.set_title("The norm of a trained 3x3 convolution, and what each number says of it", fontsize=10)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    save(figure, path)
    plt.close(figure)


if __name__ == "__main__":
    PICTURE.parent.mkdir(exist_ok=True)
    draw(values(), PICTURE)
