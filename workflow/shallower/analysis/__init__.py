"""Raw rows to summaries; never imports torch."""
