"""Rules for a layer at one input size: circulants, polyphase components, its own matrix."""
