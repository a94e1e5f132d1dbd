"""The command line: for people (`people`), and for rules (`stages`)."""
