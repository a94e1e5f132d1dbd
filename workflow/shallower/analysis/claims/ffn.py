"""Claims of S2: other FFNs, and distillation."""
