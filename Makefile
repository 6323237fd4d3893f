# The handful of things one does here. `make demo` and `make test` set up what they need.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
EXTRA  := $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
READY  := $(VENV)/.ready-$(EXTRA)
UV     := uv==0.13.8

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-faults test-faults-slow test-cluster lint bench constraints clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 18

setup: $(READY)  ## .venv with everything (CPU or GPU build of vLLM by what the machine has)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
	  { echo "ravst_ray needs Python 3.11 or 3.12, '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Try: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the $(EXTRA) build into $(VENV) (about 7 GB) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(UV)'
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[$(EXTRA),dev]'
	@touch $@

demo: $(READY)  ## annotate a toy world, train on it, evaluate; ends with the paths of the reports
	@$(BIN)/python jobs/demo.py

test: lint  ## every test that needs no GPU and kills no process
	$(BIN)/python -m pytest -m "not gpu and not faults and not cluster" -n 2

test-faults: $(READY)  ## tests that kill processes and nodes on purpose
	$(BIN)/python -m pytest -m "faults and not slow and not gpu"

test-faults-slow: $(READY)  ## those of them that take minutes each
	$(BIN)/python -m pytest -m "faults and slow and not gpu"

test-cluster: $(READY)  ## submitted jobs, and nodes that come and go, on real clusters
	$(BIN)/python -m pytest -m "cluster and not faults and not gpu"

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)  ## measure speed and memory; prints tables, asserts nothing
	@for script in tests/benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python -m $$(echo $${script%.py} | tr / .) || exit 1; done

constraints: $(READY)  ## renew constraints.txt from pyproject.toml
	@$(BIN)/python tests/renew_constraints.py $(BIN)/uv

clean:  ## remove .venv and what runs left behind
	rm -rf $(VENV) out .pytest_cache .mypy_cache .ruff_cache
