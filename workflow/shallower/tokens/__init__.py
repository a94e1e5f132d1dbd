"""Tokenizer and memory-mapped token shards."""
