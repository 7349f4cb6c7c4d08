PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

# torch goes in first and by itself: every other package then finds its range already satisfied.
$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

install: $(BIN)/.installed  ## everything into .venv

quickstart: install  ## simulated sensor recordings -> stores -> study -> HTML report
	$(BIN)/taskloom simulate opportunity runs/quickstart/opportunity --preset quickstart --if-missing
	$(BIN)/taskloom study recipes/quickstart.yaml --data runs/quickstart/opportunity --out runs/quickstart/study --jobs 2

test: install  ## the tests, warnings as errors
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: install  ## ruff (lint, format) and the type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install  ## every benchmark; each prints one JSON object of ratios last
	@for script in benchmarks/*.py; do case $$script in */_*) ;; *) echo "== $$script"; $(BIN)/python $$script || exit 1;; esac; done

clean:  ## the environment and what the quickstart wrote
	rm -rf $(VENV) runs/quickstart

.PHONY: help install quickstart test lint bench clean
