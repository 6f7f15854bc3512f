"""Rules for a layer at one input size: circulants, deflation, polyphase components, its own matrix."""
