"""What tests share: the oracle, kernels and layers, array libraries, checks. No test is kept here."""
