"""The other end of the spectrum: smallest singular values, condition numbers, distances from an isometry."""
