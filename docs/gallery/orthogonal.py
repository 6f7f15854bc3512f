"""Both ends of an orthogonal layer

An orthogonal initialisation makes the reshaped kernel orthogonal, but not the layer, whose
singular values spread. A product of projections (Li et al. 2019) makes the layer orthogonal.
`enclose` and `enclose_smallest` prove bounds of the largest and the smallest singular value, at
every input size. The lines show all singular values at 8x8 pixels.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import specnorm

HERE = Path(__file__).parent
CHANNELS = 8
rng = np.random.default_rng(0)


def orthogonal_matrix(rows, columns):
    """A matrix with orthonormal rows."""
    return np.linalg.qr(rng.standard_normal((columns, rows)))[0].T


def reshaped_orthogonal():
    """A 3x3 kernel whose reshaped matrix has orthonormal rows."""
    return orthogonal_matrix(CHANNELS, 9 * CHANNELS).reshape(CHANNELS, CHANNELS, 3, 3)


def layer_orthogonal():
    """A 3x3 kernel of an orthogonal layer: four filters of two taps, P and I - P."""
    kernel = orthogonal_matrix(CHANNELS, CHANNELS)[:, :, None, None]
    for axis in (2, 3, 2, 3):
        basis = orthogonal_matrix(CHANNELS // 2, CHANNELS)
        projection = basis.T @ basis
        widths = [(0, 0)] * 4
        widths[axis] = (0, 1)
        first_tap = np.pad(np.einsum("ab,bc...->ac...", projection, kernel), widths)
        widths[axis] = (1, 0)
        complement = np.eye(CHANNELS) - projection
        second_tap = np.pad(np.einsum("ab,bc...->ac...", complement, kernel), widths)
        kernel = first_tap + second_tap
    return kernel


layers = {"orthogonal matrix": reshaped_orthogonal(), "orthogonal layer": layer_orthogonal()}
plt.style.use(HERE / "gallery.mplstyle")
figure, axes = plt.subplots()
for (name, kernel), colour in zip(layers.items(), ("C1", "C0"), strict=True):
    smallest = specnorm.enclose_smallest(kernel)
    largest = specnorm.enclose(kernel)
    (lower, _), (_, upper) = smallest.claim, largest.claim
    print(f"{name}: {lower:.3f} to {upper:.3f}, isometry:", end=" ")
    print(specnorm.is_isometry(kernel, 1e-6))
    values = np.sort(specnorm.singular_values(kernel, 8).ravel())
    axes.plot(np.linspace(0, 1, values.size), values, color=colour, label=name, linewidth=4)
    axes.axhspan(float(smallest.lower), float(largest.upper), color=colour, alpha=0.12)
# > orthogonal matrix: 0.000 to 1.944, isometry: False
# > orthogonal layer: 0.999 to 1.001, isometry: True

axes.set(title="Singular values, and both proven ends", xticks=[], ylim=(0, None))
axes.set_xlabel("singular values, in order")
axes.legend(loc="upper left")
figure.savefig(HERE / "orthogonal.svg", metadata={"Date": None})
