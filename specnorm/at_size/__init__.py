"""The norm of a layer at one input size, for any padding, by a list of attempts."""
