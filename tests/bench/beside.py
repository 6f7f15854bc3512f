"""What a user would write, and specnorm: one table of both, of two commits and two kinds of processor.

    python -m bench.beside run --out FILE     # some four minutes on one thread; OMP_NUM_THREADS=1
    python -m bench.beside page               # from docs/benchmarks/beside-*.jsonl

Of an older commit: with its checkout first on PYTHONPATH. Held to AVX2: ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA and
MKL_ENABLE_INSTRUCTIONS=AVX2, OPENBLAS_CORETYPE=Haswell. Every value is compared with the truth.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from real_weights import real_kernel

import specnorm
from bench import facts, kernels, yardsticks
from bench.markdown import filled, table

PAGE = facts.FOLDER / "index.md"
FILES = {"Xeon, before": "before", "after": "after", "AVX2, after": "avx2"}
LIMITS = {
    "matrix_norm": "Gram matrix and factorisation in double precision",
    "power_norm": "a product takes 1.5 ms, torch's 1.0",
    "gram_bound": "above",
    "conv_norm": "above",
    "f4_bound": "above",
    "enclose": "OpenBLAS factorises at a third of the speed of products",
    "AOL": "calls around 45 small products",
    "16 weights": "",
    "weight": "at 64 calls; then sixteen maxima are followed, by torch one",
}
Run = Callable[[], Any]


class Case(NamedTuple):
    """One figure: the other's function and ours, the aim, and the range of our value over the truth."""

    work: str
    name: str
    other: Run
    ours: Run
    aim: float
    elsewhere: str
    """What was measured on the Zen 5 before."""
    truth: Run
    within: tuple[float, float]


def near(kernel: Any) -> float:
    return float(specnorm.enclose(torch.as_tensor(kernel).double(), rtol=1e-4).lower)


def cases() -> Iterator[Case]:
    """Rows of the table, one after another; kernels are made when it is their turn."""
    other: Run
    ours: Run
    truth: Run
    aim: float
    for size, elsewhere in ((1024, "0.4"), (2048, "0.4")):
        matrix = torch.from_numpy(np.random.RandomState(0).standard_normal((size, size)).astype(np.float32))
        run = functools.partial(specnorm.matrix_norm, matrix)
        truth = functools.partial(lambda m: torch.linalg.svdvals(m.double())[0], matrix)
        top = functools.partial(torch.linalg.svdvals, matrix)
        yield Case("`matrix_norm` against `svdvals`, rows", str(size), top, run, 3, elsewhere, truth, (1, 1.001))
    for c, elsewhere in ((64, "0.30"), (256, "0.15")):
        k = torch.from_numpy(kernels.like_trained((c, c, 3, 3)))
        ours = functools.partial(specnorm.gram_bound, k, n_iter=3)
        other = functools.partial(yardsticks.gram_conv, k)
        work = "`gram_bound`, every size, against torch's convolution, channels"
        yield Case(work, str(c), other, ours, 1, elsewhere, functools.partial(near, k), (1, 1.3))
    layer = real_kernel("resnet20", "layer3.1.conv1")
    for name, made in (
        ("trained-like", kernels.like_trained((64,) * 2 + (3, 3))),
        ("real", layer),
        ("flat", kernels.flat(64)),
    ):
        k = torch.from_numpy(np.array(made))
        ours = functools.partial(specnorm.power_norm, k, 32, padding_mode="zeros")
        truth = functools.partial(yardsticks.propack, k.double(), 32, 1e-8, "constant")
        other = functools.partial(yardsticks.propack, k, 32, mode="constant")
        work = "`power_norm` against PROPACK, zero padding, 64 channels, n = 32"
        yield Case(work, name, other, ours, 1, "0.3 to 0.8", truth, (1 - 3e-5, 1 + 1e-6))
        if name != "real":
            ours = functools.partial(specnorm.conv_norm, k, 32)
            truth = functools.partial(yardsticks.rfft_svd, k.double(), 32)
            other, elsewhere = functools.partial(yardsticks.rfft_svd, k, 32), "5.9" if name == "trained-like" else "-"
            work = "`conv_norm` against `rfft2` and `svdvals`, 64 channels, n = 32"
            yield Case(work, name, other, ours, 10, elsewhere, truth, (1 - 1e-6, 1 + 1e-6))
    for name, kernel in (("trained-like", kernels.like_trained((512, 512, 3, 3))), ("flat", kernels.flat(512))):
        k = torch.from_numpy(kernel)
        ours, other = functools.partial(specnorm.f4_bound, k), functools.partial(yardsticks.unfolding_power, k)
        work = "`f4_bound` against 50 power steps, 512 channels"
        yield Case(work, name, other, ours, 1, "0.5", functools.partial(near, k), (1, 2))
    for name, shape in kernels.RESNET18.items():
        k = torch.from_numpy(kernels.like_trained(shape))
        ours, other = functools.partial(specnorm.tn_bound, k), functools.partial(yardsticks.hopm_einsum, k)
        work = "`tn_bound`, proven, against HOPM, ResNet-18's shapes"
        yield Case(work, name, other, ours, 1, "0.54", functools.partial(near, k), (1, 3))
    makers = {"decaying": kernels.decaying, "flat": kernels.flat}
    for family, c, aim, zen in (
        ("decaying", 256, 4, 10.7), ("decaying", 512, 5, 15), ("flat", 256, 8, 18.6), ("flat", 512, 10, 22)
    ):  # fmt: skip
        k = torch.from_numpy(makers[family](c))
        bounds: list[Any] = []
        ours = functools.partial(lambda k, bounds: bounds.append(specnorm.enclose(k)) or bounds[-1].upper, k, bounds)
        other = functools.partial(yardsticks.hopm_einsum, k)
        truth = functools.partial(lambda bounds: bounds[-1].lower, bounds)
        work = f"`enclose` against HOPM, {family}, channels"
        yield Case(work, str(c), other, ours, 1 / aim, f"{1 / zen:.2g}", truth, (1, 1.001))
    rescaling = getattr(specnorm, "gram_rescaling", None) or specnorm.spectral_rescaling
    for c, elsewhere in ((64, "0.5"), (256, "0.5")):
        k = torch.from_numpy(kernels.like_trained((c, c, 3, 3)))
        truth = functools.partial(lambda k: near(rescaling(k)), k)
        ours, other = functools.partial(rescaling, k), functools.partial(yardsticks.aol, k)
        yield Case("AOL forward, channels", str(c), other, ours, 1, elsewhere, truth, (0, 1))
    for c, aim, elsewhere in ((64, 0.5, "0.24"), (256, 1, "0.4"), (512, 1, "0.5")):
        work = "a spectral-norm weight and its gradient against torch's, channels"
        other, ours, layer = training_steps(c)
        yield Case(
            work, str(c), other, ours, aim, elsewhere, functools.partial(lambda x: near(x.weight), layer), (0, 1.02)
        )
    if together := together_steps():
        yield Case("16 weights of 64 channels, `step_together`", "-", *together[:2], 0.5, "-", together[2], (0, 1.02))


def step_of(model: Any, within: Callable[[], AbstractContextManager[object]] = nullcontext) -> Run:
    """Weights of all layers, and gradients."""

    def step() -> None:
        with within():
            for layer in model:
                layer.weight.square().sum().backward()

    return step


def training_steps(channels: int) -> tuple[Run, Run, Any]:
    """Of torch's own parametrisation, of ours, and our layer, after enough steps that both follow their norms."""
    import specnorm_torch
    from torch.nn.utils.parametrizations import spectral_norm

    def layer() -> Any:
        found = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        found.weight.data = torch.from_numpy(kernels.like_trained((channels, channels, 3, 3)))
        return found

    other, ours = spectral_norm(layer()), specnorm_torch.spectral_norm(layer())
    steps = step_of([other]), step_of([ours])
    for run in 5 * steps:
        run()
    return (*steps, ours)


def together_steps() -> tuple[Run, Run, Run] | None:
    """Of 16 layers; None where the commit has no `step_together`."""
    import specnorm_torch
    from torch.nn.utils.parametrizations import spectral_norm

    if not hasattr(specnorm_torch, "step_together"):
        return None
    models = [torch.nn.Sequential(*(torch.nn.Conv2d(64, 64, 3, padding=1) for _ in range(16))) for _ in range(2)]
    for model, change in zip(models, (spectral_norm, specnorm_torch.spectral_norm), strict=True):
        for layer in model:
            change(layer)
    other, ours = step_of(models[0]), step_of(models[1], functools.partial(specnorm_torch.step_together, models[1]))
    for run in 5 * (other, ours):
        run()
    return other, ours, lambda: max(near(layer.weight) for layer in models[1])


def run(out: Path) -> int:
    """Measure, compare every value with the truth, and write; exit code 1 where one is off."""
    torch.set_num_threads(1)
    said, rows, off = facts.about("numpy", "torch", "scipy"), [], 0
    said["commit"] = facts.git("-C", str(Path(specnorm.__file__).parent), "rev-parse", "--short", "HEAD")
    for case in cases():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = case.ours()
            truth = float(case.truth())
            # AOL and training: the truth is of what was made, and its bound 1.
            ratio = truth if value is None or value.ndim else float(value) / truth
            case.other()
            seconds = facts.interleaved({"other": case.other, "ours": case.ours})
        held = case.within[0] * (1 - 1e-6) <= ratio <= case.within[1] * (1 + 1e-6)
        off += not held
        row = {
            **said,
            "work": case.work,
            "name": case.name,
            "aim": case.aim,
            "elsewhere": case.elsewhere,
            "ratio": ratio,
        }
        row |= {"held": held, "other": facts.timing(seconds["other"], None)["seconds"]}
        row |= facts.timing(seconds["ours"], seconds["other"])
        rows.append(row)
        print(
            json.dumps({key: row[key] for key in ("work", "name", "faster", "faster_range", "ratio", "held")}),
            flush=True,
        )
        facts.write(out, rows)
    return int(off > 0)


def page() -> str:
    """The page with the table anew: of several shapes the worst, of other cases each."""
    files = {column: facts.read(facts.FOLDER / f"beside-{name}.jsonl") for column, name in FILES.items()}
    works = dict.fromkeys(row["work"] for row in files["after"])
    lines = []
    for work in works:
        of = {column: [row for row in rows if row["work"] == work] for column, rows in files.items()}
        first, worst = of["after"], "shapes" in work

        def told(rows: list[facts.Row], worst: bool = worst) -> str:
            values = [row["faster"] for row in rows]
            return " / ".join(f"{x:.2g}" for x in ([min(values)] if worst and values else values)) or "-"

        names = "the worst" if worst else " / ".join(row["name"] for row in first)
        aims, zen = (
            each_or_all(values) for values in zip(*((f"{x['aim']:.2g}", x["elsewhere"]) for x in first), strict=True)
        )
        limit = next((text for key, text in LIMITS.items() if key in work), "")
        lines.append([f"{work} {names}", aims, zen, *map(told, of.values()), limit])
    header = ["work", "aim", "Zen 5, before", *FILES, "limit"]
    where = ", ".join(f"{column}: {rows[0]['commit']}" for column, rows in files.items() if rows)
    one = files["after"][0]
    told_of = f"Commits ({one['date']}, {one['machine'].rpartition(',')[0]}): {where}."
    return filled(PAGE, {"beside": f"{told_of}\n\n{table(header, lines)}"})


def each_or_all(values: Sequence[str]) -> str:
    """One for all, where they are equal."""
    return values[0] if len(set(values)) == 1 else " / ".join(values)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.beside", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run").add_argument("--out", type=Path, required=True)
    commands.add_parser("page")
    given = parser.parse_args()
    if given.command == "run":
        return run(given.out)
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
