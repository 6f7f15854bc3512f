"""The tensor-norm bound TN (Grishina et al. 2024): its maximization, its proof, its steps in training."""
