# The two commands of the README, each with its own set-up: `make demo`, `make test`.
# PYTHON=/path/to/python overrides the interpreter, VENV=folder the environment.

SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin

# The newest Python >= 3.11 that really runs and can make a virtual environment: a
# version manager may leave names on the PATH that do not.
ifndef PYTHON
PYTHON := $(shell for p in python3.14 python3.13 python3.12 python3.11 python3 python; do \
	if $$p -c 'import ensurepip, ssl, sys, venv; sys.exit(sys.version_info < (3, 11))' \
	>/dev/null 2>&1; then echo $$p; break; fi; done)
endif

.PHONY: demo test notebooks torch parity docs lint format clean

demo: $(VENV)/.ready
	$(BIN)/flax-heads demo --output demo_output

# Files side by side, each in one process: their fixtures are made once. Not those with
# the fewest tests last, which take the longest.
test: $(VENV)/.ready
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile \
		--no-loadscope-reorder $(PYTEST_ARGS)

notebooks: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --editable '.[notebooks]'
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks

# The tests that compare with PyTorch. On Linux its package brings CUDA along; to spare
# that, install a CPU build into $(VENV) first.
torch: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --editable '.[torch]'

parity: torch
	$(BIN)/python -m pytest $(PYTEST_ARGS) tests/test_torch_parity.py \
		tests/test_torch_fine_tuning.py \
		tests/test_torch_weights.py tests/test_perceptual.py tests/test_inception.py \
		tests/test_lpips.py tests/test_weight_files.py

# The documentation: build/docs/index.html. A warning is an error.
docs: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/python -m sphinx -q -E -W --keep-going -b html docs build/docs

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Everything that demo, tests and lint need, installed once and again when setup.cfg changes.
$(VENV)/.ready: setup.cfg pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "No Python >= 3.11 found; install one or say: make PYTHON=/path/to/python" >&2; \
		exit 1; fi
	@echo "Setting up $(VENV) with $$($(PYTHON) --version); about 3 GB, a few minutes ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "Installing jax, flax, TensorFlow, dlib, PyAV and the tools ..."
	$(BIN)/python -m pip install --quiet --editable '.[data,demo,eval,dev]'
	@touch $@

clean:
	rm -rf $(VENV) demo_output build/docs
