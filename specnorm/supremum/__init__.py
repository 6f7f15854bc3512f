"""The norm over all frequencies, by branch and bound."""
