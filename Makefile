PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# An editable install: the sources here are what runs. The lock file holds the versions that were tested together.
$(VENV)/installed: requirements.txt requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable ".[test]"
	touch $@

.PHONY: install hooks train lint types docs test test-fast test-web test-dist
install: $(VENV)/installed

# From then on git checks style and types before each commit.
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

# The site, in build/site. Once installed it needs no network. The variable silences an advertisement, not a check.
docs: $(VENV)/docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# worksteal: a worker that is done takes over half of what the other has left, so that both end together.
PYTEST := $(BIN)/python -m pytest --quiet --numprocesses 2 --dist worksteal

test: $(VENV)/installed
	$(PYTEST)

# Without whole runs, kills, full disks and the slowest programs.
test-fast: $(VENV)/installed
	$(PYTEST) -m "not integration"

# The pages in a real browser; says what is missing where there is none.
test-web: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable ".[test-web]"
	PYTHONPATH=. $(BIN)/python tests/browser.py
	$(BIN)/python -m pytest --quiet -m web

# The sdist and the wheel, installed where there is no checkout.
test-dist: $(VENV)/installed
	PYTHON=$(BIN)/python sh tests/dist.sh
