"""Lower bounds of a layer's norm at one input size, from given vectors."""
