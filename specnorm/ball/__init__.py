"""Kernels with a norm of at most a bound: rescaled or clipped into that ball, or moved inside of it."""
