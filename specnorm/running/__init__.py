"""A method on a problem: the interface of methods, programs that run on any array library, and answers."""
