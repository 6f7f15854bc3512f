from specnorm_jax.backend import BACKEND as BACKEND
from specnorm_jax.linear import linear_operator as linear_operator
