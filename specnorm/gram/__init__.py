"""Gram iteration (Delattre et al. 2023): bounds by powers of the Gram matrix."""
