# `make demo` trains, forgets and reports on scikit-learn's digits; `make benchmark` compares all methods there;
# `make test` runs the tests but the slow ones, `make test-all` runs all, `make test-torch` those that need PyTorch
# ONNX or Flower, in an environment of their own. `make test-wheel` builds the wheel, and checks it in an environment
# that has nothing else. `make lint` runs ruff, and mypy on the public functions (`make types`). `make docs` builds the
# documentation site, and `make docs-links` checks the addresses of other sites on it. All install first.

PYTHON ?= python3
VENV ?= .venv
TORCH_VENV ?= .venv-torch
DOCS_VENV ?= .venv-docs
WHEEL_VENV ?= .venv-wheel
BIN := $(VENV)/bin
RUNS ?= runs/demo
FORGET ?= 3
WORKERS ?= 2
PYTEST = python -m pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder

.PHONY: demo benchmark test test-all test-torch test-wheel docs docs-links lint types clean

$(BIN)/.installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .[test]
	touch $@

demo: $(BIN)/.installed
	$(BIN)/python -m experiments.train --config=configs/digits.py --workdir=$(RUNS)/model
	$(BIN)/python -m experiments.train --config=configs/digits.py --workdir=$(RUNS)/retrained --config.data.exclude=$(FORGET)
	$(BIN)/python -m experiments.unlearn --workdir=$(RUNS)/model --forget=$(FORGET) --method=osp-fit --out=$(RUNS)/unlearned --overwrite
	$(BIN)/python -m experiments.eval --workdir=$(RUNS)/unlearned --reference=$(RUNS)/retrained
	@echo "open $(RUNS)/unlearned/report.html"

benchmark: $(BIN)/.installed
	$(BIN)/python -m experiments.benchmark --config=configs/benchmark/digits.py --workdir=runs/benchmark/digits
	@echo "open runs/benchmark/digits/report.html"

test: $(BIN)/.installed
	$(BIN)/$(PYTEST) -m "not slow"

test-all: $(BIN)/.installed
	XLA_FLAGS= $(BIN)/$(PYTEST)

$(TORCH_VENV)/bin/.installed: setup.py constraints.txt
	$(PYTHON) -m venv $(TORCH_VENV)
	$(TORCH_VENV)/bin/pip install --quiet --constraint constraints.txt --editable .[test,torch,onnx,flower]
	touch $@

test-torch: $(TORCH_VENV)/bin/.installed
	$(TORCH_VENV)/bin/$(PYTEST) -m "torch or flower"

test-wheel: $(BIN)/.installed
	rm -rf build/lib build/wheel $(WHEEL_VENV)
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir build/wheel .
	$(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_VENV)/bin/pip install --quiet --constraint constraints.txt build/wheel/*.whl
	$(WHEEL_VENV)/bin/python -P -W error -c "import osp_jax"
	$(WHEEL_VENV)/bin/python -P -c "import sys; sys.path.append('.'); from tests.installed import main; main()"
	$(WHEEL_VENV)/bin/osp-jax --help > /dev/null

$(DOCS_VENV)/bin/.installed: setup.py constraints.txt
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/pip install --quiet --constraint constraints.txt --editable .[docs]
	touch $@

docs: $(DOCS_VENV)/bin/.installed
	$(DOCS_VENV)/bin/sphinx-build --fail-on-warning --keep-going --nitpicky --quiet docs build/docs
	@echo "open build/docs/index.html"

docs-links: docs
	$(DOCS_VENV)/bin/sphinx-build --builder linkcheck --quiet docs build/links

lint: $(BIN)/.installed types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(BIN)/.installed
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(TORCH_VENV) $(DOCS_VENV) $(WHEEL_VENV) runs .cache build docs/generated *.egg-info
