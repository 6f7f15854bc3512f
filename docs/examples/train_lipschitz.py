"""Train one small residual network in four ways on Fashion-MNIST, and certify each with specnorm.

    python docs/examples/train_lipschitz.py /usr/share/datasets/fashion-mnist

The folder holds the four files of the data set (https://github.com/zalandoresearch/fashion-mnist); on Debian and
Ubuntu: ``apt-get install dataset-fashion-mnist``. It needs specnorm's extra ``torch``, and matplotlib for the plots.
``--quick`` is a run of seconds on made-up images. docs/examples/certified/README.md explains the arms and the columns.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import specnorm_networks
import specnorm_torch
import torch
from specnorm_networks import Multipliers
from torch import Tensor, nn

import specnorm

RADII = (0.05, 0.1, 0.25, 0.5)
"""In the Euclidean norm, for pixels between 0 and 1."""
TENSOR_NORM = specnorm.methods.TensorNorm(proven=False)
"""What the penalty and the constraint follow."""
Batches = Iterator[tuple[Tensor, Tensor]]


# -- data --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Data:
    """Images (n, 1, 28, 28) with pixels between 0 and 1, and labels."""

    images: Tensor
    labels: Tensor

    def batches(self, size: int, generator: torch.Generator) -> Batches:
        """One epoch, shuffled; what does not fill a batch is left out."""
        order = torch.randperm(len(self.labels), generator=generator)
        for start in range(0, len(order) - size + 1, size):
            index = order[start : start + size]
            yield self.images[index], self.labels[index]

    def first(self, count: int) -> Data:
        return Data(self.images[:count], self.labels[:count])


def read(folder: Path, part: str) -> Data:
    """Read ``train`` or ``t10k`` from the files' own format: a header of big-endian integers, then bytes."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return Data(torch.from_numpy(images.astype(np.float32) / 255), torch.from_numpy(labels.astype(np.int64)))


def made_up(count: int, seed: int) -> Data:
    """Ten blurred patterns with noise: enough to see that everything runs."""
    patterns = torch.rand(10, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % 10
    noise = torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
    images = nn.functional.interpolate(patterns, scale_factor=4, mode="nearest")[labels]
    return Data(0.7 * images + 0.3 * noise, labels)


# -- network -----------------------------------------------------------------------------------------------------
class Block(nn.Module):
    """Mean of the input and of two convolutions of it: Lipschitz constant at most (1 + product of the norms) / 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.conv2(torch.relu(self.conv1(x)))) / 2


class Net(nn.Module):
    """Two strided convolutions, three residual blocks, one linear layer; zero padding."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 4, stride=2, padding=1)
        self.block1, self.block2 = Block(channels), Block(channels)
        self.down = nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1)
        self.block3 = Block(2 * channels)
        self.head = nn.Linear(2 * channels * 49, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(torch.relu(self.stem(x))))
        return self.head(self.block3(torch.relu(self.down(x))).flatten(1))


def layers(net: Net) -> dict[str, nn.Conv2d | nn.Linear]:
    return {name: m for name, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}


def geometry(layer: nn.Conv2d | nn.Linear) -> dict[str, Any]:
    """A layer's own geometry, in specnorm's words."""
    if isinstance(layer, nn.Linear):
        return {}
    return {"stride": layer.stride, "padding": layer.padding, "padding_mode": "zeros"}


def proven_norms(net: Net) -> dict[str, float]:
    """Proven upper bound of each layer's norm: at every input size, rounding included."""
    found = {}
    for name, layer in layers(net).items():
        weight = layer.weight.detach()
        bounds = specnorm.enclose(weight, **geometry(layer))
        found[name] = float(bounds.upper)
        if bounds.lower <= 1 < bounds.upper:
            # A layer constrained to 1: the enclosure is 0.1 % wide, the question has an exact answer.
            with contextlib.suppress(specnorm.Undecided):
                found[name] = 1.0 if specnorm.certify(weight, 1.0, **geometry(layer)) else found[name]
    return found


def lipschitz(norms: dict[str, float]) -> float:
    """Lipschitz constant of the network from bounds of its layers, made by hand."""
    product = norms["stem"] * norms["down"] * norms["head"]
    for block in ("block1", "block2", "block3"):
        product *= (1 + norms[f"{block}.conv1"] * norms[f"{block}.conv2"]) / 2
    return product * (1 + 1e-12)  # rounding of this line and the ones above


# -- the four ways -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Arm:
    """A way to train: what is done to the network before, to the loss in every step, and to the weights after."""

    name: str
    prepare: Callable[[Net], Callable[[], Tensor] | None]
    finish: Callable[[Net], None]


def nothing(net: Net) -> None:
    del net


def miyato(net: Net) -> None:
    """Torch's own: the norm of the reshaped kernel is 1, that of the convolution is not."""
    for layer in layers(net).values():
        torch.nn.utils.parametrizations.spectral_norm(layer)


def penalised(weight: float) -> Callable[[Net], Callable[[], Tensor]]:
    def prepare(net: Net) -> Callable[[], Tensor]:
        penalty = specnorm_torch.SpectralPenalty(net, TENSOR_NORM)
        return lambda: weight * penalty()

    return prepare


def constrained(net: Net) -> None:
    """The tensor norm of every convolution is 1, up to what an estimate that follows the weights is off."""
    for layer in layers(net).values():
        specnorm_torch.spectral_norm(layer, method=TENSOR_NORM)


def certified(net: Net) -> None:
    """Plain weights, shrunk where it takes that for norms that are proven to be at most 1."""
    specnorm_torch.rescale_(net)


def arms(weight: float) -> list[Arm]:
    return [
        Arm("baseline", nothing, nothing),
        Arm("Miyato", miyato, nothing),
        Arm("TN penalty", penalised(weight), nothing),
        Arm("TN constraint", constrained, certified),
    ]


# -- training and testing ----------------------------------------------------------------------------------------
@dataclass
class Run:
    """What came out of one arm."""

    arm: str
    seconds: float
    accuracy: float
    lipschitz: float
    together: float
    """Lipschitz constant, layers bounded together."""
    search: float
    """Seconds of processor time of these constants."""
    norms: dict[str, float]
    certified: dict[float, float] = field(default_factory=dict)
    certified_together: dict[float, float] = field(default_factory=dict)
    attacked: dict[float, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)


def train(arm: Arm, options: argparse.Namespace, data: Data) -> tuple[Net, float, list[float]]:
    """Train from the same start and in the same order as every other arm; seconds per step are the median."""
    torch.manual_seed(options.seed)
    net = Net(options.channels)
    extra = arm.prepare(net)
    steps = options.epochs * (len(data.labels) // options.batch)
    optimizer = torch.optim.AdamW(net.parameters(), lr=options.rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.rate, total_steps=steps)
    generator = torch.Generator().manual_seed(options.seed)
    seconds, losses = [], []
    for _ in range(options.epochs):
        for images, labels in data.batches(options.batch, generator):
            start = time.process_time()
            loss = nn.functional.cross_entropy(net(images) * options.scale, labels)
            losses.append(float(loss.detach()))
            if extra is not None:
                loss = loss + extra()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            seconds.append(time.process_time() - start)
    net.eval()
    arm.finish(net)
    return net, statistics.median(seconds), losses


@torch.no_grad()
def outputs(net: Net, images: Tensor) -> Tensor:
    return torch.cat([net(part) for part in images.split(500)])


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Logit of the label minus the largest other one."""
    right = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -math.inf)
    return right - others.amax(1)


def attack(net: Net, data: Data, radius: float, steps: int) -> float:
    """Accuracy under projected gradient descent on the margin in the Euclidean ball, pixels kept between 0 and 1."""
    right = 0
    for images, labels in zip(data.images.split(500), data.labels.split(500), strict=True):
        safe = margins(outputs(net, images), labels) > 0
        change = torch.zeros_like(images)
        for _ in range(steps):
            change.requires_grad_()
            (gradient,) = torch.autograd.grad(margins(net(images + change), labels).sum(), change)
            with torch.no_grad():
                change = change - 2.5 * radius / steps * gradient / lengths(gradient).clamp(min=1e-12)
                change = change * (radius / lengths(change).clamp(min=radius))
                change = (images + change).clamp(0, 1) - images
            safe &= margins(outputs(net, images + change), labels) > 0
        right += int(safe.sum())
    return right / len(data.labels)


def lengths(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)


def assess(arm: Arm, options: argparse.Namespace, training: Data, test: Data) -> Run:
    net, seconds, losses = train(arm, options, training)
    norms = proven_norms(net)
    constant = lipschitz(norms)
    margin = margins(outputs(net, test.images), test.labels)
    start = time.process_time()
    method = Multipliers(steps=options.search)
    found = specnorm_networks.certified_accuracy(
        specnorm_torch.baked(net), test.images, test.labels, RADII, method=method
    )
    search, whole = time.process_time() - start, found.margins.whole
    run = Run(arm.name, seconds, float((margin > 0).float().mean()), constant, whole, search, norms, losses=losses)
    for radius, certified in zip(RADII, found.accuracy, strict=True):
        run.certified[radius] = float((margin > math.sqrt(2) * constant * radius).float().mean())
        run.certified_together[radius] = float(certified)
        run.attacked[radius] = attack(net, test.first(options.attacked), radius, options.attack_steps)
    print(
        f"{arm.name}: accuracy {run.accuracy:.3f}, Lipschitz constant <= {constant:.4g}, of layers together "
        f"{whole:.4g}, {seconds * 1e3:.1f} ms a step"
    )
    return run


# -- report ------------------------------------------------------------------------------------------------------
def facts(options: argparse.Namespace, training: Data) -> str:
    """What a reader needs to judge the figures."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, NumPy {np.__version__}"
    threads = torch.get_num_threads()
    return (
        f"{processor()}, {os.cpu_count()} cores, {platform.system()}; {versions}; "
        f"{threads} thread{'s' * (threads > 1)}. {'Made-up images' if options.quick else 'Fashion-MNIST'}, "
        f"first {len(training.labels)} training images; "
    )


def processor() -> str:
    """The processor's name where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def up(x: float, digits: int) -> str:
    """Rounded up, as a bound must be."""
    unit = 10.0 ** (math.floor(math.log10(x)) + 1 - digits)
    return f"{math.ceil(x / unit) * unit:.{digits}g}"


def percent(x: float) -> str:
    return f"{100 * x:.1f}"


def table(runs: list[Run]) -> list[str]:
    first, *others = (f"{r:g}" for r in RADII)
    heads = [f"{first}: product/together/attacked", *others]
    lines = [
        f"| arm | accuracy | L, product | L, together | {' | '.join(heads)} | a step | certificate |",
        "|---|---:|---:|---:|" + "---:|" * len(RADII) + "---:|---:|",
    ]
    for run in runs:
        columns = (run.certified, run.certified_together, run.attacked)
        shares = " | ".join("/".join(percent(column[r]) for column in columns) for r in RADII)
        constants = f"{up(run.lipschitz, 3)} | {up(run.together, 3)}"
        times = f"{run.seconds * 1e3:.1f} ms | {run.search:.0f} s"
        lines.append(f"| {run.arm} | {percent(run.accuracy)} | {constants} | {shares} | {times} |")
    return lines


def table_of_norms(runs: list[Run]) -> list[str]:
    """Lines of comma-separated values."""
    lines = ["layer," + ",".join(run.arm for run in runs)]
    return lines + [f"{name}," + ",".join(up(run.norms[name], 4) for run in runs) for name in runs[0].norms]


def put(folder: Path, name: str, lines: list[str]) -> None:
    """Put a table between its marks in the page of a folder, or at the end of it."""
    page, begin, end = folder / "README.md", f"<!-- {name} -->", f"<!-- end of {name} -->"
    folder.mkdir(parents=True, exist_ok=True)
    before, _, rest = (page.read_text(encoding="utf-8") if page.exists() else "").partition(begin)
    after = rest.partition(end)[2] or "\n"
    page.write_text("\n".join([before + begin, "", *lines, "", end + after]), encoding="utf-8")


def write(folder: Path, known: str, runs: list[Run]) -> None:
    """The tables, and the plots where matplotlib is installed."""
    put(folder, "four ways", [*table(runs), "", known])
    (folder / "norms.csv").write_text("\n".join([*table_of_norms(runs), ""]), encoding="utf-8")
    try:
        plot(folder, runs)
    except ImportError:
        print("no plots: matplotlib is not installed")


def plot(folder: Path, runs: list[Run]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "specnorm"  # the same figures give the same file
    import matplotlib.pyplot as plt

    colours = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee"]
    figure, axes = plt.subplots(figsize=(7, 4))
    for run, colour in zip(runs, colours, strict=False):
        radii = [0.0, *RADII]
        attacked = [math.nan, *run.attacked.values()]
        together = (run.accuracy, *run.certified_together.values())
        axes.plot(radii, [100 * x for x in together], "o-", color=colour, label=run.arm)
        axes.plot(radii, [100 * x for x in (run.accuracy, *run.certified.values())], ".:", color=colour)
        axes.plot(radii, [100 * x for x in attacked], "x--", color=colour)
    axes.set(xlabel="radius (Euclidean)", ylabel="accuracy, %", ylim=(0, 100))
    axes.set_title("certified, layers together (line) and by the product (dots); under attack (dashes)", fontsize=9)
    axes.legend()
    save(figure, folder / "accuracy.svg")

    figure, axes = plt.subplots(figsize=(7, 4))
    for run, colour in zip(runs, colours, strict=False):
        axes.plot(list(run.norms.values()), list(run.norms), "o", color=colour, label=run.arm)
    axes.invert_yaxis()
    axes.set(xlabel="proven norm of the layer")
    axes.set_xlim(left=0)
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.legend()
    save(figure, folder / "norms.svg")


def save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main(arguments: list[str] | None = None) -> list[Run]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", nargs="?", help="folder with the four files of Fashion-MNIST")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "certified", help="folder for results")
    parser.add_argument("--quick", action="store_true", help="made-up images, a small network, a few steps")
    parser.add_argument("--images", type=int, default=60_000, help="training images, the first ones")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--rate", type=float, default=5e-3, help="largest learning rate")
    parser.add_argument("--scale", type=float, default=4.0, help="of the logits in the loss")
    parser.add_argument("--penalty", type=float, default=0.05, help="weight of the penalty")
    parser.add_argument("--attacked", type=int, default=500, help="test images that are attacked")
    parser.add_argument("--attack-steps", type=int, default=20)
    parser.add_argument("--search", type=int, default=100, help="steps of the search for multipliers")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if not options.quick and options.data is None:
        parser.error("give the folder of Fashion-MNIST (Debian: apt-get install dataset-fashion-mnist), or --quick")
    if options.quick:
        options.channels, options.epochs, options.batch, options.attacked, options.attack_steps = 4, 4, 32, 100, 5
        options.search = 5
        training, test = made_up(320, seed=1), made_up(100, seed=2)
    else:
        folder = Path(options.data)
        training, test = read(folder, "train").first(options.images), read(folder, "t10k")
    torch.set_num_threads(options.threads)
    known = facts(options, training)
    known += (
        f"{options.epochs} epochs, batches of {options.batch}, AdamW at {options.rate:g} with one cycle, cross-entropy "
        f"of {options.scale:g} times the logits, penalty {options.penalty:g} times the sum of the norms, seed "
        f"{options.seed} (one run). {len(test.labels)} test images; attack: {options.attack_steps} steps on the first "
        f"{options.attacked}."
    )
    runs = [assess(arm, options, training, test) for arm in arms(options.penalty)]
    write(options.output, known, runs)
    return runs


if __name__ == "__main__":
    main()
