"""What is asked: a kernel's geometry and what follows from it exactly, in integers. No number is claimed here."""
