"""A GAN critic with and without the constraint that holds

A Wasserstein critic is trained to tell smooth images from noise, which increases its Lipschitz
constant. Each layer is constrained to norm 1, by `spectral_norm` of torch or of specnorm. The
lines show the product of the norms of the weights in use, proven from below by `enclose`. At the
end `rescale_` makes plain weights whose norms are proven, and `network_bound` bounds the whole
critic.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import specnorm_torch
import torch
from specnorm_networks import network_bound
from torch import nn
from torch.nn.functional import interpolate
from torch.nn.utils import parametrizations

import specnorm

HERE = Path(__file__).parent
STEPS = 40


def train(constrain):
    """Train a critic; the product of its layers' norms at every tenth step."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 6, 4, 2, 1), nn.Conv2d(6, 6, 4, 2, 1), nn.Conv2d(6, 1, 4)]
    for layer in layers:
        constrain(layer)
    critic = nn.Sequential(layers[0], nn.LeakyReLU(0.2), layers[1], nn.LeakyReLU(0.2), layers[2])
    optimizer = torch.optim.Adam(critic.parameters(), 2e-3, betas=(0.5, 0.9))
    products = []
    for step in range(STEPS):
        real = interpolate(torch.randn(16, 1, 4, 4), size=(16, 16), mode="bilinear")
        loss = critic(torch.randn(16, 1, 16, 16)).mean() - critic(real).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 9:
            product = 1.0
            for layer in layers:
                geometry = specnorm_torch.geometry_of(layer)
                product *= float(specnorm.enclose(layer.weight.detach(), **geometry).lower)
            products.append(product)
    return critic, products


_, torch_products = train(parametrizations.spectral_norm)
critic, specnorm_products = train(specnorm_torch.spectral_norm)
print(f"torch: up to {max(torch_products):.1f}; specnorm: up to {max(specnorm_products):.2f}")
# > torch: up to 10.8; specnorm: up to 1.01

_ = specnorm_torch.rescale_(critic, 1.0)
print("proven at the end:", network_bound(critic, (1, 16, 16)).upper <= 1)
# > proven at the end: True

plt.style.use(HERE / "gallery.mplstyle")
figure, axes = plt.subplots()
steps = range(10, STEPS + 1, 10)
axes.plot(steps, specnorm_products, linewidth=3, label="specnorm's spectral_norm")
axes.plot(steps, torch_products, linewidth=3, label="torch's spectral_norm")
axes.set(title="Lipschitz constant of a critic", xlabel="training step", ylim=(0, None))
axes.legend()
figure.savefig(HERE / "critic.svg", metadata={"Date": None})
