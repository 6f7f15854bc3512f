"""The largest attention logit of a head, over all tokens that a norm layer can give."""
