"""What following the norms costs: one step of every layer's state against one training step of a ResNet-20.

    python -m bench.training --threads 1 --out docs/benchmarks/training-1.jsonl

Paired and interleaved: each repeat times the plain step and the step with the penalty one after the other, so that
whatever else the machine does falls on both; the share is the median of the paired differences over the median step.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import specnorm_torch
import torch
from torch import Tensor, nn

import specnorm
from bench import facts


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016, the CIFAR variant)."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        stride = 1 if cin == cout else 2
        self.body = nn.Sequential(
            nn.Conv2d(cin, cout, 3, stride, 1, bias=False),
            nn.BatchNorm2d(cout),
            nn.ReLU(),
            nn.Conv2d(cout, cout, 3, 1, 1, bias=False),
            nn.BatchNorm2d(cout),
        )
        self.stride, self.more = stride, cout - cin

    def forward(self, x: Tensor) -> Tensor:
        """Add the shortcut, zeros in the new channels."""
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return torch.relu(self.body(x) + nn.functional.pad(shortcut, (0, 0, 0, 0, 0, self.more)))


def resnet20(channels: int = 3) -> nn.Module:
    """A network of ResNet-20's layers: 19 convolutions and a linear one, 0.27 million parameters."""
    widths = [16] * 4 + [32] * 3 + [64] * 3
    blocks = [Block(a, b) for a, b in itertools.pairwise(widths)]
    stem = [nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = []
    methods: list[Any] = [specnorm.TensorNorm(), specnorm.FantasticFour()]
    for method in methods:
        for batch_norms in (None, "sequential"):
            rows.append({**about(given), **cost(method, batch_norms, given)})
            print(rows[-1], flush=True)
    for method in methods:
        for shape in ((16, 16, 3, 3), (64, 64, 3, 3), (512, 512, 3, 3)):
            rows.append({**about(given), **memory(method, shape)})
            print(rows[-1], flush=True)
        rows.append({**about(given), **network_memory(method)})
        print(rows[-1], flush=True)
    given.out.write_text("".join(json.dumps(row) + "\n" for row in rows))


def cost(method: Any, batch_norms: Any, given: argparse.Namespace) -> dict[str, Any]:
    """Paired medians of a training step without and with the penalty."""
    torch.manual_seed(0)
    model = resnet20().to(given.device)
    penalty = specnorm_torch.SpectralPenalty(model, method, batch_norms=batch_norms).to(given.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    x = torch.randn(given.batch, 3, 32, 32, device=given.device)
    y = torch.randint(10, (given.batch,), device=given.device)

    def step(with_penalty: bool) -> None:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        (loss + 1e-3 * penalty() if with_penalty else loss).backward()
        optimizer.step()

    def alone() -> None:
        penalty().backward()

    def seconds(run: Callable[[], None]) -> float:
        if given.device != "cpu":
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if given.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for _ in range(2):
        step(True)
        step(False)
    pairs = [(seconds(lambda: step(False)), seconds(lambda: step(True)), seconds(alone)) for _ in range(given.repeats)]
    plain = statistics.median(p[0] for p in pairs)
    extra = statistics.median(p[1] - p[0] for p in pairs)
    own = statistics.median(p[2] for p in pairs)
    return {
        "what": "penalty",
        "method": method.name,
        "batch_norms": batch_norms,
        "batch": given.batch,
        "repeats": given.repeats,
        "plain_step_s": plain,
        "paired_difference_s": extra,
        "penalty_alone_s": own,
        "share": extra / plain,
        "share_alone": own / plain,
    }


def memory(method: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    """Peak of a step in NumPy, which runs the same code, and the state, in units of the kernel."""
    kernel = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
    state = specnorm.init(kernel, method)
    specnorm.step(kernel, method, state)
    tracemalloc.start()
    specnorm.step(kernel, method, state)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "what": "memory",
        "method": method.name,
        "shape": shape,
        "peak_over_kernel": peak / kernel.nbytes,
        "peak_bytes": peak,
        "state_over_kernel": sum(x.nbytes for x in state.values()) / kernel.nbytes,
    }


def network_memory(method: Any) -> dict[str, Any]:
    """Peak of a step of all layers of a ResNet-20, in units of all its kernels."""
    layers = [m for m in resnet20().modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    kernels: list[Any] = [m.weight.detach().numpy() for m in layers]
    geometries: list[dict[str, Any]] = [{"stride": m.stride} if isinstance(m, nn.Conv2d) else {} for m in layers]
    states = [specnorm.init(k, method, **g) for k, g in zip(kernels, geometries, strict=True)]
    specnorm.step_many(kernels, method, states, geometries=geometries)
    tracemalloc.start()
    specnorm.step_many(kernels, method, states, geometries=geometries)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    total = sum(k.nbytes for k in kernels)
    return {
        "what": "memory of a network",
        "method": method.name,
        "kernels_bytes": total,
        "peak_over_kernels": peak / total,
        "state_over_kernels": sum(x.nbytes for s in states for x in s.values()) / total,
    }


def about(given: argparse.Namespace) -> dict[str, Any]:
    """Where and when."""
    return {
        "date": facts.date(),
        "commit": facts.commit(),
        "machine": f"{facts.processor()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[0], 2),
        "device": given.device,
        "threads": given.threads,
        "torch": str(torch.__version__),
    }


if __name__ == "__main__":
    main()
