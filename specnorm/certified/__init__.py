"""Claims: what a proven number is. With `specnorm.proof` the only room where one is made."""
