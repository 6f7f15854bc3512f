"""The norm at every frequency from the norms on a grid, at a fixed cost."""
