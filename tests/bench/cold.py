"""What a first call costs: processor seconds of new processes, the least of some, in one environment or in several.

``python -m bench cold [--python OTHER/bin/python ...]`` prints a line for each command, a column for each environment.
What is ours of a torch module's first bound is what its process takes beyond one that has torch export the same module
alone.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESNET = ROOT / "docs" / "examples" / "resnet20" / "resnet20.safetensors"
NETWORKS = Path(__file__).parent / "slow_networks.py"
_MODULE = """
import torch
model = torch.nn.Sequential(
    torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 64, 10)
).eval()
"""
EXPORT = f"""{_MODULE}
import numpy, onnx, io
batch = torch.export.Dim("batch", min=2)
program = torch.export.export(model, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({{0: batch}},))
torch.onnx.export(program, (), verbose=False, dynamo=True, optimize=False)
"""
BOUND = f"""{_MODULE}
from specnorm_networks import network_bound
network_bound(model, (3, 8, 8))
"""
COMMANDS: dict[str, Sequence[str]] = {
    "import numpy": ("-c", "import numpy"),
    "import specnorm": ("-c", "import specnorm"),
    "specnorm --help": ("-m", "specnorm", "--help"),
    "audit of ResNet-20": ("-m", "specnorm", "audit", str(RESNET), "--input-shape", "32"),
    "torch exports a module": ("-c", EXPORT),
    "the module's first bound": ("-c", BOUND),
    **{f"bound of {name}": (str(NETWORKS), name) for name in ("keras", "stylegan", "ista")},
}


def seconds(python: str, arguments: Sequence[str]) -> float:
    """Return the processor seconds of one new process and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [python, *arguments],
        check=True,
        capture_output=True,
        cwd=ROOT.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def measured(
    pythons: Sequence[str], repeats: int, commands: Sequence[str] = tuple(COMMANDS)
) -> Iterator[tuple[str, list[float]]]:
    """Yield each command with the least seconds of each environment; these take turns, so that load is shared."""
    for name in commands:
        runs = [[seconds(python, COMMANDS[name]) for python in pythons] for _ in range(repeats)]
        yield name, [min(each) for each in zip(*runs, strict=True)]


def show(pythons: Sequence[str], repeats: int) -> None:
    """Print the seconds of each command, one column an environment."""
    environments = [sys.executable, *pythons]
    found: dict[str, list[float]] = {}
    for name, least in measured(environments, repeats):
        found[name] = least
        print(f"{name:28}", *(f"{value:8.2f}" for value in least), flush=True)
    whole, alone = found["the module's first bound"], found["torch exports a module"]
    print(f"{'of which ours':28}", *(f"{a - b:8.2f}" for a, b in zip(whole, alone, strict=True)))
