from specnorm_train.keras.ball import SpectralBall as SpectralBall
from specnorm_train.keras.constraint import SpectralNorm as SpectralNorm
from specnorm_train.keras.constraint import SpectralRegularizer as SpectralRegularizer
from specnorm_train.keras.monitor import NormMonitor as NormMonitor
