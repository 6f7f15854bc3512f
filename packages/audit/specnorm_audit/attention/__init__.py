"""The largest logits of the attention heads of a transformer's checkpoint, by the names of known models."""
