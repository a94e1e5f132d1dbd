"""Figures, tables and numbers of the paper; never imports torch."""
