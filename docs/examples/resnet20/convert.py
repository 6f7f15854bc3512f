"""Convert the published ResNet-20 checkpoint to safetensors, tensor by tensor, without running code in it."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import torch
from safetensors.torch import save_file

SOURCE = "github.com/akamaster/pytorch_resnet_cifar10, commit d5489e8995e8, pretrained_models/resnet20-12fca82f.th"
SHA256 = "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8"


def convert(checkpoint: Path, output: Path) -> None:
    """Write the checkpoint's state dict, names and values unchanged, as a safetensors file.

    Parameters
    ----------
    checkpoint : Path
        ``resnet20-12fca82f.th`` as published.
    output : Path

    Raises
    ------
    ValueError
        If the checkpoint is another file.
    """
    found = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    if found != SHA256:
        raise ValueError(f"{checkpoint} has SHA-256 {found}; expected {SHA256} ({SOURCE}).")
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    tensors = {name: tensor.detach().contiguous() for name, tensor in state.items()}
    # One entry only: safetensors writes several in random order, and the same input should give the same file.
    save_file(tensors, output, metadata={"source": f"{SOURCE}, SHA-256 {SHA256}, BSD-2-Clause"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="resnet20-12fca82f.th, as published")
    parser.add_argument("output", type=Path, nargs="?", default=Path("resnet20.safetensors"))
    arguments = parser.parse_args()
    convert(arguments.checkpoint, arguments.output)
