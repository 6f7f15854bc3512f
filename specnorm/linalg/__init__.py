"""Linear algebra of convolutions: each algorithm once, no claims about what is computed."""
