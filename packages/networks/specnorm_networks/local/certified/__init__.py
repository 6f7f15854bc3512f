"""Claims about regions of inputs: linear bounds, and radii in which a label stays."""
