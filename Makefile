# `make run` and `make test` are all that a newcomer needs; everything else is `orchestrator COMMAND --help`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# PyTorch's default wheels for Linux bring CUDA. On a machine without a GPU, PyTorch's CPU wheel index saves gigabytes:
#   make run PIP_ARGS="--extra-index-url <the CPU index named on pytorch.org>"
PIP_ARGS ?=
# Tests run in as many processes, each with up to 3 GiB.
PROCESSES ?= 2
ARGS ?=

.PHONY: run test test-long test-clusters slurm-chaos lint chaos clean

run: $(VENV)/.installed
	$(BIN)/python -m orchestrator.run_all $(ARGS)

test: lint
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder -m "not long" $(ARGS)

# What takes a minute or more each: runs that are killed, hosts that are lost, a wheel elsewhere. A quarter of an hour.
test-long: $(VENV)/.installed
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder -m long $(ARGS)

# Kills on a cluster of three nodes on this machine, 15 minutes; as root, three hosts and all 45 trainings, half an hour:
#   make chaos ARGS="--hosts namespaces --matrix"
chaos: $(VENV)/.installed
	$(BIN)/python -m bench.chaos $(ARGS)

# As root: what takes daemons, hosts in network namespaces and other users, half an hour and more. With Debian's
# slurmctld slurmd slurm-client openssh-server rsync iproute2 util-linux; what is missing is skipped and named.
test-clusters: $(VENV)/.installed
	@test "$$(id -u)" = 0 || { echo "test-clusters: expected root: slurmd, sshd and network namespaces take it"; exit 2; }
	$(BIN)/python -m pytest -rs tests/hosts/test_slurm_daemons.py tests/hosts/test_slurm.py tests/hosts/test_ssh.py \
	  tests/hosts/test_aws_end_to_end.py tests/hosts/test_kubernetes.py tests/cluster/test_cluster_mistakes.py tests/cluster/test_growing_cluster.py $(ARGS)

# As root, with the same Slurm: all 45 trainings as its jobs while it is hurt, then once more with everything on an S3
# that fails now and then; an hour and more.
slurm-chaos: $(VENV)/.installed
	$(BIN)/python -m bench.slurm $(ARGS)
	$(BIN)/python -m bench.slurm --bucket $(ARGS)

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
