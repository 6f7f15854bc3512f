"""The kernel of inference: everything that one wrong line could make false. Claims are made here alone."""
