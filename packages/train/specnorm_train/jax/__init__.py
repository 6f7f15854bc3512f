"""Training with JAX: constraints, penalties, optimizers for trees of parameters (Flax, Equinox, or any other pytree).

A rule of `trees.kernels` decides which leaves are kernels, and with which geometry.
"""
