"""Exact values at one input size: the norm, all singular values, the determinant."""
