"""Training with Keras 3 on its torch and JAX backends, by a layer's kernel, which is an array of one of these."""
