"""The multilinear form of the tensor-norm bound TN: its maximisation, proof, and tracking in training."""
