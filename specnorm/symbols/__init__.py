"""The symbol of a convolution at given frequencies, its singular vectors and gradients, and iterations for them."""
