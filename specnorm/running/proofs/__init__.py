"""The way of a bound from a plan to the caller: past the padding, out of the scale, into the dtype."""
