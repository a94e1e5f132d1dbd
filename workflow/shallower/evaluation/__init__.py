"""Quality and speed of trained models, as raw rows."""
