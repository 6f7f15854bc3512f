"""Exact values: the norm at an input size or over all sizes; singular values and the determinant at an input size."""
