"""Step size of a deconvolution

Gradient descent on ‖Ax - b‖²/2 converges for steps below 2/‖A‖². Five steps of power iteration
give a norm that is too small by an unknown amount. With a step of 1.9 divided by the square of
this norm, the iteration diverges. With the proven upper bound in its place it converges.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import specnorm

HERE = Path(__file__).parent
SIZE = 48
rng = np.random.default_rng(0)
taps = np.exp(-(np.linspace(-1.6, 1.6, 7) ** 2))
kernel = (taps[:, None] * taps)[None, None]  # one channel in, one out
symbol = np.fft.fft2(kernel[0, 0], (SIZE, SIZE))


def blur(x, frequencies=symbol):
    """A circular convolution."""
    return np.fft.ifft2(frequencies * np.fft.fft2(x)).real


def adjoint(x):
    """The convolution with the mirrored kernel."""
    return blur(x, symbol.conj())


v = rng.standard_normal((SIZE, SIZE))
for _ in range(5):
    v = adjoint(blur(v / np.linalg.norm(v)))
guess = np.sqrt(np.linalg.norm(v))
norm = specnorm.enclose(kernel, SIZE)
lower, upper = norm.claim
print(f"power iteration: {guess:.3f}; proven: {lower:.3f} to {upper:.3f}")
# > power iteration: 10.214; proven: 10.893 to 10.905

image = np.zeros((SIZE, SIZE))
image[12:30, 10:24] = 1
image[20:40, 28:40] = 0.6
observed = blur(image) + 0.01 * rng.standard_normal((SIZE, SIZE))
plt.style.use(HERE / "gallery.mplstyle")
figure, axes = plt.subplots()
for name, value in (("proven norm", float(norm.upper)), ("five power steps", guess)):
    x = np.zeros((SIZE, SIZE))
    residuals = []
    for _ in range(60):
        error = blur(x) - observed
        residuals.append(np.linalg.norm(error))
        x -= 1.9 / value**2 * adjoint(error)
    print(f"{name}: the residual falls: {bool(np.all(np.diff(residuals) < 0))}")
    axes.semilogy(residuals, label=name, linewidth=3)
# > proven norm: the residual falls: True
# > five power steps: the residual falls: False

axes.set(title="Residual of the deconvolution", xlabel="gradient step")
axes.legend()
figure.savefig(HERE / "deconvolution.svg", metadata={"Date": None})
