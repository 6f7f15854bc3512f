"""A graph beside the model that it was read from, executed on the same inputs; and attacks on what was proven."""
