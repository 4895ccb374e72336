# Set-up and the two main commands. VENV and PYTHON can be given: make test VENV=/tmp/kinet PYTHON=python3.12
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin

.PHONY: demo test lint setup clean

demo: setup
	rm -rf demo
	$(BIN)/kinet demo --out demo

test: setup lint
	$(BIN)/pytest -n auto --dist loadfile

lint: setup
	$(BIN)/ruff check src tests studies benchmarks
	$(BIN)/ruff format --check src tests studies benchmarks
	$(BIN)/mypy

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) demo runs build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
