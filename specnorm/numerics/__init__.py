"""Iterations that propose: power, Lanczos, Chebyshev, extrapolation. Nothing here is trusted by a proof."""
