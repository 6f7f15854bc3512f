"""The largest singular values of a layer at one input size, from below, for any padding."""
