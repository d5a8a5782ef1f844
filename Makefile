# From a fresh machine: `make study`, `make report` and `make test`. Each makes the environment first.

PYTHON ?= python3
ENVIRONMENT := .venv
BIN := $(ENVIRONMENT)/bin
READY := $(ENVIRONMENT)/ready

STUDY ?= digits
CONFIG ?= config.yaml

.PHONY: study report test test-cluster lint format help

help:
	@echo "make study   run the default study to its last figure, in artifacts/digits"
	@echo "make report  run it and put its figures, captions and run times into artifacts/digits/report.html"
	@echo "make test    run the tests"
	@echo "make test-cluster  run the tests that start a SLURM here (root; Debian's slurm-wlm); ONLY=... some of them"
	@echo "make lint    check format and style"
	@echo "make format  put everything into the house format"

study: $(READY)
	$(BIN)/snakemake

# Of another study: make report STUDY=quick CONFIG=studies/quick.yaml
report: $(READY)
	$(BIN)/snakemake --configfile $(CONFIG)
	$(BIN)/snakemake --configfile $(CONFIG) --report artifacts/$(STUDY)/report.html

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-cluster: $(READY)
	$(BIN)/pytest tests/cluster $(if $(ONLY),-k "$(ONLY)")

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/snakemake --lint

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/snakefmt Snakefile workflow/rules

# The library is installed as a link to this checkout, so an edit is seen at once.
$(READY): envs/lock.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and \
	  "Python 3.11 is needed, this is %d.%d: make PYTHON=..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(ENVIRONMENT)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement envs/lock.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@
