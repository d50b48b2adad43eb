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

# What the console's tests take from npm: axe-core, and a real OpenID provider.
NPM := tests/control/console/npm
$(NPM)/node_modules/.installed: $(NPM)/package-lock.json
	@command -v npm > /dev/null || \
		{ echo "npm is missing: the console's tests need it (apt-get install nodejs npm)"; exit 1; }
	cd $(NPM) && npm ci --no-fund --no-audit --loglevel=error
	@touch $@

test: lint $(NPM)/node_modules/.installed
	$(BIN)/python -m pytest -n 3 --dist worksteal

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
		--constraint constraints.txt --extra codec --extra console --all-build-deps --output-file requirements.lock pyproject.toml

sbom: $(SUPPLY)/.installed
	$(SUPPLY)/bin/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml \
		--output-reproducible --output-format JSON --output-file sbom.json

# Asks a vulnerability service: needs the network.
audit: $(SUPPLY)/.installed
	$(SUPPLY)/bin/pip-audit --require-hashes --disable-pip --requirement requirements.lock

clean:
	rm -rf $(VENV) $(SUPPLY) $(NPM)/node_modules .mypy_cache .pytest_cache .ruff_cache *.egg-info
