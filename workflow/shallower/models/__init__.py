"""Architecture: knows nothing of files, configuration or Snakemake."""
