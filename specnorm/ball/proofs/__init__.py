"""The norms of directions of steps, and of multiples of kernels."""
