"""Bounds by the norms of matrices: the kernel's unfoldings (Singla and Feizi 2019), and stacks of plain matrices."""
