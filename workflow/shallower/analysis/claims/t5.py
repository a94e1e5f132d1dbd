"""Claims of S2: encoder-decoders."""
