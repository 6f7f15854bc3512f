"""One of two processes of a data-parallel run: `python ddp_worker.py RANK FILE` writes a digest of its state."""

from __future__ import annotations

import hashlib
import sys

import specnorm_torch
import torch
import torch.distributed as dist


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(3, 6, 3, padding=1), torch.nn.BatchNorm2d(6), torch.nn.ReLU(), torch.nn.Conv2d(6, 4, 3)
        )
        specnorm_torch.spectral_norm(self.body[3])
        self.penalty = specnorm_torch.SpectralPenalty(self.body)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self.body(x).square().mean() + 0.01 * self.penalty()
        return loss


def main(rank: int, file: str) -> str:
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    torch.manual_seed(rank)  # each starts from weights and vectors of its own
    model = Net()
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        parallel(torch.randn(4, 3, 6, 6)).backward()
        optimizer.step()
    # Buffers are broadcast at the beginning of a forward pass, which in eval() changes nothing more.
    parallel.eval()
    parallel(torch.randn(4, 3, 6, 6))
    digest = hashlib.sha256()
    for name, x in sorted(model.state_dict().items()):
        digest.update(name.encode() + x.numpy().tobytes())
    dist.destroy_process_group()
    return digest.hexdigest()


if __name__ == "__main__":
    sys.stdout.write(main(int(sys.argv[1]), sys.argv[2]))
