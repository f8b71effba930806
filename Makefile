PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: venv lint test test-quick coverage hostile interruption numerics counts demo demo-baselines demo-long bench bench-full clean

venv: $(INSTALLED)

# Redone when the dependencies change; touched last, so that a broken install is not taken for one.
$(INSTALLED): setup.py constraints.txt
	$(PYTHON) -m venv .venv
	@echo "Installing the plugin, fairseq and PyTorch in .venv: a few minutes the first time."
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[bench,demo,test]'
	touch $@

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

# Operations, layers and data: what most changes break first, in under 90 seconds.
test-quick: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 tests/ops tests/modules tests/data tests/optim

coverage: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --cov=fairseq_mega --cov-report=term-missing:skip-covered

# Lines of code, and how many of them know of decoding.
counts:
	$(PYTHON) tests/counts.py

# Hostile files in all that loads one, fairseq's whole commands included: minutes.
hostile: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python tests/hostile/judge.py

# Trainings, preparations and the demo, killed at random moments and started again: an hour.
interruption: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python tests/interruption/training.py --mount
	OMP_NUM_THREADS=1 $(BIN)/python tests/interruption/preparation.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/interruption/preparation.py --what demo

# What takes too long for the tests: sequences of a million positions, eight threads for a minute.
numerics: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m long -s
	OMP_NUM_THREADS=1 $(BIN)/python tests/load.py

demo: $(INSTALLED)
	$(BIN)/python examples/quickstart/demo.py

demo-baselines: $(INSTALLED)
	$(BIN)/python examples/quickstart/demo.py --baselines

# Long sequences: Mega, Mega-chunk and a Transformer.
demo-long: $(INSTALLED)
	$(BIN)/python examples/classification/demo.py

bench: $(INSTALLED)
	$(BIN)/python examples/benchmark/benchmark.py

bench-full: $(INSTALLED)
	$(BIN)/python examples/benchmark/benchmark.py --full

clean:
	rm -rf .venv demo build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage
	find . -name __pycache__ -prune -exec rm -rf {} +
