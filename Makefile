# `make run` and `make test` are all that a newcomer needs; everything else is `python -m orchestrator.<command> --help`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# PyTorch's default wheels for Linux bring CUDA. On a machine without a GPU, PyTorch's CPU wheel index saves gigabytes:
#   make run PIP_ARGS="--extra-index-url <the CPU index named on pytorch.org>"
PIP_ARGS ?=
ARGS ?=

.PHONY: run test lint chaos clean

run: $(VENV)/.installed
	$(BIN)/python -m orchestrator.run_all $(ARGS)

test: lint
	$(BIN)/python -m pytest

# Kills on a cluster of three nodes on this machine, 15 minutes; as root, three hosts and all 45 trainings, half an hour:
#   make chaos ARGS="--hosts namespaces --matrix"
chaos: $(VENV)/.installed
	$(BIN)/python -m bench.chaos $(ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
