"""Training with Keras, and the reader of its layers (`layers`). The stub beside this file says where each name is."""

from specnorm._internal import door

__getattr__, __dir__, __all__ = door(__name__)
