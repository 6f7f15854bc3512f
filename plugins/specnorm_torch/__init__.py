"""The plugin for PyTorch. The stub beside this file says where each name is defined.

A program runs inside of one custom operator, so that ``torch.compile(fullgraph=True)``, ``vmap`` and fake tensors see a
single node. An ``autograd.Function``, or an ordinary product with the gradient, adds the derivative.
"""

from specnorm._internal import door
from specnorm_torch.backend import BACKEND as BACKEND

__getattr__, __dir__, __all__ = door(__name__)
