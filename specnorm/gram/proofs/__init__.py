"""Powers of a convolution's Gram matrix on a grid, and sums that bound its norm."""
