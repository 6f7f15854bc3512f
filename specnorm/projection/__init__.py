"""Kernels changed so that their norm is proven to be at most a bound."""
