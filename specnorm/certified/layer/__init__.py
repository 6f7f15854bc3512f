"""The layer at one size: circulant embeddings, deflation, polyphase components, and its own matrix."""
