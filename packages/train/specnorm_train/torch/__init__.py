"""Training with torch: constraints, penalties, optimisers, monitors, and proofs of what was trained.

Users import the names from `specnorm_torch`.
"""
