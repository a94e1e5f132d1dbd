"""Figures, by topic."""
