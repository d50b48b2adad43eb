# Everything works from a fresh clone: each target sets up what it needs.
.PHONY: setup test demo demo-script bench lint clean

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
	$(BIN)/python -m pytest

demo: setup
	$(BIN)/crm-export demo

demo-script: setup
	$(BIN)/crm-export demo --script

bench: setup
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) $(NPM)/node_modules .mypy_cache .pytest_cache .ruff_cache *.egg-info
