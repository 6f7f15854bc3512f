"""A denoiser made nonexpansive

Theorems on the convergence of plug-and-play restoration assume a nonexpansive denoiser: the
outputs for two inputs are at most as far apart as the inputs. One small denoiser is trained
without a constraint, and once more with `spectral_norm`; then `rescale_` and `nonexpansive` prove
that the second network is nonexpansive. Each dot shows how far the output for one noisy image
moves, relative to a small change of the image.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from specnorm_networks import nonexpansive
from specnorm_torch import rescale_, spectral_norm
from torch import nn
from torch.nn.functional import interpolate

HERE = Path(__file__).parent
SHAPE = (1, 12, 12)
torch.manual_seed(0)


def noisy(count):
    """Random blobs, and the same with noise."""
    clean = (interpolate(torch.randn(count, 1, 4, 4), size=SHAPE[1:], mode="bilinear") > 0).float()
    return clean, clean + 0.3 * torch.randn_like(clean)


def network():
    """Three convolutions."""
    first, inner, last = nn.Conv2d(1, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 1, 3, 1, 1)
    return nn.Sequential(first, nn.ReLU(), inner, nn.ReLU(), last)


def train(model, steps=80):
    """Train to remove the noise."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        clean, input_images = noisy(16)
        loss = (model(input_images) - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def gain(model, image):
    """Norm of the model's derivative at an image."""
    jacobian = torch.autograd.functional.jacobian(model, image).reshape(image.numel(), -1)
    return float(torch.linalg.matrix_norm(jacobian, 2))


free = train(network())
constrained = train(spectral_norm(network()))
_ = rescale_(constrained, 1.0)
print("proven nonexpansive:", nonexpansive(constrained, SHAPE).proven)
# > proven nonexpansive: True

_, images = noisy(12)
plt.style.use(HERE / "gallery.mplstyle")
figure, axes = plt.subplots()
for name, model in (("with spectral_norm", constrained), ("trained freely", free)):
    gains = sorted(gain(model, images[at : at + 1]) for at in range(len(images)))
    print(f"{name}: gains up to {max(gains):.2f}")
    axes.plot(range(1, len(gains) + 1), gains, "o", label=name)
# > with spectral_norm: gains up to 0.95
# > trained freely: gains up to 1.56

axes.axhline(1, color="black", linestyle=":")
axes.text(12, 1.02, "nonexpansive: never above", ha="right")
axes.set(title="How far the output moves", xlabel="noisy image", ylim=(0, None))
axes.legend(loc="lower right")
figure.savefig(HERE / "denoiser.svg", metadata={"Date": None})
