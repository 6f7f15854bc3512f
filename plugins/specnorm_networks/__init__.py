"""Whole networks of any framework: a proven Lipschitz constant, nonexpansiveness, certified accuracy.

A source is a torch module, a JAX function, a Flax NNX or Equinox module, a Keras 3 model on the JAX backend, an ONNX
file or `onnx.ModelProto`, or a `Graph`. Live models enter as ONNX (`sources`), and are compared with themselves.
"""

from specnorm_networks.live import certified_accuracy, network_bound, network_graph
from specnorm_networks.nonexpansive import Nonexpansive, nonexpansive

__all__ = ["Nonexpansive", "certified_accuracy", "network_bound", "network_graph", "nonexpansive"]
