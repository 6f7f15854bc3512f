"""A Wasserstein critic that never leaves the ball

A critic tells smooth images from noise. `SpectralBall` keeps each layer within norm 1 at every
step, without a hook and without computing a norm. So each distance of the two means that the
critic sees, up to sampling, is below the Wasserstein distance, and `network_bound` proves at the
end, without `rescale_`, that the critic is 1-Lipschitz. The constraint with Adam passes 1 by a
little, and in these few steps of a small critic it sees a larger distance: steps of the ball are
averages of kernels of simple kinds (docs/benchmarks/ball.md).
"""

from pathlib import Path

import matplotlib.pyplot as plt
import specnorm_torch
import torch
from specnorm_networks import network_bound
from torch import nn
from torch.nn.functional import interpolate

import specnorm

HERE = Path(__file__).parent
STEPS = 100


def train(make_optimizer, constrain=lambda layer: layer):
    """Train a critic; the distance that it sees, and the product of norms, at every fifth step."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 6, 4, 2, 1), nn.Conv2d(6, 6, 4, 2, 1), nn.Conv2d(6, 1, 4)]
    for layer in layers:
        constrain(layer)
    critic = nn.Sequential(layers[0], nn.LeakyReLU(0.2), layers[1], nn.LeakyReLU(0.2), layers[2])
    optimizer = make_optimizer(critic)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)
    distances, largest = [], 0.0
    for step in range(STEPS):
        real = interpolate(torch.randn(32, 1, 4, 4), size=(16, 16), mode="bilinear")
        loss = critic(torch.randn(32, 1, 16, 16)).mean() - critic(real).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if step % 5 == 4:
            distances.append(-float(loss.detach()))
            for layer in layers:
                geometry = specnorm_torch.geometry_of(layer)
                bounds = specnorm.enclose(layer.weight.detach(), **geometry)
                largest = max(largest, float(bounds.lower))
    return critic, distances, largest


def ball(critic):
    return specnorm_torch.SpectralBall(critic, 0.2, momentum=0.8)


def adam(critic):
    return torch.optim.Adam(critic.parameters(), 1e-2, betas=(0.5, 0.9))


critic, in_ball, largest_in_ball = train(ball)
_, constrained, largest_constrained = train(adam, specnorm_torch.spectral_norm)
print(f"distance: ball {in_ball[-1]:.2f}, constraint {constrained[-1]:.2f}")
print("norms at most 1: ball", largest_in_ball <= 1, "constraint", largest_constrained <= 1)
print("proven at the end:", network_bound(critic.eval(), (1, 16, 16)).upper <= 1)

plt.style.use(HERE / "gallery.mplstyle")
figure, axes = plt.subplots()
steps = range(5, STEPS + 1, 5)
axes.plot(steps, in_ball, linewidth=3, label="SpectralBall: norms at most 1")
axes.plot(steps, constrained, linewidth=3, label="spectral_norm, Adam: about 1")
axes.set(title="Distance that a critic sees", xlabel="training step", ylim=(0, None))
axes.legend()
figure.savefig(HERE / "critic_in_ball.svg", metadata={"Date": None})
