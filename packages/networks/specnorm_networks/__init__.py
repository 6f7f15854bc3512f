"""Whole networks: a graph of layers, activations and joins -> a proven Lipschitz constant.

`certified.graph` says what a network is, `certified.operators` what its nodes compute and by how much each can stretch.
`bounding` combines them with the norms of the layers, which `measuring` proves. `certified.runs` finds layers in a
row, `descent` proposes weights for their channels, and `certified.parts` proves the constant of a run with such
weights. `methods` are the ways to bound a network; `answering` compares, searches, proves and attacks.
`certified.ranges` says which numbers each value can be in a region. `comparison` executes graph and model. `local`
bounds a network on a ball around one input, and says in which ball a label stays. `live` and `nonexpansiveness` take
any source: a torch module, a JAX function, a Flax NNX or Equinox module, a Keras 3 model on JAX or torch, an ONNX
file or `onnx.ModelProto`, or a graph. Live models are exported to ONNX (`sources`).

`specnorm_networks.tools` and `model_arrays` have further names for packages that read, audit or certify models.
"""

from __future__ import annotations

from specnorm.proof import door

__getattr__, __dir__, __all__ = door(__name__)
