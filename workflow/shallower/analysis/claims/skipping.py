"""Claims of S3."""
