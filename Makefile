# The commands of the project; `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.locked
FAST := not journey and not browser and not real

.DEFAULT_GOAL := help
.PHONY: help setup run demo test check bench chaos lock clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(STAMP) ## make .venv with the locked dependencies

$(STAMP): requirements-test.lock setup.cfg
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Limner needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the locked dependencies into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-test.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

run: setup ## migrate and start everything on http://127.0.0.1:8080, no server needed
	@$(BIN)/python run.py migrate
	@exec $(BIN)/python run.py serve

demo: setup ## the main job once, end to end, in a throw-away folder
	@exec $(BIN)/python run.py demo

test: setup ## every test; fetches what they need, see tools/test.sh
	@tools/test.sh

check: setup ## format, lint, types, import contracts, then the fast tests: before each commit
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest -q -n auto -m "$(FAST)"

bench: setup ## measure, each figure as a ratio against a ceiling in the same run
	@$(BIN)/python -m benchmarks

chaos: setup ## kill processes and engines under load, SEED=n for one seed, SEEDS=n for so many
	@$(BIN)/python -m tests.journeys.chaos $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),1))

lock: ## write the lock files anew from setup.cfg (needs uv)
	uv pip compile setup.cfg --universal --python-version 3.11 --generate-hashes --no-header --upgrade -q -o requirements.lock
	uv pip compile setup.cfg --extra test --universal --python-version 3.11 --generate-hashes --no-header --upgrade -q -o requirements-test.lock

clean: ## remove the virtual environment and caches, never the data in var/
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info build
