"""Numbers, by topic."""
