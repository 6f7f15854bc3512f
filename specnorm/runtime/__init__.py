"""Programs: one method on one problem, ready to run on any array library, traced or not."""
