"""Training with torch: constraints, penalties, optimizers, monitors, and proofs of what was trained."""
