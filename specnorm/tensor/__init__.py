"""The multilinear form behind the tensor-norm bound: its maximisation and its tracking in training."""
