from specnorm_audit.torch_modules import audit_module as audit_module
from specnorm_train.torch.ball import MuonConv as MuonConv
from specnorm_train.torch.ball import SpectralBall as SpectralBall
from specnorm_train.torch.certifying import rescale_ as rescale_
from specnorm_train.torch.constraint import GramRescaling as GramRescaling
from specnorm_train.torch.constraint import SpectralNorm as SpectralNorm
from specnorm_train.torch.constraint import gram_rescaling as gram_rescaling
from specnorm_train.torch.constraint import spectral_norm as spectral_norm
from specnorm_train.torch.monitor import NormMonitor as NormMonitor
from specnorm_train.torch.orthogonality import OrthogonalityPenalty as OrthogonalityPenalty
from specnorm_train.torch.penalty import SpectralPenalty as SpectralPenalty

from specnorm_torch.backend import BACKEND as BACKEND
from specnorm_torch.baking import bake_ as bake_
from specnorm_torch.baking import baked as baked
from specnorm_torch.layers import geometry_of as geometry_of
from specnorm_torch.linear import linear_operator as linear_operator
