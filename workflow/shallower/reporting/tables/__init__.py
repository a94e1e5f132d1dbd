"""Tables, by topic."""
