PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# An editable install: changes to the sources take effect at once. requirements.lock pins the versions that were tested together.
$(VENV)/installed: requirements.txt requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable ".[test]"
	touch $@

.PHONY: install hooks train lint types docs test test-slow test-fast test-optimised test-web test-dist
install: $(VENV)/installed

# Installs a git hook that checks style and types before each commit.
hooks: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock pre-commit
	$(BIN)/pre-commit install

train: $(VENV)/installed
	$(BIN)/python -m dcgan_jax.train --workdir runs/

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

$(VENV)/docs-installed: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable ".[docs]"
	touch $@

# Builds the documentation in build/site, without network after the first time. The variable hides an advertisement only.
docs: $(VENV)/docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# worksteal: an idle worker takes over half of the other worker's remaining tests.
PYTEST := $(BIN)/python -m pytest --quiet --numprocesses 2 --dist worksteal

test: $(VENV)/installed
	$(PYTEST) -m "not slow"

# The tests that `test` leaves out to save time. A faster test checks most of what each of them checks.
test-slow: $(VENV)/installed
	$(PYTEST) -m slow

# Skips the integration tests: whole runs, killed processes, full disks, and programs that compile slowly.
test-fast: $(VENV)/installed
	$(PYTEST) -m "not integration and not tensorflow and not slow"

# Runs the fast tests without the `assert` statements of the package (python -O).
test-optimised: $(VENV)/installed
	$(BIN)/python -O -m pytest --quiet -m "not integration and not tensorflow and not slow"

# Tests the HTML pages in Chromium. Without Chromium it prints what is missing.
test-web: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable ".[test-web]"
	PYTHONPATH=. $(BIN)/python tests/browser.py
	$(BIN)/python -m pytest --quiet -m web

# Builds the sdist and the wheel, and tests each outside the checkout.
test-dist: $(VENV)/installed
	PYTHON=$(BIN)/python sh tests/dist.sh
