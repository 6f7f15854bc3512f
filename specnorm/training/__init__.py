"""Norms that are followed in training, with a state that each step moves."""
