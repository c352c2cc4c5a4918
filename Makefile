# `make demo` and `make test` need Python 3.11 or newer, pip and a package registry; the rest is installed into .venv.
.NOTPARALLEL:
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
PACKAGES := flows tasks integrations saa_core
BROWSERS := chromium chromium-browser google-chrome google-chrome-stable

# An install is good for as long as what it was made from is the same: these two files, in this folder.
# The stamps of another state go before an install starts, so an interrupted one is never taken for a finished one.
STAMP := .venv/.installed-$(shell { cat pyproject.toml constraints.txt; pwd; } | cksum | cut -d ' ' -f 1)
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable

# Python compiles what it imports, once. Where an image's PYTHONDONTWRITEBYTECODE forbids to keep that, each of the
# hundred processes that the tests start compiles Prefect and FiftyOne again, for ten seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test slow setup check browser clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1	\2/p' Makefile

demo: $(STAMP)-base ## the whole loop on a made product, about a minute after the first install
	$(BIN)/saa demo

test: check browser ## check, then the tests with their coverage limits; about 25 minutes
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m 'not slow' --cov --cov-report=
	$(BIN)/python -m coverage report --include='saa_core/*' --fail-under=95
	$(BIN)/python -m coverage report --omit='saa_core/*' --fail-under=85

check: $(STAMP)-test ## lint, types and import directions
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

# Tests drive Label Studio's editor in a browser; root on Debian gets one, others are told.
browser:
	@for name in $(BROWSERS); do ! command -v $$name >/dev/null || exit 0; done; \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing Chromium (once) ..."; \
	    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y chromium >/dev/null && exit 0; \
	  fi; \
	  echo "No browser found: the tests that need one will be skipped; install Chromium to run them." >&2

slow: $(STAMP)-test browser ## the tests that take long: the demo, servers that are installed, started and killed
	$(BIN)/python -m pytest -m slow

setup: $(STAMP)-test ## install everything for development, all extras

clean: ## remove .venv, caches and what the demo wrote
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage htmlcov build dist saa-demo
	find $(PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, and '$(PYTHON)' is not one: try 'make PYTHON=python3.11 ...'" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv

$(STAMP)-base: | $(BIN)/python
	@echo "Installing into .venv (once; minutes, not seconds) ..."
	@rm -f .venv/.installed-*
	$(INSTALL) .
	@touch $@

$(STAMP)-test: | $(BIN)/python
	@echo "Installing into .venv with all extras (once; about 7 GB, minutes) ..."
	@rm -f .venv/.installed-*
	$(INSTALL) '.[foundation,openvino,dask,postgresql,s3,test]'
	@touch $(STAMP)-base $@
