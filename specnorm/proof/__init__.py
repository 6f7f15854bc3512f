"""The trusted kernel: all that a claim rests on. Only this room makes an upper or a lower bound."""
