"""Norms of matrices from above and from below, with rounding counted: dense ones and block tridiagonal ones."""
