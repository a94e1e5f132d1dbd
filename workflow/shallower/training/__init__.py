"""The one training loop, for both families of models."""
