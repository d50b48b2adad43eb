# Everything works from a fresh clone: each target sets up what it needs.
.PHONY: setup test demo demo-script bench lint chaos histories clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "crm-export needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,test,bench]'
	@touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest

# One seed, or several: make chaos SEEDS=20, make chaos SEED=7. What a seed found wrong is kept in .chaos/.
chaos: setup
	$(BIN)/python -m tests.chaos --keep .chaos $(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS))

# After a change of a workflow that no running export is broken by: records what replay tests replay.
histories: setup
	$(BIN)/python -m pytest -q tests/workflows/record_histories.py

demo: setup
	$(BIN)/crm-export demo

demo-script: setup
	$(BIN)/crm-export demo --script

bench: setup
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache *.egg-info
