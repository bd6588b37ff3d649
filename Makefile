# One command a chore. Every target sets up .venv by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# More threads than one are slower for nets this small, and thread count changes bits.
export OMP_NUM_THREADS ?= 1

.PHONY: install demo test lint format bench load clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m benchmarks.demo --data $(or $(DATA),digits)

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	$(BIN)/python -m benchmarks.loop
	$(BIN)/python -m benchmarks.replay
	$(BIN)/python -m benchmarks.door
	$(BIN)/python -m benchmarks.render

load: $(STAMP)
	$(BIN)/python -m benchmarks.load --seconds $(or $(SECONDS),60)
	$(BIN)/python -m benchmarks.render

clean:
	rm -rf $(VENV) .demo .demo-cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
