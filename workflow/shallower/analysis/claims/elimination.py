"""Claims of S4."""
