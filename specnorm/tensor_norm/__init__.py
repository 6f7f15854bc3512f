"""The tensor-norm bound TN (Grishina et al. 2024): its maximisation, its proof, its steps in training."""
