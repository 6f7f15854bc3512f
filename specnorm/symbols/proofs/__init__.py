"""The symbol, its Gram polynomial and quotients, with the rounding of each bounded."""
