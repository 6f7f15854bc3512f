"""One method on one problem, ready to run: where, in which precision, traced or not."""
