# `make demo` and `make test` do everything on a fresh machine, each in its own .venv here.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint docs benchmark gpu clean

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

# Each core runs files of its own, so that what the tests of a file share is made once, and a network
# in a test needs no more than one core. The order keeps long files from being the last.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

# The pages of docs/ as a site, in build/site; pages made from the code are made anew.
docs: $(VENV)/.installed-dev
	$(BIN)/python docs/site/reference.py
	$(BIN)/mkdocs build --strict --quiet --config-file docs/site/mkdocs.yml

benchmark: $(VENV)/.installed-dev
	$(BIN)/pip install --quiet --editable '.[benchmark]'
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only -s

# Needs only Python with vcsf's dependencies: that of .venv, if there is one. gpu.md says what was found.
gpu:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) tests/benchmarks/gpu.py

clean:
	rm -rf $(VENV) data runs
