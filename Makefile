# The public commands. Each sets up what it needs, or uses what is there.
.PHONY: help paper archive check test test-faults lint bench docs rulegraph verify-archive clean setup

SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)
CONFIG ?=
# Single settings: variables of the command line with a dot, as training.steps=50, and study.
SETTINGS := $(strip $(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $v))),$\
	$(if $(or $(findstring .,$v),$(filter study,$v)),$v=$($v);))))
SNAKEMAKE = snakemake --rerun-incomplete --quiet rules host reason \
	$(if $(CONFIG),--configfile $(CONFIG)) $(if $(SETTINGS),--config overrides="$(SETTINGS)") $(ARGS)
# Two processes. A module's tests stay in one: they share fixtures.
PARALLEL = pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=12
ONE_CORE = OMP_NUM_THREADS=1 $(PARALLEL)

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 10
	@echo
	@echo 'CONFIG="a.yaml b.yaml"  overlays on config.yaml    ARGS="..."  further arguments'
	@echo 'study=short training.steps=50    single settings of the study'
	@echo 'TORCH="..."             another build of torch, as arguments of pip'

paper: setup  ## a study's paper -> report/paper.pdf (CONFIG=config/smoke.yaml: two minutes)
	@python -m shallower.study.overlays $(CONFIG)
	@$(SNAKEMAKE)

archive: setup  ## a study's code, tables and paper as one file (CONFIG=... as for paper)
	@$(SNAKEMAKE) -- archive

check: lint  ## lint and the fast tests, within three minutes
	$(ONE_CORE) -q -m "not smoke and not slurm and not gpu and not slow and not faults" $(ARGS)

test: setup  ## all tests; those of the pipeline and of SLURM by themselves
	@envs/slurm/one_node.sh install
	@envs/browser.sh
	@pip install --quiet --disable-pip-version-check --no-deps -r envs/lm-eval.lock \
	  -r envs/docs.lock
	$(ONE_CORE) -m "not smoke and not slurm and not faults" $(ARGS); rest=$$?; \
	$(PARALLEL) -m "(smoke or slurm) and not faults" $(ARGS) && exit $$rest

test-faults: setup  ## kills, damages, full disks, ... for forty minutes; counts into docs
	@rm -f .snakemake/faults && mkdir -p .snakemake
	FAULTS_COUNTS=$(CURDIR)/.snakemake/faults pytest tests/faults $(ARGS)
	@PYTHONPATH=workflow python tests/counting.py .snakemake/faults docs/reliability.md

lint: setup  ## ruff, mypy, snakefmt, snakemake --lint
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow
	snakemake --lint

bench: setup  ## our speed against others', half an hour; writes benchmarks/
	@pip install --quiet --disable-pip-version-check --no-deps -r envs/bench.lock \
	  || echo "without llama.cpp, whose rows are left out"
	python -m benchmarks $(ARGS)

docs: setup  ## the documentation as a site -> site/
	@pip install --quiet --disable-pip-version-check --no-deps -r envs/docs.lock
	@python docs/site/build.py site
	@echo "site/index.html; to search it too: python -m http.server -d site"

rulegraph: setup  ## draw the picture in docs/architecture.md again, from the rules
	@PYTHONHASHSEED=0 snakemake --rulegraph mermaid-js 2>/dev/null \
	| sed -n '/^flowchart/,$${/style/!p}' > .snakemake/rulegraph
	@sed -i -e '/^```mermaid$$/,/^```$$/{/^```/!d}' \
	  -e '/^```mermaid$$/r .snakemake/rulegraph' docs/architecture.md

setup:  ## .venv and Debian packages; ends at once if everything is there
	@TORCH="$(TORCH)" envs/setup.sh

verify-archive: setup  ## the paper of an archive again, without training (ARCHIVE=file.tar.gz)
	@shallower verify-archive $(or $(ARCHIVE),.)

clean:  ## delete everything computed; the environment stays
	rm -rf results report/paper.pdf .snakemake
