"""One of two processes of a data-parallel training run: `python ddp_worker.py RANK FILE`. Prints a digest of its state."""

from __future__ import annotations

import hashlib
import sys

import specnorm_torch
import torch
import torch.distributed as dist


def main(rank: int, file: str) -> str:
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    torch.manual_seed(rank)  # each starts from weights and vectors of its own
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, padding=1), torch.nn.BatchNorm2d(6), torch.nn.ReLU(), torch.nn.Conv2d(6, 4, 3)
    )
    specnorm_torch.spectral_norm(model[3])
    model.penalty = specnorm_torch.SpectralPenalty(model)
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        y = parallel(torch.randn(4, 3, 6, 6))
        (y.square().mean() + 0.01 * model.penalty()).backward()
        optimizer.step()
    parallel(torch.randn(4, 3, 6, 6))  # buffers are broadcast at the beginning of a forward pass
    digest = hashlib.sha256()
    for name, x in sorted(model.state_dict().items()):
        if "penalty" in name or "parametrizations" in name or name == "0.weight":
            digest.update(name.encode() + x.numpy().tobytes())
    dist.destroy_process_group()
    return digest.hexdigest()


if __name__ == "__main__":
    print(main(int(sys.argv[1]), sys.argv[2]))
