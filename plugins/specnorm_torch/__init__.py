"""The plugin for PyTorch. Layers, training and audits of modules are found by entry point (`specnorm.plugin.names_of`).

A program runs inside of one custom operator, so that ``torch.compile(fullgraph=True)``, ``vmap`` and fake tensors see a
single node. An ``autograd.Function``, or an ordinary product with the gradient, adds the derivative.
"""

from specnorm.plugin import names_of
from specnorm_torch.backend import BACKEND as BACKEND

__getattr__, __dir__ = names_of(__name__, "BACKEND")
