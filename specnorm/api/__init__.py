"""The public functions that run one method, or compare all of them."""
