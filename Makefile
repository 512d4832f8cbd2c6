# `make demo` and `make test` do everything on a fresh machine, each in its own .venv here.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint benchmark clean

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	@for command in "vcsf prepare synthetic" "vcsf pretrain recipes/demo.yaml" "vcsf retrieve --k 1,5,10 --baselines"; do \
		echo "\$$ $$command"; $(BIN)/$$command || exit $$?; \
	done

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest

benchmark: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only -s

clean:
	rm -rf $(VENV) data runs
