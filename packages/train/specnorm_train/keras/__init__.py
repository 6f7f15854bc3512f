"""Training with Keras 3 on its torch and JAX backends, by a layer's kernel, which is an array of one of these.

All classes are imported together: Keras loads a saved model only if the classes that it names are registered.
"""

from specnorm_train.keras.ball import SpectralBall
from specnorm_train.keras.constraint import SpectralNorm, SpectralRegularizer
from specnorm_train.keras.monitor import NormMonitor

__all__ = ["NormMonitor", "SpectralBall", "SpectralNorm", "SpectralRegularizer"]
