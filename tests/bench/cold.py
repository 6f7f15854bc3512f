"""The cost of first calls: processor seconds of new processes, the least of several, in one or more environments.

``python -m bench cold [--python OTHER/bin/python ...]`` prints a line for each command, a column for each environment.
The last lines divide a torch module's first bound: import of torch, of onnx and onnxscript, torch's export of the
module, import of specnorm and its networks, and the bound itself. Each of these times is the difference of two
processes, of which the second does one more of these things.
"""

from __future__ import annotations

import itertools
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
IMPORTS = "import torch, numpy, onnx, onnxscript"
COMMANDS: dict[str, Sequence[str]] = {
    "import numpy": ("-c", "import numpy"),
    "import specnorm": ("-c", "import specnorm"),
    "specnorm --help": ("-m", "specnorm", "--help"),
    "audit of ResNet-20": ("-m", "specnorm", "audit", str(RESNET), "--input-shape", "32"),
    "import torch": ("-c", "import torch"),
    "import torch, onnx, onnxscript": ("-c", IMPORTS),
    "torch exports a module": ("-c", EXPORT),
    "the same, with our imports": ("-c", f"{EXPORT}\nfrom specnorm_networks import answering, network_bound\n"),
    "the module's first bound": ("-c", BOUND),
    **{f"bound of {name}": (str(NETWORKS), name) for name in ("keras", "stylegan", "ista")},
}


SPLIT = {
    "import numpy": "",
    "import torch": "import of torch",
    "import torch, onnx, onnxscript": "of onnx and onnxscript",
    "torch exports a module": "torch's export",
    "the same, with our imports": "our imports",
    "the module's first bound": "our reading, search, check",
}
"""Names of commands, each of which does one thing more than the one before; the values name that thing."""


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
    """Yield each command with its least seconds in each environment. They take turns, so that they share the load."""
    for name in commands:
        runs = [[seconds(python, COMMANDS[name]) for python in pythons] for _ in range(repeats)]
        yield name, [min(each) for each in zip(*runs, strict=True)]


def show(pythons: Sequence[str], repeats: int) -> None:
    """Print the seconds of each command, one column an environment."""
    environments = [sys.executable, *pythons]
    least_seconds: dict[str, list[float]] = {}
    for name, least in measured(environments, repeats):
        least_seconds[name] = least
        print(f"{name:28}", *(f"{value:8.2f}" for value in least), flush=True)
    print("of the module's first bound:")
    steps = list(SPLIT)
    for before, after in itertools.pairwise(steps):
        parts = (b - a for a, b in zip(least_seconds[before], least_seconds[after], strict=True))
        print(f"  {SPLIT[after]:26}", *(f"{part:8.2f}" for part in parts))
