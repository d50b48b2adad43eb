# Everything works from a fresh clone: each target sets up what it needs.
.PHONY: setup test demo demo-script bench lint chaos histories lock sbom audit clean

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

# What the image is built of, with hashes; once more after a change of dependencies.
SUPPLY := .venv-supply-chain
$(SUPPLY)/.installed: constraints.txt
	test -x $(SUPPLY)/bin/python || $(PYTHON) -m venv $(SUPPLY)
	$(SUPPLY)/bin/python -m pip install --quiet --constraint constraints.txt pip-tools cyclonedx-bom pip-audit
	@touch $@

lock: $(SUPPLY)/.installed
	$(SUPPLY)/bin/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-header --no-annotate \
		--no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
		--constraint constraints.txt --extra codec --all-build-deps --output-file requirements.lock pyproject.toml

sbom: $(SUPPLY)/.installed
	$(SUPPLY)/bin/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml \
		--output-reproducible --output-format JSON --output-file sbom.json

# Asks a vulnerability service: needs the network.
audit: $(SUPPLY)/.installed
	$(SUPPLY)/bin/pip-audit --require-hashes --disable-pip --requirement requirements.lock

clean:
	rm -rf $(VENV) $(SUPPLY) .mypy_cache .pytest_cache .ruff_cache *.egg-info
