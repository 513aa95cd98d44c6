PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# An editable install: the sources here are what runs. The lock file holds the versions that were tested together.
$(VENV)/installed: requirements.txt requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable ".[test]"
	touch $@

.PHONY: train test lint
train: $(VENV)/installed
	$(BIN)/python -m dcgan_jax.train --workdir runs/

test: $(VENV)/installed
	$(BIN)/python -m pytest --quiet --numprocesses 2 --dist loadfile

lint: $(VENV)/installed
	$(BIN)/ruff check .
