"""Completion: an upper bound by a second kernel H with K*K + H*H close to a multiple of the identity."""
