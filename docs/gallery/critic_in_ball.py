"""Critics of two distributions whose Wasserstein distance is known

The second distribution is the first one moved by a pattern, so their distance is the length of
the pattern. A 1-Lipschitz critic sees at most that. The critics are trained with torch's
`spectral_norm`, with specnorm's constraint, and with `SpectralBall`; at the end of the last two,
`rescale_` brings each norm to the bound. Critics of linear layers see the whole distance in both
ways. Those of convolutions see more of it with the constraint. torch's "see" a distance that is
larger than the true one, since their norms are above 1.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import specnorm_torch
import torch
from torch import nn
from torch.nn.utils import parametrizations

HERE = Path(__file__).parent
STEPS = 150
rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
pattern = torch.exp(-((columns - 9) ** 2 + (rows - 6) ** 2) / 20)
DISTANCE = 3.0
pattern *= DISTANCE / pattern.norm()


class MaxMin(nn.Module):
    """Sorts pairs of channels, which keeps the length of gradients."""

    def forward(self, x):
        first, second = x.chunk(2, 1)
        return torch.cat([torch.maximum(first, second), torch.minimum(first, second)], 1)


def linear():
    return [nn.Flatten(), nn.Linear(256, 64), MaxMin(), nn.Linear(64, 64), MaxMin(), nn.Linear(64, 1)]


def convolutional():
    return [nn.Conv2d(1, 16, 4, 2, 1), MaxMin(), nn.Conv2d(16, 16, 4, 2, 1), MaxMin(), nn.Conv2d(16, 1, 4)]


def adam(params):
    return torch.optim.Adam(params, 5e-3, betas=(0.5, 0.9))


def ball(critic):
    return specnorm_torch.SpectralBall(critic, 0.1, rest=adam)


def share(critic):
    """The distance that a critic sees, as a part of the true one."""
    images = torch.randn(500, 1, 16, 16)
    with torch.no_grad():
        return float((critic(images + pattern) - critic(images)).mean()) / DISTANCE


def train(layers, constrain=None, optimizer_of=lambda critic: adam(critic.parameters())):
    torch.manual_seed(0)
    critic = nn.Sequential(*layers())
    for layer in critic if constrain else ():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            constrain(layer)
    optimizer = optimizer_of(critic)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)
    for _ in range(STEPS):
        moved, still = torch.randn(64, 1, 16, 16) + pattern, torch.randn(64, 1, 16, 16)
        loss = critic(still).mean() - critic(moved).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return critic.eval()


shares = {"torch's spectral_norm": [], "specnorm's constraint": [], "SpectralBall": []}
for layers in (linear, convolutional):
    shares["torch's spectral_norm"].append(share(train(layers, parametrizations.spectral_norm)))
    constrained = train(layers, specnorm_torch.spectral_norm)
    inside = train(layers, optimizer_of=ball)
    before = share(inside)
    for critic in (constrained, inside):
        specnorm_torch.rescale_(critic, 1.0, only_shrink=False)
    shares["specnorm's constraint"].append(share(constrained))
    shares["SpectralBall"].append(share(inside))
    print(f"{layers.__name__}: " + ", ".join(f"{name} {x[-1]:.3f}" for name, x in shares.items()))
    print(f"SpectralBall before rescale_: {before:.3f}")
# > linear: torch's spectral_norm 0.994, specnorm's constraint 0.993, SpectralBall 0.993
# > SpectralBall before rescale_: 0.981
# > convolutional: torch's spectral_norm 3.589, specnorm's constraint 0.672, SpectralBall 0.469
# > SpectralBall before rescale_: 0.444

plt.style.use(HERE / "gallery.mplstyle")
figure, axes = plt.subplots()
for number, (name, values) in enumerate(shares.items()):
    color = ("C1", "C0", "C2")[number]
    axes.bar([j + 0.27 * (number - 1) for j in range(2)], values, 0.25, label=name, color=color)
axes.axhline(1, color="black", linestyle="--", linewidth=1)
axes.set(title="Distance seen, of the true one", xticks=range(2), xticklabels=["linear layers", "convolutions"])
axes.legend(loc="upper left")
figure.savefig(HERE / "critic_in_ball.svg", metadata={"Date": None})
