# One command a chore. Every target sets up .venv by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROCESSES ?= 2
# More threads than one are slower for nets this small, and thread count changes bits.
export OMP_NUM_THREADS ?= 1

.PHONY: install demo test lint format bench bench-stitch bench-gradient bench-generation load chaos trials clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m benchmarks.demo --data $(or $(DATA),digits)

# Each process has servers and folders of its own; tests that share something costly run in the same one.
test: $(STAMP)
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadgroup

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
	$(BIN)/python -m benchmarks.certified
	$(BIN)/python -m benchmarks.statistics
	$(BIN)/python -m benchmarks.door
	$(BIN)/python -m benchmarks.render

# Hours on two cores; PARTS="headline sisa" runs some of it.
bench-stitch: $(STAMP)
	$(BIN)/python -m benchmarks.stitch $(PARTS)
	$(BIN)/python -m benchmarks.drift
	$(BIN)/python -m benchmarks.render

# Half an hour on one core; every gradient method with its defaults. PARTS=cifar wants an accelerator.
bench-gradient: $(STAMP)
	$(BIN)/python -m benchmarks.gradient $(PARTS)
	$(BIN)/python -m benchmarks.render

# A quarter of an hour on one core; NET is unet_28 or dit_28, RETRAIN=1 also trains without the class, as long again.
bench-generation: $(STAMP)
	$(BIN)/python -m benchmarks.generation --net $(or $(NET),unet_28) $(if $(RETRAIN),--retrain)
	$(BIN)/python -m benchmarks.render

# Kills and pauses under load, then a checker; SETUP is sqlite, postgres or both, SEED repeats a storm.
chaos: $(STAMP)
	$(BIN)/python -m benchmarks.chaos --kills $(or $(KILLS),40) --setup $(or $(SETUP),both) \
		$(if $(SEED),--seed $(SEED)) $(if $(WRITE),--write)

# The fence alone: jobs delivered many times at once, holders paused past their lease.
trials: $(STAMP)
	$(BIN)/python -m benchmarks.chaos.trials --trials $(or $(TRIALS),500) --setup $(or $(SETUP),both) \
		$(if $(SEED),--seed $(SEED)) $(if $(WRITE),--write)

load: $(STAMP)
	$(BIN)/python -m benchmarks.load --seconds $(or $(SECONDS),60)
	$(BIN)/python -m benchmarks.render

clean:
	rm -rf $(VENV) .chaos .demo .demo-cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
