# The whole public face. Each target sets up what it needs, or uses what is there.
#   make paper                        the default study -> report/paper.pdf
#   make paper CONFIG=config/smoke.yaml    another study
#   make paper TORCH="..."                another build of torch, in pip's words
.PHONY: paper test lint bench clean setup

SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)
CONFIG ?=
SNAKEMAKE = snakemake --rerun-incomplete --quiet rules host reason \
	$(if $(CONFIG),--configfile $(CONFIG)) $(ARGS)

paper: setup
	$(SNAKEMAKE)

test: setup
	@envs/slurm/one_node.sh install
	pytest $(ARGS)

lint: setup
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow
	snakemake --lint

# Half an hour on two cores that do nothing else; writes benchmarks/.
bench: setup
	python -m benchmarks $(ARGS)

# Ends at once if everything is there.
setup:
	@TORCH="$(TORCH)" envs/setup.sh

# Everything computed; the environment stays.
clean:
	rm -rf results report/paper.pdf report.html report.zip .snakemake
