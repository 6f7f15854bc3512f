"""Policy: branch and bound, incumbent, local ascent. It may waste time and cannot make a claim."""
