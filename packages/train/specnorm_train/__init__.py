"""Training: constraints, the ball, penalties and monitors for torch, JAX and Keras, one folder each.

Users import the names from `specnorm_torch`, `specnorm_jax.training` and `specnorm_keras`, whose stubs say where
each is defined.
"""
