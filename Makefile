# Two commands set everything up: `make demo` and `make test`. Everything goes into .venv here.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Each stamp says that .venv holds what this pyproject.toml asks for: re-runs skip pip.
CORE := $(VENV)/.installed-core
TEST := $(VENV)/.installed-test
DEV := $(VENV)/.installed-dev
# Twice quiet: errors only.
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check
# Tests compile much and run little, so a second process helps even on two cores.
# worksteal: the longest tests come last, and one process would end with all of them.
PYTEST_FLAGS ?= -n auto --maxprocesses=4 --dist worksteal

# Hundreds of processes import the package in the tests: its bytecode is kept, in this checkout.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-heavy test-all mutants lint benchmark reproduce clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/'

demo: $(CORE)  ## Install into .venv, then answer a question by six decoding rules
	@$(BIN)/python -m experiments.demo

test: $(TEST)  ## Install the test tools as well, then run the tests
	@$(BIN)/python -m pytest -q $(PYTEST_FLAGS) -m "not heavy"

test-fast: $(TEST)  ## The tests to run after each edit
	@$(BIN)/python -m pytest -q $(PYTEST_FLAGS) -m "not slow and not heavy"

test-heavy: $(TEST)  ## What `make test` leaves out: whole large plans, killed hosts, the oracle
	@$(BIN)/python -m pytest -q $(PYTEST_FLAGS) -m heavy

test-all: test test-heavy  ## All tests

mutants: $(TEST)  ## Plant small faults in the decoding rules, and see that the fast tests notice
	@$(BIN)/python tests/mutation $(MUTANTS)

lint: $(DEV)  ## Check style, imports between rooms, and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/pyright --pythonpath $(BIN)/python

benchmark: $(CORE)  ## Print the table of speeds and qualities (some minutes on two cores)
	@$(BIN)/python -m experiments.benchmark

reproduce: $(CORE)  ## The paper's tables in miniature (4 to 8 minutes on two cores)
	@$(BIN)/python -m experiments.reproduce --output=runs/reproduce

clean:  ## Remove .venv and the tests' compiled programs
	rm -rf $(VENV) .cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is older than 3.11: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; \
	  exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(CORE): pyproject.toml | $(BIN)/python
	@echo "installing mtad-jax into $(VENV) ..."
	@$(PIP_INSTALL) --editable .
	@touch $@

# torch first and alone, at the pinned version: resolved together with the rest, pip may try
# several builds of it, gigabytes each.
$(TEST): $(CORE)
	@echo "installing the test tools into $(VENV) ..."
	@$(PIP_INSTALL) "$$(sed -nE 's/^ *"(torch==[^"]+)",?$$/\1/p' pyproject.toml)"
	@$(PIP_INSTALL) --editable '.[test]'
	@touch $@

$(DEV): $(TEST)
	@$(PIP_INSTALL) --editable '.[test,dev]'
	@touch $@
