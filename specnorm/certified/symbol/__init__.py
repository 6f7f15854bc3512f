"""The layer at every size: its symbol, the polynomial of Gram matrices, cells of frequencies and their cover."""
