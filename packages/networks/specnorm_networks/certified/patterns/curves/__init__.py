"""Functions of one number that several operators compute: their slopes, proven once for the whole line."""
