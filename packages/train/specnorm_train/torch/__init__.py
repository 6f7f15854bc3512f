"""Training with torch: constraints, penalties, optimisers, monitors, and proofs of what was trained."""
