"""How much sooner ``specnorm audit --jobs`` is done: ``python -m bench.jobs --repeats 5`` prints lines of JSON."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench import facts
from bench.kernels import RESNET18, RESNET18_COUNTS, like_trained

DATA = Path(__file__).parents[1] / "data"
MODELS = {
    "resnet20": "resnet20-12fca82f.th",
    "rfb320": "version-RFB-320_simplified.onnx",
    "dncnn25": "dncnn_25.pth",
}


def seconds(file: Path, jobs: int, methods: str) -> float:
    """Wall time of the whole command, start of the interpreter included."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "specnorm", "audit", str(file), "--methods", methods, "--jobs", str(jobs)]
    geometry = file.with_name("geometry.json")
    command += ["--geometry", str(geometry)] if geometry.exists() else []
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--methods", default="tn,f4,reshaped")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "model.npz"
        layers = {
            f"{name}.{j}": like_trained(shape, seed=j)
            for name, shape in RESNET18.items()
            for j in range(RESNET18_COUNTS.get(name, 1))
        }
        np.savez(large, allow_pickle=False, **layers)
        files = {name: DATA / name / published for name, published in MODELS.items()}
        report({**files, "ResNet-18's shapes": large}, given)


def report(files: dict[str, Path], given: argparse.Namespace) -> None:
    """Print a line a model."""
    for name, file in files.items():
        pairs = [[seconds(file, jobs, given.methods) for jobs in (1, given.jobs)] for _ in range(given.repeats)]
        line = {
            "model": name, "jobs": given.jobs, "methods": given.methods, "repeats": given.repeats,
            "alone_s": statistics.median(alone for alone, _ in pairs),
            "ratio": statistics.median(alone / shared for alone, shared in pairs),
            "ratios": [min(a / s for a, s in pairs), max(a / s for a, s in pairs)],
            "date": facts.date(), "commit": facts.commit(), "processor": facts.processor(), "cpus": os.cpu_count(),
        }  # fmt: skip
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
