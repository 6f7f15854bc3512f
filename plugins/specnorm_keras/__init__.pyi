from specnorm_train.keras import NormMonitor as NormMonitor
from specnorm_train.keras import SpectralBall as SpectralBall
from specnorm_train.keras import SpectralNorm as SpectralNorm
from specnorm_train.keras import SpectralRegularizer as SpectralRegularizer
