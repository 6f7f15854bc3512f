"""Audit of a checkpoint in continuous integration

One line of a workflow measures every layer of a checkpoint, and fails if a norm is not proven to
be at most the limit. The check passes for a trained ResNet-20. It fails for the same weights
after a careless fine-tuning of one layer.

    specnorm audit checkpoint.safetensors --fail-above 11
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
from safetensors.numpy import load_file, save_file

import specnorm

HERE = Path(__file__).parent
LIMIT = 11
released = HERE.parent / "examples" / "resnet20" / "resnet20.safetensors"
weights = load_file(released)
weights["module.layer2.0.conv1.weight"] *= 1.4


def exit_code(path):
    """What the command of the workflow says of a file."""
    command = ["-m", "specnorm", "audit", path, "--fail-above", str(LIMIT)]
    return subprocess.run([sys.executable, *command], capture_output=True).returncode


with TemporaryDirectory() as folder:
    tuned = Path(folder) / "tuned.safetensors"
    save_file(weights, tuned)
    print("exit codes:", exit_code(released), exit_code(tuned))
    rows = specnorm.audit(str(tuned)).layers
# > exit codes: 0 1

above = [row.name for row in rows if row.lower > LIMIT]
print("proven to be above the limit:", above)
# > proven to be above the limit: ['module.layer2.0.conv1.weight']

plt.style.use(HERE / "gallery.mplstyle")
figure, axes = plt.subplots()
colours = ["C1" if row.name in above else "C0" for row in rows]
axes.bar(range(1, len(rows) + 1), [row.upper for row in rows], color=colours)
axes.axhline(LIMIT, color="black", linestyle=":")
axes.text(20.5, LIMIT + 0.2, "--fail-above 11", ha="right")
axes.set(title="Proven norms of a checkpoint", xlabel="layer", ylim=(0, 13.5))
figure.savefig(HERE / "checkpoint.svg", metadata={"Date": None})
