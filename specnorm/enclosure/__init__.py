"""Two proven bounds of a layer's norm, or a proof that it is at most a given number."""
