PYTHON ?= python3
# An environment for each Python: .venv for python3, .venv-python3.13 for python3.13.
VENV ?= .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
# With triton, the tests also run the kernels of the EMA, by its interpreter: a gigabyte more.
EXTRAS ?= demo,test
# Tests that take the device from --device.
ON_DEVICES := tests/ops tests/modules tests/models tests/optim tests/test_commands.py
# The extras whose packages are installed by hash, and the machine that .ci/requirements.txt is for.
HASHED := classification demo images inspect test translation
HASHED_MACHINE := 3.11 Linux x86_64
MACHINE := import platform as p; print(p.python_version().rpartition(".")[0], p.system(), p.machine())

.PHONY: venv lint test test-quick coverage properties interruption numerics dependencies demo demo-baselines demo-long bench bench-full clean

venv: $(INSTALLED)

# Redone when the dependencies change; touched last, so that a broken install is not taken for one.
# torch has no hash, see docs/dependencies.md: it comes with the plugin itself, last.
# Where fairseq has no wheel, it is compiled with the torch that is installed first; -O0, for the
# extensions that include torch's headers (fairseq optimises the others), takes minutes off.
$(INSTALLED): setup.py constraints.txt .ci/requirements.txt
	$(PYTHON) -m venv $(VENV)
	@echo "Installing the plugin, fairseq and PyTorch in $(VENV): a few minutes the first time."
	if [ "$$($(BIN)/python -c '$(MACHINE)')" = "$(HASHED_MACHINE)" ]; then \
	    $(BIN)/pip install --disable-pip-version-check --require-hashes --no-deps -r .ci/requirements.txt; fi
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt cython numpy setuptools torch
	CFLAGS=-O0 $(BIN)/pip install --disable-pip-version-check --no-build-isolation \
	    -c constraints.txt -e '.[$(EXTRAS)]'
	$(BIN)/pip uninstall --quiet --yes torchaudio # see docs/dependencies.md
	touch $@

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# DEVICE=cuda: what can run there, on a GPU: operations, layers, models, commands, Triton kernels.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest $(if $(filter-out cpu,$(DEVICE)),-n 4 --device $(DEVICE) $(ON_DEVICES),-n 2)

# Operations, layers and data: what most changes break first, in under 90 seconds.
test-quick: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 tests/ops tests/modules tests/data tests/optim

coverage: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --cov=fairseq_mega --cov-report=term-missing:skip-covered

# Thousands of random sets of options: four minutes.
properties: $(INSTALLED)
	OMP_NUM_THREADS=1 PROPERTY_CASES=280 $(BIN)/pytest -n 2 tests/properties

# Hashes of the versions in constraints.txt, for HASHED_MACHINE: minutes.
dependencies: $(INSTALLED)
	$(PYTHON) -m venv build/pip-tools
	build/pip-tools/bin/pip install --disable-pip-version-check pip-tools==7.6.2
	build/pip-tools/bin/pip-compile --quiet --generate-hashes --strip-extras \
	    $(HASHED:%=--extra=%) \
	    --constraint constraints.txt --unsafe-package torch --no-header --no-annotate \
	    --no-emit-index-url --no-emit-find-links --output-file .ci/requirements.txt setup.py

# Trainings, killed at random moments and resumed: half an hour.
interruption: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python tests/interruption.py

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
	$(BIN)/python examples/benchmark/benchmark.py $(if $(DEVICE),--device $(DEVICE))

bench-full: $(INSTALLED)
	$(BIN)/python examples/benchmark/benchmark.py --full $(if $(DEVICE),--device $(DEVICE))

clean:
	rm -rf .venv* demo build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage
	find . -name __pycache__ -prune -exec rm -rf {} +
